"""The coordinator's identity key is replaced: when that may be, and who follows it when.

An authority that the consortium brings is in ``test_brought_ca``, what must not happen while a
coordinator serves in ``test_serving``.
"""

from __future__ import annotations

import ssl
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from flo.audit.chain import verify
from flo.cli.coordinator.operator import Operator
from flo.clients.connection.cosigning import cosign
from flo.clients.connection.enrolment import accept_coordinator, connect, enrol
from flo.clients.connection.offers import offered_studies
from flo.clients.home.site_home import SiteHome
from flo.errors import RefusedError, TrustError
from flo.keys.identity import Identity, Signer, format_fingerprint
from flo.keys.tls import load_certificate
from flo.server.home.coordinator_home import CoordinatorHome
from flo.server.http.tokens import issue
from flo.server.maintenance import key_rotation
from flo.server.maintenance.invitations import invite
from flo.server.store.hospitals import Member
from flo.server.studies.signing import StudySigner
from flo.storage.files import write_private
from tests.builders import HOSPITALS, small_study
from tests.commands import flo, flo_process
from tests.flo.published_models import made, signed_study
from tests.server.real_coordinator import RealCoordinator, kinds, new_home, served, serving

REFUSED = 3


def files(home: CoordinatorHome) -> dict[str, bytes]:
    names = ("identity.key", "succession.json", "server.pem", "identity.next.key")
    paths = [home.directory / name for name in names]
    return {path.name: path.read_bytes() for path in paths if path.exists()}


# -- when a key may be replaced --------------------------------------------------------------------


def test_a_key_is_not_replaced_without_a_yes(tmp_path: Path) -> None:
    home = new_home(tmp_path / "home")
    before = files(home)
    done = flo("coordinator", "replace-key", "--home", home.directory)
    assert (done.returncode, "nothing was changed" in done.stderr) == (REFUSED, True)
    assert files(home) == before


@pytest.mark.parametrize("status", ["offered", "running"])
def test_a_key_is_not_replaced_while_a_study_is_under_way(tmp_path: Path, status: str) -> None:
    home = new_home(tmp_path / "home")
    with closing(home.open_store()) as store:
        for name in HOSPITALS:
            key = Identity.new()
            store.add_invitation(name, name)
            store.enrol(name, Member(name, key.public, key.fingerprint, name, False, None))
        digest = StudySigner(home, store).offer(small_study(), "Ada").study.digest
        if status == "running":
            store.start_run("run-1", digest)
        before = files(home)
        with pytest.raises(RefusedError, match="under way under the current key: tiny") as raised:
            key_rotation.replace_key(home)
        assert "flo study stop" in raised.value.hint
        assert files(home) == before
        assert "key-replaced" not in kinds(home)
        store.set_status(digest, "stopped")
    key_rotation.replace_key(home)
    assert kinds(home)[-2:] == ["key-replaced", "key-in-use"]


# -- what follows at the sites ---------------------------------------------------------------------


def waiting(site: SiteHome) -> list[str]:
    with connect(site) as api:
        return [offer.study.name for offer in offered_studies(api, site.read_coordinator())]


def launched(home: CoordinatorHome, name: str) -> None:
    with Operator(home.directory) as owner:
        owner.call("POST", "studies", body=small_study(name=name).canonical_bytes)


def stopped(home: CoordinatorHome) -> None:
    with Operator(home.directory) as owner:
        for found in owner.call("GET", "studies"):
            if found["status"] == "offered":
                owner.call("POST", f"studies/{found['digest']}/stop")


def check_logs(site: SiteHome, home: CoordinatorHome) -> None:
    with connect(site) as api, closing(site.open_audit_log()) as ours:
        cosign(api, ours, site.read_coordinator())
        exported = ours.export(site.read_config().hospital)
    with closing(home.open_audit_log()) as theirs:
        verify([exported, theirs.export("coordinator")])


def accepted(site: SiteHome, fingerprint: str) -> int:
    return flo("site", "coordinator", "--accept", fingerprint, "--home", site.directory).returncode


