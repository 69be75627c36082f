"""The desk's page on which a steward confirms all partners on one call, with a real coordinator."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from flo.clients.approvals import roster
from flo.clients.approvals.fingerprints import AddressBook
from flo.clients.connection.enrolment import connect
from flo.clients.home.site_home import SiteHome
from flo.keys.identity import Identity, format_fingerprint
from tests.clients.desk.test_desk import Opened, open_by_link, serving
from tests.commands import flo
from tests.server import real_coordinator
from tests.server.real_coordinator import RealCoordinator

pytestmark = pytest.mark.processes

NAMES = ("roster-a", "roster-b", "roster-c")


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealCoordinator]:
    with real_coordinator.serving(tmp_path_factory.mktemp("coordinator") / "home") as real:
        yield real


@pytest.fixture(scope="module")
def sites(
    coordinator: RealCoordinator, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, SiteHome]:
    folder = tmp_path_factory.mktemp("sites")
    return {name: coordinator.enrol(folder / name, name) for name in NAMES}


@pytest.fixture(scope="module")
def opened(sites: dict[str, SiteHome]) -> Iterator[Opened]:
    with serving(sites["roster-a"]) as desk:
        yield open_by_link(desk)


@pytest.fixture
def digest(coordinator: RealCoordinator) -> str:
    with closing(coordinator.home.open_store()) as store:
        return store.roster().roster.digest


def test_the_steward_checks_the_digest_and_ticks_whom_they_heard(
    opened: Opened, sites: dict[str, SiteHome], digest: str
) -> None:
    assert "roster-b" in opened.get("/roster")
    status, text = opened.post("/roster", digest="a" * 64)
    assert (status, "another digest than the one that was read out" in text) == (400, True)
    status, text = opened.post("/roster", digest="abc")
    assert (status, "not the digest of a roster" in text) == (400, True)
    assert AddressBook.load(sites["roster-a"]).confirmed == {}
    spoken = format_fingerprint(digest).upper()
    status, text = opened.post("/roster", digest=spoken)
    assert (status, "Say on the call" in text, spoken in text) == (200, True, True)
    assert AddressBook.load(sites["roster-a"]).confirmed == {}, "nobody was ticked"
    status, text = opened.post("/roster", digest=spoken, **{"of-roster-b": "yes"})
    assert (status, "Confirmed on this call: roster-b." in text) == (200, True)
    confirmed = AddressBook.load(sites["roster-a"]).confirmed
    assert confirmed == {"roster-b": sites["roster-b"].open_identity().fingerprint}


def test_the_command_confirms_all_but_those_who_were_not_heard(
    sites: dict[str, SiteHome], digest: str
) -> None:
    here = ("--home", sites["roster-b"].directory)
    assert "need the digest" in flo("site", "roster", "--heard", "all", *here).stderr
    assert "needs --heard all" in flo("site", "roster", digest, "--not-heard", "x", *here).stderr
    heard = ("site", "roster", digest, "--heard", "all", "--not-heard")
    assert "no hospital of this name" in flo(*heard, "rooster-c", "--yes", *here).stderr
    assert "nobody was confirmed" in flo(*heard, "roster-c", *here).stderr
    assert AddressBook.load(sites["roster-b"]).confirmed == {}
    done = flo(*heard, "roster-c", "--yes", *here)
    assert done.returncode == 0, done.stderr
    confirmed = AddressBook.load(sites["roster-b"]).confirmed
    assert "roster-a" in confirmed
    assert "roster-c" not in confirmed
    with connect(sites["roster-c"]) as api:
        seen = roster.fetch(sites["roster-c"], api)
    of_b = {"roster-b": sites["roster-b"].open_identity().fingerprint}
    assert ("roster-a", sites["roster-a"].open_identity().fingerprint) in seen.vouchers(of_b).by_key


def test_a_key_that_was_replaced_is_confirmed_by_name_only(
    sites: dict[str, SiteHome], digest: str
) -> None:
    site = sites["roster-c"]
    AddressBook.confirm(site, {"roster-a": "a" * 64})
    here = ("--yes", "--home", site.directory)
    refused = flo("site", "roster", digest, "--heard", "all", *here)
    assert "another key than the one confirmed here: roster-a" in refused.stderr
    assert AddressBook.load(site).confirmed == {"roster-a": "a" * 64}
    assert "it was replaced since" in " ".join(flo("site", "roster", *here[1:]).stdout.split())
    assert flo("site", "confirm", "--forget", "roster-a", *here[1:]).returncode == 0
    assert flo("site", "roster", digest, "--heard", "all", *here).returncode == 0
    assert set(AddressBook.load(site).confirmed) == {"roster-a", "roster-b"}


def test_a_site_that_left_is_off_the_roster_of_the_others(
    coordinator: RealCoordinator, sites: dict[str, SiteHome], tmp_path: Path
) -> None:
    gone = coordinator.enrol(tmp_path / "gone", "roster-gone")
    with connect(sites["roster-a"]) as api:
        assert "roster-gone" in roster.fetch(sites["roster-a"], api).roster.keys
    assert flo("site", "leave", "--yes", "--home", gone.directory).returncode == 0
    with connect(sites["roster-a"]) as api:
        assert "roster-gone" not in roster.fetch(sites["roster-a"], api).roster.keys


def test_hospitals_that_an_earlier_version_enrolled_are_on_the_roster(
    coordinator: RealCoordinator, sites: dict[str, SiteHome]
) -> None:
    with closing(coordinator.home.open_store()) as store:
        before = store.roster().roster
        store._write("DELETE FROM roster WHERE number > 1")
        store._write(
            "INSERT INTO hospitals (id, public, fingerprint, serial, enrolled, revoked)"
            " VALUES ('never', x'00', ?, '9', '', 1)",
            Identity.new().fingerprint,
        )
    with closing(coordinator.home.open_store()) as store:
        assert store.roster().roster.keys == before.keys
        store._write("DELETE FROM hospitals WHERE id = 'never'")
