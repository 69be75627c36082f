"""``flo doctor`` names what is broken at a hospital, and how to mend it; its exit code says so."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from flo.cli.doctor import _look_at
from flo.clients.home.policy import Policy
from flo.clients.home.policy_file import sign, write_toml
from flo.clients.home.site_home import SiteHome
from flo.clients.maintenance import doctor as at_a_site
from flo.clients.maintenance import doctor_devices, doctor_network
from flo.errors import EXIT_OK, EXIT_REFUSED, EXIT_USAGE
from flo.host import diagnostics
from flo.host.diagnostics import Finding
from flo.keys.claims import LedgerHead
from flo.keys.identity import Identity
from flo.server.home.coordinator_home import CoordinatorHome
from tests.builders import data_file, make_site, pretend_enrolled
from tests.clients.connection.test_proxy import FAR, HOST, NAMES, far_away
from tests.clients.data_process.test_confinement import readable_home  # noqa: F401 - a fixture
from tests.clients.proxies import INSPECTOR, proxy
from tests.commands import flo
from tests.server.real_coordinator import RealCoordinator, new_home, serving


@dataclass
class Clinic:
    """A hospital whose site is in order, on the machine's disk, and its coordinator."""

    site: SiteHome
    coordinator: RealCoordinator


def doctor(folder: Path, out: Path | None = None) -> tuple[int, dict[str, Finding], str]:
    """The exit code, what was found (the worst of each name), and what was shown."""
    written = (out or folder.parent) / "found.json"
    done = flo("doctor", folder, "--json", written)
    assert written.exists(), done.stderr
    document = json.loads(written.read_text())
    found: dict[str, Finding] = {}
    for one in document["findings"]:
        if found.get(one["subject"]) is None or one["state"] == "broken":
            found[one["subject"]] = Finding(**one)
    assert document["could_run"] == (done.returncode == EXIT_OK)
    return done.returncode, found, done.stdout + done.stderr


def until(folder: Path, found: Callable[[Finding], bool]) -> Finding:
    """The first such finding, in the command's own order; it looks no further."""
    return next(finding for finding in _look_at(folder, given=True) if found(finding))


def finding_of(site: SiteHome, what: str) -> Finding:
    return until(site.directory, lambda finding: finding.subject == what)


def edit(site: SiteHome, old: str, new: str) -> None:
    text = site.config_path.read_text()
    assert old in text
    site.config_path.write_text(text.replace(old, new))


def dials(site: SiteHome, url: str) -> None:
    document = json.loads(site.coordinator_path.read_text()) | {"url": url}
    site.coordinator_path.write_text(json.dumps(document, sort_keys=True))


# -- the command itself ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealCoordinator]:
    with serving(tmp_path_factory.mktemp("doctor") / "coordinator") as real:
        yield real


@pytest.fixture
def clinic(coordinator: RealCoordinator, on_disk: Path) -> Clinic:
    return Clinic(coordinator.enrol(on_disk / "north", "north"), coordinator)


@pytest.mark.processes
def test_a_site_in_order_is_said_to_be_ready_and_nothing_changes(clinic: Clinic) -> None:
    before = {path: path.read_bytes() for path in files(clinic.site.directory)}
    code, found, shown = doctor(clinic.site.directory)
    assert code == EXIT_OK, shown
    assert {what for what, finding in found.items() if finding.state != "ok"} == {"agent"}, shown
    assert found.keys() == {
        *("python", "libraries", "disk", "folder", "configuration", "key store", "ledger"),
        *("settings", "policy", "agent", "red button", "models", "data of main"),
        *("training", "sandbox"),
        *("certificate", "coordinator", "clock", "versions", "coordinator's key", "newest ledger"),
    }
    assert "a round can run" in shown
    assert {path: path.read_bytes() for path in files(clinic.site.directory)} == before


def files(folder: Path) -> list[Path]:
    return [p for p in folder.rglob("*") if p.is_file() and p.suffix not in (".lock",)]


