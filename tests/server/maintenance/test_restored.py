"""A coordinator whose folder was put back from a backup has forgotten what it signed since."""

from __future__ import annotations

import shutil
import time
from contextlib import closing
from pathlib import Path

import pytest

from flo.audit.chain import verify
from flo.clients.connection.cosigning import cosign
from flo.clients.connection.enrolment import connect
from flo.clients.home.site_home import SiteHome
from flo.errors import TrustError
from flo.server.home.coordinator_home import CoordinatorHome
from flo.server.maintenance.invitations import invite
from tests.server.real_coordinator import RealCoordinator, kinds, new_home, served

pytestmark = pytest.mark.processes


def see_each_other(site: SiteHome) -> bytes:
    """They countersign each other's audit logs; the site's, exported."""
    with connect(site) as api, closing(site.open_audit_log()) as log:
        cosign(api, log, site.read_coordinator())
        return log.export(site.read_config().hospital)


def exported(home: CoordinatorHome) -> bytes:
    with closing(home.open_audit_log()) as log:
        return log.export("coordinator")


def invited(home: CoordinatorHome, name: str) -> None:
    """An event that the coordinator has entered in its log."""
    invite(home, name)
    end = time.monotonic() + 20
    while name not in exported(home).decode():
        assert time.monotonic() < end
        time.sleep(0.05)


def put_back(home: CoordinatorHome, backup: Path) -> None:
    shutil.rmtree(home.directory)
    shutil.copytree(backup, home.directory)


@pytest.fixture
def home(tmp_path: Path) -> CoordinatorHome:
    return new_home(tmp_path / "home")


@pytest.fixture
def north(home: CoordinatorHome, tmp_path: Path) -> SiteHome:
    """Enrolled, and seen up to here; a backup of the coordinator was made then."""
    with served(RealCoordinator(home)) as coordinator:
        site = coordinator.enrol(tmp_path / "north", "north")
        see_each_other(site)
    shutil.copytree(home.directory, tmp_path / "backup")
    return site


@pytest.mark.parametrize("later", [0, 3], ids=["nothing new since", "new entries since"])
def test_a_site_tells_once_that_its_entries_were_forgotten_and_shows_them_again(
    home: CoordinatorHome, north: SiteHome, tmp_path: Path, later: int
) -> None:
    with served(RealCoordinator(home)):
        north.record("reviewed", "0" * 64)
        see_each_other(north)
    put_back(home, tmp_path / "backup")
    with served(RealCoordinator(home)):
        for _ in range(later):
            north.record("reviewed", "1" * 64)
        with pytest.raises(TrustError, match="a backup of its folder was restored"):
            see_each_other(north)
        ours = see_each_other(north)
    verify([ours, exported(home)])
    assert "forked-audit-log" not in kinds(home)  # it was not the site's doing


def test_a_coordinator_that_forgot_its_own_entries_is_never_countersigned_again(
    home: CoordinatorHome, north: SiteHome, tmp_path: Path
) -> None:
    with served(RealCoordinator(home)):
        invited(home, "guest")
        ours = see_each_other(north)
    verify([ours, exported(home)])
    put_back(home, tmp_path / "backup")
    with served(RealCoordinator(home)):
        invited(home, "other")
        for _ in range(2):
            with pytest.raises(TrustError, match="truncated or forked"):
                see_each_other(north)
    with pytest.raises(TrustError, match="north"):
        verify([ours, exported(home)])
