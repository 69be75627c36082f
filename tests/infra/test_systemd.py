"""The units that FLO writes: what they forbid, and that a study is carried out under them."""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from flo.clients.data_process.confinement import LAYERS
from flo.clients.home.site_home import SiteHome
from flo.errors import UsageError
from flo.infra.systemd.units import is_temporary, unit
from tests.builders import make_site
from tests.commands import flo
from tests.end_to_end.running import SITES, launch, wait_for
from tests.infra.systemd import booted
from tests.server.real_coordinator import RealCoordinator, new_home, served

MOST_EXPOSED = {"site": 2.7, "model": 2.7, "coordinator": 1.9}  # of 10, as systemd-analyze counts


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that is not in /tmp, which every unit has for itself alone."""
    if is_temporary(Path(sys.executable)):
        pytest.skip("FLO is installed in a place for temporary files, where no unit finds it")
    made = Path(tempfile.mkdtemp(prefix="flo-test-", dir="/srv" if Path("/srv").is_dir() else "/"))
    try:
        yield made
    finally:
        shutil.rmtree(made)


def owner(folder: Path) -> str:
    return folder.owner()


@pytest.mark.processes
def test_a_unit_is_valid_and_leaves_little_open(place: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("there is no systemd-analyze here")
    site, home = make_site(place), new_home(place / "coordinator")
    folders = {"site": site.directory, "model": site.directory, "coordinator": home.directory}
    for what, folder in folders.items():
        done = flo(what, "unit", "--home", folder, "--user", owner(folder))
        assert done.returncode == 0, done.stderr
        path = place / f"flo-{what}.service"
        path.write_text(done.stdout)
        checked = _analyze("verify", path)
        assert (checked.returncode, checked.stderr) == (0, "")
        found = _analyze("security", "--offline=yes", "--no-pager", path).stdout
        exposed = re.search(r"exposure level for \S+: ([0-9.]+)", found)
        assert exposed is not None, found
        assert float(exposed.group(1)) <= MOST_EXPOSED[what], found


def _analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *map(str, arguments)], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("device", ["auto", "cuda", "cpu"])
def test_a_unit_sees_graphics_cards_only_where_they_may_be_used(place: Path, device: str) -> None:
    text = unit("site", place, owner(place), device)
    assert ("DeviceAllow=char-nvidia rw" in text) == (device != "cpu")
    assert ("PrivateDevices=yes" in text) == (device == "cpu")


def test_what_a_unit_could_not_work_with_is_refused(
    place: Path, on_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="there is no user 'no-such-user'"):
        unit("site", place, "no-such-user")
    with pytest.raises(UsageError, match="does not belong to nobody"):
        unit("site", place, "nobody")
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr("sys.executable", "/tmp/venv/bin/python")
        with pytest.raises(UsageError, match="/tmp/venv/bin/python is in a folder for temporary"):
            unit("site", place, owner(place))
    odd = place / "two words"
    odd.mkdir()
    with pytest.raises(UsageError, match="contains a character that systemd interprets"):
        unit("site", odd, owner(odd))
    with pytest.raises(UsageError, match="in a folder for temporary files"):
        unit("site", on_disk, owner(on_disk))


@pytest.mark.slow
def test_a_study_is_carried_out_by_units_under_a_real_systemd(place: Path) -> None:
    real = RealCoordinator(new_home(place / "coordinator"))
    with served(real):
        homes = [real.enrol(place / name, name) for name in SITES]
    units = place / "units"
    units.mkdir()
    written = {f"flo-{home.read_config().hospital}": ("site", home.directory) for home in homes}
    written["flo-coordinator"] = ("coordinator", real.home.directory)
    for name, (what, folder) in written.items():
        done = flo(what, "unit", "--home", folder, "--user", owner(folder))
        assert done.returncode == 0, done.stderr
        (units / f"{name}.service").write_text(done.stdout)
    with booted(units) as systemctl:
        systemctl("start", *written)
        try:
            real.wait_until_served()
        except AssertionError:
            raise AssertionError((units / "boot.log").read_text()) from None
        digest = launch(real, homes, "distributed noise")
        wait_for(lambda now: now["status"] == "done", real.home.directory, digest)
        for name in written:
            found = systemctl.status(name)
            assert (found["NoNewPrivs"], found["Seccomp"]) == ("1", "2"), name
            assert int(found["CapEff"], 16) == int(found["CapBnd"], 16) == 0, name
        for home in homes:
            assert held(home) == set(LAYERS), "the data process locks itself in there, too"
        before = systemctl.main("flo-north")
        systemctl("kill", "--signal", str(int(signal.SIGKILL)), "flo-north")
        assert _comes_back(lambda: systemctl.main("flo-north"), before), "it is started again"
        systemctl("stop", *written)
        assert systemctl("show", "-P", "Result", *written).split() == ["success"] * len(written)


def held(home: SiteHome) -> set[str]:
    """Layers of the data process, as the newest start of the agent entered them."""
    with closing(home.open_audit_log()) as log:
        entry = log.last("agent-started")
    assert entry is not None
    return set(entry.facts["confinement"])


def _comes_back(main: Callable[[], int], before: int) -> bool:
    end = time.monotonic() + 40
    while time.monotonic() < end:
        with contextlib.suppress(ValueError):
            if main() not in (0, before):
                return True
        time.sleep(0.5)
    return False
