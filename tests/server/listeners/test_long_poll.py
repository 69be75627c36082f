"""``pull-messages`` is held while there is nothing to deliver, and holds nobody else up."""

from __future__ import annotations

import threading
import time

import pytest

from flo.clients.connection.coordinator_clock import CoordinatorClock
from flo.clients.connection.enrolment import connect, context_of
from flo.clients.connection.flower import FleetLink
from flo.clients.home.site_home import SiteHome
from flo.errors import NetworkError

pytestmark = pytest.mark.processes

HELD_SECONDS = 1.2


def _link(home: SiteHome) -> FleetLink:
    return FleetLink(
        home.read_coordinator().url, context_of(home), home.open_identity(), CoordinatorClock()
    )


def test_an_idle_pull_is_held_and_others_are_served_meanwhile(sites: dict[str, SiteHome]) -> None:
    with _link(sites["north"]) as link:
        link._parcels.held_seconds = HELD_SECONDS  # we give up long before the coordinator does
        outcome: list[BaseException] = []
        began = time.monotonic()

        def pull() -> None:
            try:
                link.pull()
            except NetworkError as error:
                outcome.append(error)

        thread = threading.Thread(target=pull)
        thread.start()
        with connect(sites["south"]) as api:
            for _ in range(5):
                assert api.call("studies", {}) == []
        assert thread.is_alive(), "the pull came back before anything was there"
        thread.join(timeout=20)
        assert time.monotonic() - began >= HELD_SECONDS
        assert "ReadTimeout" in str(outcome[0])


def test_a_node_that_gave_up_may_pull_again(sites: dict[str, SiteHome]) -> None:
    with _link(sites["north"]) as link:
        link._parcels.held_seconds = 0.2
        for _ in range(2):
            with pytest.raises(NetworkError, match="ReadTimeout"):
                link.pull()