@pytest.mark.processes
def test_all_that_is_broken_is_listed_with_its_mend_and_ends_in_a_refusal(clinic: Clinic) -> None:
    unsigned_policy(clinic.site)
    red_button(clinic.site)
    dials(clinic.site, "https://127.0.0.1:1")
    code, found, shown = doctor(clinic.site.directory)
    assert code == EXIT_REFUSED
    broken = {what for what, finding in found.items() if finding.state == "broken"}
    assert broken == {"policy", "red button", "coordinator"}
    assert "no round can run: fix policy, red button, coordinator first" in shown
    for what in broken:
        assert found[what].fix in shown


@pytest.mark.processes
def test_a_revoked_hospital_is_told_what_it_needs(clinic: Clinic) -> None:
    home = clinic.coordinator.home.directory
    assert flo("coordinator", "revoke", "north", "--home", home).returncode == 0
    (found,) = (
        finding
        for finding in doctor_network.check_network_path(clinic.site)
        if finding.state == "broken"
    )
    assert found.subject == "coordinator"
    assert "refused software" in found.message
    assert "a revoked hospital needs a new one" in found.fix


# -- broken set-ups, each made for real ------------------------------------------------------------


@pytest.fixture
def site(on_disk: Path) -> SiteHome:
    return make_site(on_disk / "north")


def no_gpu(site: SiteHome) -> None:
    edit(site, 'device = "auto"', 'device = "cuda"')


def open_to_all(site: SiteHome) -> None:
    site.directory.chmod(0o755)


def unsigned_policy(site: SiteHome) -> None:
    path = site.directory / "policy.toml"
    path.write_text(path.read_text() + "\nmasking_required = true\n")


def red_button(site: SiteHome) -> None:
    assert flo("site", "stop", "--home", site.directory).returncode == 0


def damaged_ledger(site: SiteHome) -> None:
    path = site.directory / "ledger.sqlite"
    path.write_bytes(path.read_bytes()[:4096] + b"\0" * 8192)


def missing_ledger(site: SiteHome) -> None:
    (site.directory / "ledger.sqlite").unlink()


def restored(site: SiteHome) -> None:
    """And not recovered."""
    (site.directory / "restored.json").write_text("{}")


def lost_key(site: SiteHome) -> None:
    (site.directory / "keystore.key").unlink()


def another_life(site: SiteHome) -> None:
    edit(site, "hold_out = 0.3", "hold_out = 0.2")


def roots_file(site: SiteHome) -> None:
    os.chown(site.directory / "ledger.sqlite", 65_534, -1)


def misspelt(site: SiteHome) -> None:
    edit(site, 'device = "auto"', 'devise = "auto"')