@pytest.mark.processes
def test_a_site_refuses_a_new_key_until_its_steward_has_compared_it(tmp_path: Path) -> None:
    home = new_home(tmp_path / "home")
    first = home.open_tls_identity()
    signature = first.sign("study", signed_study()[0].canonical_bytes)
    card = made(signer=first, study_signature=signature).card
    token, _ = issue(first, "Ada", "operator", 3600)
    with served(RealCoordinator(home)) as coordinator:
        north, *others = [coordinator.enrol(tmp_path / name, name) for name in HOSPITALS]
        launched(home, "before")
        assert waiting(north) == ["before"]
        check_logs(north, home)
        stopped(home)
    done = flo("coordinator", "replace-key", "--yes", "--home", home.directory)
    assert done.returncode == 0, done.stderr
    second = home.open_identity()
    assert second.fingerprint != first.fingerprint
    assert format_fingerprint(second.fingerprint) in done.stdout

    with served(RealCoordinator(home)) as coordinator:
        headers = {"authorization": f"Bearer {token}"}
        assert coordinator.private("GET", "/v1/flo/studies", headers=headers).status == 401
        launched(home, "after")
        with pytest.raises(TrustError, match="signature of this study") as raised:
            waiting(north)
        assert "flo site coordinator --accept FINGERPRINT" in raised.value.hint
        north.record("reviewed")
        with pytest.raises(TrustError):
            check_logs(north, home)

        before = north.read_coordinator()
        for wrong in (first.fingerprint, north.open_identity().fingerprint, "0" * 64, ""):
            with connect(north) as api, pytest.raises(TrustError, match="not the one you compared"):
                accept_coordinator(north, api, wrong)
        assert accepted(north, format_fingerprint(Identity.new().fingerprint)) == 4
        assert north.read_coordinator() == before
        assert accepted(north, format_fingerprint(second.fingerprint).upper()) == 0

        assert north.read_coordinator().fingerprints == [second.fingerprint, first.fingerprint]
        with closing(home.open_store()) as store:
            store.set_status(store.offers()[0].study.digest, "offered")
        assert waiting(north) == ["after"]  # what the earlier key signed is no offer any more
        check_logs(north, home)
        card.check(*north.read_coordinator().fingerprints)
        with pytest.raises(TrustError, match="another coordinator"):
            card.check(second.fingerprint)
        with pytest.raises(TrustError):
            waiting(others[0])  # a yes counts at the site whose steward said it
    with closing(north.open_audit_log()) as log:
        (entry,) = [e for e in log.entries() if e.kind == "coordinator-accepted"]
    assert entry.facts == {"old": first.fingerprint, "new": second.fingerprint}


@pytest.mark.processes
def test_a_site_follows_over_several_keys_at_once(tmp_path: Path) -> None:
    home = new_home(tmp_path / "home")
    first = home.open_identity().fingerprint
    with served(RealCoordinator(home)) as coordinator:
        north = coordinator.enrol(tmp_path / "north", "north")
    key_rotation.replace_key(home)
    second = home.open_identity().fingerprint
    key_rotation.replace_key(home)
    third = home.open_identity().fingerprint
    with served(RealCoordinator(home)):
        with connect(north) as api, pytest.raises(TrustError, match="not the one you compared"):
            accept_coordinator(north, api, second)
        with connect(north) as api:
            accept_coordinator(north, api, third)
        check_logs(north, home)
    assert north.read_coordinator().fingerprints == [third, first]


@pytest.mark.processes
def test_whoever_invites_a_hospital_that_is_enrolled_is_told_what_that_opens(
    tmp_path: Path,
) -> None:
    with serving(tmp_path / "home") as coordinator:
        at = ("--home", coordinator.home.directory, "--out", tmp_path / "i.json")
        told = "north is already enrolled"
        assert told not in flo("coordinator", "invite", "north", *at).stdout
        coordinator.enrol(tmp_path / "north", "north")
        assert told in flo("coordinator", "invite", "north", *at).stdout
        assert flo("coordinator", "revoke", "north", *at[:2]).returncode == 0
        assert told not in flo("coordinator", "invite", "north", *at).stdout
        listed = flo("coordinator", "hospitals", *at[:2]).stdout
    assert format_fingerprint(coordinator.home.open_identity().fingerprint) in " ".join(
        listed.split()
    )


def enrolled_anew(site: SiteHome, home: CoordinatorHome) -> None:
    invitation = site.directory.parent / "again.json"
    write_private(invitation, invite(home, site.read_config().hospital))
    enrol(site, invitation)


@pytest.mark.processes
def test_a_site_that_is_invited_anew_keeps_believing_what_the_earlier_key_signed(
    tmp_path: Path,
) -> None:
    home = new_home(tmp_path / "home")
    first = home.open_tls_identity()
    signature = first.sign("study", signed_study()[0].canonical_bytes)
    card = made(signer=first, study_signature=signature).card
    with served(RealCoordinator(home)) as coordinator:
        north = coordinator.enrol(tmp_path / "north", "north")
        check_logs(north, home)
    for _ in range(2):
        key_rotation.replace_key(home)
    newest = home.open_identity().fingerprint
    with served(RealCoordinator(home)):
        for _ in range(2):
            enrolled_anew(north, home)
            assert north.read_coordinator().fingerprints == [newest, first.fingerprint]
        check_logs(north, home)
    card.check(*north.read_coordinator().fingerprints)


