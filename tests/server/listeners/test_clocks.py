"""Clocks differ and are set: agents come back by themselves."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest

from flo.clients.connection.coordinator_clock import CoordinatorClock
from flo.clients.connection.enrolment import context_of
from flo.clients.connection.flower import FleetLink
from flo.clients.home.site_home import SiteHome
from flo.errors import NetworkError

pytestmark = pytest.mark.processes

_OFF = (-86_400, -3600, -60, 5, 6, 60, 86_400)  # seconds that the hospital's clock is ahead


class Set:
    """A hospital's clock that can be set. Put back, it is to the coordinator as theirs put on."""

    def __init__(self, ahead: float) -> None:
        self.ahead = ahead

    def __call__(self) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=self.ahead)


def _link(home: SiteHome, clock: CoordinatorClock) -> FleetLink:
    return FleetLink(home.read_coordinator().url, context_of(home), home.open_identity(), clock)


def _connected(home: SiteHome, clock: CoordinatorClock, tries: int) -> FleetLink:
    """As an agent does: a lost connection is tried again."""
    for left in reversed(range(tries)):
        link = _link(home, clock)
        try:
            return link.__enter__()
        except NetworkError:
            if not left:
                raise
    raise AssertionError


@pytest.mark.parametrize("ahead", _OFF)
def test_an_agent_whose_clock_is_off_connects_at_the_second_try(
    sites: dict[str, SiteHome], ahead: float
) -> None:
    clock = CoordinatorClock(Set(ahead))
    with_it = _connected(sites["north"], clock, tries=2)
    _pulls_in_vain(with_it)
    with_it.__exit__(None, None, None)
    assert abs((clock.now() - datetime.now(UTC)).total_seconds()) < 3


@pytest.mark.parametrize("step", [-86_400, -600, 60, 86_400])  # all beyond Flower's window
def test_when_a_clock_is_set_the_agent_loses_its_connection_and_no_more(
    sites: dict[str, SiteHome], step: float
) -> None:
    own = Set(0)
    clock = CoordinatorClock(own)
    link = _connected(sites["north"], clock, tries=1)
    own.ahead = step
    beat = SendNodeHeartbeatRequest(node=link._node, heartbeat_interval=10)
    with pytest.raises(NetworkError, match="401"):
        link._call(link._client.SendNodeHeartbeat, beat)  # the pull would say so after its hold
    link.__exit__(None, None, None)
    again = _connected(sites["north"], clock, tries=2)
    _pulls_in_vain(again)
    again.__exit__(None, None, None)


def _pulls_in_vain(link: FleetLink) -> None:
    """Nothing waits for us, and nobody refuses us."""
    link._parcels.held_seconds = 0.5
    with pytest.raises(NetworkError, match="ReadTimeout"):
        link.pull()