@pytest.mark.parametrize(
    ("breaks", "what", "says", "mend"),
    [
        (no_gpu, "training", "device = cuda, but torch", 'device = "auto" in site.toml'),
        (open_to_all, "folder", "open to other users (755)", "chmod 700"),
        (unsigned_policy, "policy", "was edited", "flo site policy --sign"),
        (red_button, "red button", "everything is stopped here", "flo site resume"),
        (damaged_ledger, "ledger", "ledger", "flo site restore"),
        (missing_ledger, "ledger", "is missing", "flo site recover"),
        (restored, "ledger", "", "flo site recover"),
        (lost_key, "key store", "no key store at", "restore it"),
        (another_life, "settings", "hold_out is 0.2 in site.toml but was fixed", "set hold_out"),
        pytest.param(
            *(roots_file, "folder", "to others, such as ledger.sqlite (user 65534)", "chown -R"),
            marks=pytest.mark.skipif(os.geteuid() != 0, reason="only the superuser gives away"),
        ),
        (misspelt, "configuration", "devise", "site.toml"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_what_is_broken_is_named_first_with_its_mend(
    breaks: Callable[[SiteHome], None], what: str, says: str, mend: str, site: SiteHome
) -> None:
    breaks(site)
    broken = until(site.directory, lambda finding: finding.state == "broken")
    assert broken.subject == what, broken
    assert says in broken.message, broken
    assert mend in broken.fix, broken
    assert (site.directory / "ledger.sqlite").exists() == (breaks is not missing_ledger)


@pytest.mark.processes
def test_a_layer_that_the_policy_asks_for_and_the_kernel_does_not_give(
    readable_home: SiteHome,  # noqa: F811
) -> None:
    write_toml(readable_home.directory / "policy.toml", Policy(confinement=("landlock",)))
    sign(readable_home.directory, readable_home.open_identity())
    found = at_a_site._sandbox(readable_home, readable_home.read_config())
    assert found.state == "broken"
    assert "does not provide landlock" in found.message
    assert "kernel.unprivileged_userns_clone" in found.fix


def test_data_that_cannot_be_read_keep_no_approved_study_from_going_on(site: SiteHome) -> None:
    data_file(site).unlink()
    found = finding_of(site, "data of main")
    assert found.state == "warning"
    assert "patients.csv does not exist" in found.message
    assert "site.toml" in found.fix


def test_data_that_lack_the_id_are_named(site: SiteHome) -> None:
    data_file(site).write_text("name,age\nx,3\n")
    found = finding_of(site, "data of main")
    assert found.state == "warning"
    assert "patient_id" in found.message


@pytest.mark.processes
@pytest.mark.skipif(os.geteuid() != 0, reason="only the superuser mounts")
def test_a_disk_that_is_full(tmp_path: Path) -> None:
    """A real, small file system."""
    with mounted(tmp_path / "disk", "4m") as disk:
        site = make_site(disk)
        code, found, _ = doctor(site.directory)
        assert (code, found["disk"].state) == (EXIT_REFUSED, "broken")
        assert "tmpfs" in found["disk"].message
        assert "free at least 200 MiB" in found["disk"].fix
        (disk / "rest").write_bytes(b"0" * (shutil.disk_usage(disk).free - 4096))
        with contextlib.suppress(OSError):
            (disk / "last").write_bytes(b"0" * 8192)
        code, found, shown = doctor(site.directory, disk.parent)
        assert "bug in FLO" not in shown
        assert "is damaged" not in shown
        assert (code, found["disk"].state) == (EXIT_REFUSED, "broken")


@pytest.mark.processes
@pytest.mark.skipif(os.geteuid() != 0, reason="only the superuser mounts")
def test_a_disk_that_is_mounted_read_only_is_no_damage(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "4m") as disk:
        site = make_site(disk)
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        found = finding_of(site, "ledger")
        assert found.state == "broken"
        assert "damaged" not in found.message
        assert "mount it writable" in found.fix


@contextmanager
def mounted(folder: Path, size: str) -> Iterator[Path]:
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


# -- the certificate -------------------------------------------------------------------------------


@pytest.fixture
def enrolled(site: SiteHome, tmp_path: Path) -> tuple[SiteHome, CoordinatorHome]:
    """A site that holds what enrolment leaves, but for the certificate."""
    coordinator = new_home(tmp_path / "coordinator")
    pretend_enrolled(site, coordinator.open_tls_identity())
    (site.directory / "ca.pem").write_bytes(coordinator.ca_path.read_bytes())
    return site, coordinator


def issue(site: SiteHome, coordinator: CoordinatorHome) -> None:
    pem, _ = coordinator.open_authority().issue_client(
        "north", "site", site.open_identity().key.public_key()
    )
    (site.directory / "certificate.pem").write_bytes(pem)


def test_without_a_certificate_a_site_is_not_enrolled(site: SiteHome) -> None:
    found = at_a_site.certificate(site, datetime.now(UTC))
    assert (found.state, "not enrolled" in found.message) == ("broken", True)
    assert "flo site enrol INVITATION" in found.fix


def test_a_certificate_that_has_ended_is_named(
    enrolled: tuple[SiteHome, CoordinatorHome], monkeypatch: pytest.MonkeyPatch
) -> None:
    site, coordinator = enrolled
    monkeypatch.setattr("flo.server.keys.authority.SITE_DAYS", -0.001)
    issue(site, coordinator)
    found = at_a_site.certificate(site, datetime.now(UTC))
    assert (found.state, "expired on" in found.message) == ("broken", True)
    assert "a new invitation" in found.fix


def test_a_certificate_that_is_about_to_end_or_begins_later(
    enrolled: tuple[SiteHome, CoordinatorHome],
) -> None:
    site, coordinator = enrolled
    issue(site, coordinator)
    now = datetime.now(UTC)
    assert at_a_site.certificate(site, now).state == "ok"
    assert at_a_site.certificate(site, now + timedelta(days=350)).state == "warning"
    early = at_a_site.certificate(site, now - timedelta(days=3))
    assert (early.state, "clock is behind" in early.fix) == ("broken", True)


# -- the way out ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "says", "mend"),
    [
        ("https://127.0.0.1:1", "127.0.0.1:1 does not answer", "flo coordinator serve"),
        (FAR, f"no address is known for {HOST}", "DNS"),
    ],
    ids=["nobody answers", "unknown name"],
)
def test_a_coordinator_that_cannot_be_reached_is_named(
    url: str, says: str, mend: str, site: SiteHome
) -> None:
    pretend_enrolled(site, Identity.new())
    dials(site, url)
    (found,) = doctor_network.check_network_path(site)
    assert (found.subject, found.state) == ("coordinator", "broken")
    assert says in found.message
    assert mend in found.fix


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealCoordinator]:
    with far_away(tmp_path_factory.mktemp("far") / "coordinator") as real:
        yield real


@pytest.fixture
def behind(far: RealCoordinator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SiteHome:
    """A hospital that enrolled through a proxy."""
    with proxy(NAMES) as found:
        monkeypatch.setenv("HTTPS_PROXY", found.url)
        return far.enrol(tmp_path / "north", "north")


@pytest.mark.processes
def test_a_proxy_that_lets_us_through_is_named(
    behind: SiteHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    with proxy(NAMES, password=True) as through:
        monkeypatch.setenv("HTTPS_PROXY", through.url.replace("//", "//anna:secret@"))
        found = {finding.subject: finding for finding in doctor_network.check_network_path(behind)}
    assert {finding.state for finding in found.values()} == {"ok"}, found
    assert found["proxy"].message.endswith("as HTTPS_PROXY says")
    assert "secret" not in str(found)


@pytest.mark.processes
@pytest.mark.parametrize(
    ("how", "says", "mend"),
    [
        ({"inspects": True}, f"inspects TLS: {INSPECTOR}", "exempted from TLS inspection"),
        ({"password": True}, "refuses the connection (Tunnel connection failed: 407", "PASSWORD"),
        ({"names": {}}, "refuses the connection (Tunnel connection failed: 502", "allow CONNECT"),
    ],
    ids=["inspects", "password", "closed"],
)
def test_a_proxy_in_the_way_is_named(
    how: dict[str, Any], says: str, mend: str, behind: SiteHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    with proxy(**{"names": NAMES} | how) as through:
        monkeypatch.setenv("HTTPS_PROXY", through.url)
        found = list(doctor_network.check_network_path(behind))[-1]
    assert (found.subject, found.state) == ("proxy", "broken")
    for part in says.split(": "):
        assert part in found.message
    assert mend in found.fix


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("http://127.0.0.1:1", "127.0.0.1:1 does not answer"),
        ("http://proxy.hospital.test:3128", "no address is known for proxy.hospital.test"),
        ("socks5://127.0.0.1:1", "a socks5 proxy"),
    ],
)
def test_a_proxy_that_is_not_there_is_named(
    address: str, says: str, site: SiteHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_enrolled(site, Identity.new())
    dials(site, FAR)
    monkeypatch.setenv("HTTPS_PROXY", address)
    (found,) = doctor_network.check_network_path(site)
    assert (found.subject, found.state) == ("proxy", "broken")
    assert says in found.message
    assert "HTTPS_PROXY" in found.message + found.fix


@pytest.mark.processes
def test_a_coordinator_of_another_release_and_with_another_time(tmp_path: Path) -> None:
    """Its process has both, really."""
    before = (
        "import flo; flo.__version__ = '9.0.0'\n"
        "import datetime as d, flo.server.api.site_api as s\n"
        "class Late(d.datetime):\n"
        "    @classmethod\n"
        "    def now(cls, tz=None): return super().now(tz) + d.timedelta(minutes=20)\n"
        "s.datetime = Late"
    )
    with serving(tmp_path / "coordinator", before) as real:
        site = real.enrol(tmp_path / "north", "north")
        found = {finding.subject: finding for finding in doctor_network.check_network_path(site)}
    assert (found["versions"].state, found["clock"].state) == ("broken", "warning")
    assert "9.0.0 there" in found["versions"].message
    assert "install the same release" in found["versions"].fix
    assert "1200 s behind the coordinator's" in found["clock"].message
    assert "timedatectl set-ntp true" in found["clock"].fix


# -- what cannot be broken here, by the rules -----------------------------------------------------


@pytest.mark.parametrize(
    ("finding", "state", "mend"),
    [
        (diagnostics.python((3, 10, 2), "Linux", True), "broken", "Python 3.11"),
        (diagnostics.python((3, 12, 1), "Darwin", True), "broken", "Linux"),
        (diagnostics.python((3, 12, 1), "Linux", False), "broken", "64-bit"),
        (
            diagnostics.libraries(["flwr<1.43,>=1.42"], {"flwr": "1.44.0"}),
            "broken",
            "'flwr<1.43,>=",
        ),
        (diagnostics.libraries(["dp_accounting==0.6.0"], {}), "broken", "'dp_accounting==0.6.0'"),
        (diagnostics.libraries(["onnx>=1; extra == 'onnx'"], {}), "ok", ""),
        (diagnostics.disk(Path("x"), 1 << 40, "nfs4"), "broken", "local disk"),
        (diagnostics.disk(Path("x"), 1 << 30, "ext4"), "warning", "more"),
        (diagnostics.clock_beside(-400), "warning", "timedatectl"),
        (diagnostics.clock_beside(40), "warning", "timedatectl"),
        (diagnostics.clock_beside(4), "ok", ""),
        (diagnostics.clock_alone(5), "warning", "timedatectl"),
        (diagnostics.clock_alone(0), "ok", ""),
        (doctor_devices.no_gpu("auto", has_driver=True, torch_version="2"), "warning", "CUDA"),
        (doctor_devices.no_gpu("cuda", has_driver=True, torch_version="2"), "broken", "CUDA"),
        (doctor_devices.no_gpu("cuda", has_driver=False, torch_version="2"), "broken", "driver"),
        (doctor_devices.on_gpus("auto", 1, ["H100"]), "ok", ""),
        (doctor_devices.on_gpus("cuda", 2, ["H100"]), "broken", "processes = 1 in site.toml"),
        (doctor_devices.on_gpus("cuda", 2, ["H100", "A100"]), "broken", "CUDA_VISIBLE_DEVICES"),
        (doctor_devices.on_gpus("cuda", 1, ["H100", "A100"]), "ok", ""),
        (doctor_devices.on_cpu("auto", 2, 2), "ok", ""),
        (doctor_devices.on_cpu("auto", 9, 2), "warning", "processes = 2 or less"),
    ],
)
def test_the_rules(finding: Finding, state: str, mend: str) -> None:
    assert finding.state == state
    assert mend in finding.fix


@pytest.mark.parametrize(
    ("device", "processes", "said"),
    [
        ("cpu", 1, "device = cpu: on the CPU, and not on cuda:0 A (1 of 2); cuda:1 A (2 of 2)"),
        ("auto", 1, "1 process on cuda:0 A (1 of 2); cuda:1 A (2 of 2); 1 of them idle"),
        ("cuda", 2, "2 processes on cuda:0 A (1 of 2); cuda:1 A (2 of 2)"),
    ],
)
def test_it_says_which_gpus_train(device: str, processes: int, said: str) -> None:
    memory = ["1 of 2", "2 of 2"]
    finding = doctor_devices.on_gpus(device, processes, ["A", "A"], memory)
    assert (finding.state, finding.fix) == ("ok", "")
    assert finding.message.startswith(said)


@pytest.mark.parametrize(
    ("theirs", "state"),
    [
        ({}, "ok"),
        ({"code_digest": "b"}, "warning"),
        ({"flo": "0.3.1"}, "warning"),
        ({"flo": "0.1.0"}, "warning"),
        ({"flo": "0.4.0"}, "broken"),
        ({"flo": "1.2.0"}, "broken"),
        ({"flwr": "1.42.1"}, "warning"),
        ({"flwr": "1.43.0"}, "broken"),
        ({"flo": "who knows"}, "broken"),
    ],
)
def test_a_release_works_with_its_neighbours_only(theirs: dict[str, str], state: str) -> None:
    ours = {"flo": "0.2.0", "flwr": "1.42.0", "code_digest": "a"}
    found = doctor_network.check_versions(ours, ours | theirs)
    assert found.state == state
    assert all(f"{value} there" in found.message for value in theirs.values() if value != "b")


def test_a_folder_of_another_user_or_with_another_users_files(tmp_path: Path) -> None:
    """As when root ran a command on the agent's folder."""
    lock = tmp_path / "decision.lock"
    found = diagnostics.private(tmp_path, 0o700, {tmp_path: 7, lock: 7}, 8)
    assert (found.state, "sudo -u '#7'" in found.fix) == ("broken", True)
    found = diagnostics.private(tmp_path, 0o700, {tmp_path: 7, lock: 0}, 7)
    assert (found.state, "chown -R '#7'" in found.fix) == ("broken", True)
    assert "decision.lock (user 0)" in found.message


def test_two_copies_of_a_ledger_are_told_apart() -> None:
    ours = LedgerHead(sequence=9, hash="a" * 64, signature="b" * 96, public="c" * 240)
    assert doctor_network.check_ledger_head(None, ours).state == "ok"
    assert doctor_network.check_ledger_head(ours, ours).state == "ok"
    for newer in ({"sequence": 12}, {"hash": "d" * 64}):
        found = doctor_network.check_ledger_head(ours.model_copy(update=newer), ours)
        assert (found.state, "flo site restore" in found.fix) == ("broken", True)


def test_a_new_key_of_the_coordinator_is_named_until_it_was_compared() -> None:
    assert doctor_network.coordinator_key("ab", "ab").state == "ok"
    found = doctor_network.coordinator_key("ab", "cd")
    assert (found.state, "flo site coordinator --accept" in found.fix) == ("warning", True)


def test_the_file_system_of_a_folder_is_that_of_its_closest_mount() -> None:
    mounts = (
        "1 0 8:1 / / rw shared:1 - ext4 /dev/sda1 rw\n"
        "2 1 0:50 / /data rw - nfs4 server:/data rw\n"
        "3 2 8:2 / /data/local\\040disk rw - xfs /dev/sdb1 rw\n"
    )
    for folder, kind in [("/srv", "ext4"), ("/data/a", "nfs4"), ("/data/local disk/a", "xfs")]:
        assert diagnostics.filesystem_of(Path(folder), mounts) == kind


def test_without_a_folder_the_machine_alone_is_looked_at(
    on_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(on_disk)
    done = flo("doctor")
    assert done.returncode == EXIT_OK
    assert "only this machine was checked" in done.stdout
    done = flo("doctor", on_disk)
    assert "neither a site's folder nor a coordinator's" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only the superuser gives files away")
def test_root_does_not_work_on_the_folder_of_the_agents_user(tmp_path: Path) -> None:
    """What it made there, the agent could not use."""
    site = make_site(tmp_path)
    os.chown(site.directory, 65_534, -1)
    for command in (("site", "budget"), ("site", "policy", "--sign")):
        done = flo(*command, "--home", site.directory)
        assert done.returncode == EXIT_USAGE
        assert "belongs to user 65534, and this is root" in done.stderr
        assert "sudo -u '#65534' flo" in done.stderr