@pytest.mark.processes
def test_a_site_that_another_coordinator_invites_believes_nothing_of_the_one_before(
    tmp_path: Path,
) -> None:
    with serving(tmp_path / "before") as before:
        north = before.enrol(tmp_path / "north", "north")
    with serving(tmp_path / "home") as now:
        enrolled_anew(north, now.home)
        assert north.read_coordinator().fingerprints == [now.home.open_identity().fingerprint]


# -- a replacement that is cut off -----------------------------------------------------------------

CUT_OFF = """
import os, sys
from pathlib import Path
from flo.server.home import coordinator_home as home
from flo.server.maintenance import key_rotation
module, name, left = sys.argv[2].split()
holder, left = {"os": os, "key_rotation": key_rotation, "home": home}[module], int(left)
do = getattr(holder, name)
def die_at(*arguments, **more):
    global left
    left -= 1
    if left == 0:
        os._exit(9)
    return do(*arguments, **more)
setattr(holder, name, die_at)
key_rotation.replace_key(home.CoordinatorHome.open(Path(sys.argv[1])))
"""


def cut_off(home: CoordinatorHome, at: str) -> None:
    killed = subprocess.run([sys.executable, "-c", CUT_OFF, str(home.directory), at], check=False)
    assert killed.returncode == 9


def check_replaced(home: CoordinatorHome, first: Signer) -> None:
    """One new key, one step to it, a certificate of it, and a log that both signed."""
    second, (step,) = home.open_tls_identity(), home.read_succession().steps
    assert second.fingerprint != first.fingerprint
    assert home.read_succession().newest_after(first.public.hex()) == second.public.hex()
    assert step.old == first.public.hex()
    load_certificate(
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), files(home)["server.pem"], second.pem()
    )
    assert "identity.next.key" not in files(home)
    with closing(home.open_audit_log()) as log:
        verify([log.export("coordinator")])
    assert kinds(home) == ["coordinator-made", "key-replaced", "key-in-use"]


@pytest.mark.processes
@pytest.mark.parametrize(
    "at",
    [
        "os replace 1",  # the next key's own file
        "key_rotation sign_events 3",  # the old key's last entry waits to be signed
        "os replace 2",  # succession.json
        "os replace 3",  # the listeners' certificate
        "os replace 4",  # the next key takes the old one's place
    ],
)
def test_a_replacement_that_is_killed_at_any_write_is_finished_by_asking_again(
    tmp_path: Path, at: str
) -> None:
    home = new_home(tmp_path / "home")
    first = home.open_identity()
    cut_off(home, at)
    assert home.open_identity().fingerprint == first.fingerprint
    assert flo("coordinator", "replace-key", "--yes", "--home", home.directory).returncode == 0
    check_replaced(home, first)


@pytest.mark.processes
def test_a_replacement_that_is_killed_after_its_last_write_is_done(tmp_path: Path) -> None:
    home = new_home(tmp_path / "home")
    first = home.open_identity()
    cut_off(home, "home sign_events 1")  # the new key's first entry waits to be signed
    with home.recording():
        pass
    check_replaced(home, first)


@pytest.mark.processes
@pytest.mark.parametrize("at", ["os replace 1", "os replace 2", "os replace 4"])
def test_nothing_else_is_done_until_a_replacement_that_was_cut_off_is_finished(
    tmp_path: Path, at: str
) -> None:
    home = new_home(tmp_path / "home")
    first = home.open_identity()
    cut_off(home, at)
    before = files(home)
    if at == "os replace 1":  # killed before the next key was kept: nothing has begun
        assert "identity.next.key" not in before
    else:
        for command in (("serve",), ("invite", "north", "--out", tmp_path / "i.json")):
            done = flo_process("coordinator", *command, "--home", home.directory)
            assert done.returncode == REFUSED
            assert "finish it: flo coordinator replace-key" in done.stderr
        assert files(home) == before
    assert flo("coordinator", "replace-key", "--yes", "--home", home.directory).returncode == 0
    check_replaced(home, first)


@pytest.mark.processes
def test_a_replacement_that_is_killed_before_its_first_entry_leaves_the_old_key_in_use(
    tmp_path: Path,
) -> None:
    home = new_home(tmp_path / "home")
    cut_off(home, "os replace 1")
    before = files(home)
    assert flo("coordinator", "invite", "north", "--home", home.directory,
               "--out", tmp_path / "i.json").returncode == 0  # fmt: skip
    assert files(home) == before
    with closing(home.open_audit_log()) as log:
        verify([log.export("coordinator")])
