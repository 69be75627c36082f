"""Presence: the last connection of a certificate closed, and nobody came back within the grace."""

from __future__ import annotations

import asyncio
import secrets
import selectors
import ssl
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from flo.clients.connection.coordinator_clock import CoordinatorClock
from flo.clients.connection.flower import FleetLink
from flo.clients.home.site_home import SiteHome
from flo.http.presence import ConnectionTracker
from flo.server.http.tokens import issue
from flo.server.maintenance.invitations import invite
from tests.server.real_coordinator import RealCoordinator, ask

NORTH, SOUTH = b"certificate of north", b"certificate of south"
GRACE = 1.0


class _Jump(selectors.SelectSelector):
    """Waits for no time: the loop's clock jumps to when something is due."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.now += timeout or 0
        return super().select(0)


class JumpingLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jump = _Jump()
        super().__init__(self._jump)

    def time(self) -> float:
        return self._jump.now


class Story:
    """Connections that open and close at stated times, and when who was found gone."""

    def __init__(self) -> None:
        self.gone: list[tuple[bytes, float]] = []
        self.presence = ConnectionTracker(lambda who: self.gone.append((who, self.now)))

    @property
    def now(self) -> float:
        return round(asyncio.get_running_loop().time(), 3)

    async def until(self, second: float) -> None:
        await asyncio.sleep(second - self.now)


def told(tell: Callable[[Story], Awaitable[None]]) -> list[tuple[bytes, float]]:
    async def main() -> Story:
        story = Story()
        await tell(story)
        await asyncio.sleep(100)
        return story

    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        return runner.run(main()).gone


def test_a_hospital_is_gone_once_after_the_grace_when_its_last_connection_closes() -> None:
    async def tell(story: Story) -> None:
        story.presence.opened(NORTH)
        await story.until(5)
        story.presence.closed(NORTH)

    assert told(tell) == [(NORTH, 5 + GRACE)]


def test_nobody_is_gone_while_another_connection_is_open() -> None:
    async def tell(story: Story) -> None:
        for _ in range(3):
            story.presence.opened(NORTH)
        for second in (1, 5):
            await story.until(second)
            story.presence.closed(NORTH)
        await story.until(50)
        assert story.gone == []
        story.presence.closed(NORTH)

    assert told(tell) == [(NORTH, 50 + GRACE)]


def test_the_grace_begins_with_the_last_of_several_connections() -> None:
    async def tell(story: Story) -> None:
        story.presence.opened(NORTH)
        story.presence.opened(NORTH)
        story.presence.closed(NORTH)
        await story.until(0.5)
        story.presence.closed(NORTH)

    assert told(tell) == [(NORTH, 0.5 + GRACE)]


@pytest.mark.parametrize("away", [0.0, 0.5, 0.9])
def test_who_reconnects_within_the_grace_is_not_gone(away: float) -> None:
    async def tell(story: Story) -> None:
        story.presence.opened(NORTH)
        story.presence.closed(NORTH)
        await story.until(away)
        story.presence.opened(NORTH)

    assert told(tell) == []


def test_who_comes_back_after_the_grace_was_gone_and_can_be_gone_again() -> None:
    async def tell(story: Story) -> None:
        for second in (0, 10):
            await story.until(second)
            story.presence.opened(NORTH)
            story.presence.closed(NORTH)
        await story.until(20)
        story.presence.opened(NORTH)

    assert told(tell) == [(NORTH, GRACE), (NORTH, 10 + GRACE)]


def test_each_certificate_counts_for_itself() -> None:
    async def tell(story: Story) -> None:
        story.presence.opened(NORTH)
        story.presence.opened(SOUTH)
        story.presence.closed(NORTH)

    assert told(tell) == [(NORTH, GRACE)]


def test_the_grace_begins_anew_with_the_last_closing() -> None:
    async def tell(story: Story) -> None:
        story.presence.opened(NORTH)
        story.presence.closed(NORTH)
        await story.until(0.5)
        story.presence.opened(NORTH)  # back in time
        await story.until(0.9)
        story.presence.closed(NORTH)
        await story.until(1.1)
        story.presence.opened(NORTH)  # and again, 0.2 seconds later

    assert told(tell) == []


def test_who_flaps_before_it_goes_is_gone_once() -> None:
    async def tell(story: Story) -> None:
        for second in (0, 0.3, 0.6):
            await story.until(second)
            story.presence.opened(NORTH)
            story.presence.closed(NORTH)

    assert told(tell) == [(NORTH, 0.6 + GRACE)]


# -- the real listener -----------------------------------------------------------------------------

CRASH_SECONDS = 5.0


def is_online(coordinator: RealCoordinator, home: SiteHome) -> bool:
    """What a viewer is told about this hospital."""
    token, _ = issue(coordinator.home.open_identity(), "tests", "viewer", 60)
    headers = {"authorization": f"Bearer {token}"}
    known = coordinator.private("GET", "/v1/flo/hospitals", headers=headers).document
    (found,) = (hospital for hospital in known if hospital["id"] == home.read_config().hospital)
    return bool(found["online"])


@pytest.fixture
def agent(coordinator: RealCoordinator, tmp_path: Path) -> Iterator[tuple[SiteHome, FleetLink]]:
    """An agent with one connection open, of a hospital of its own."""
    home = coordinator.enrol(tmp_path, f"clinic-{secrets.token_hex(4)}")
    link = FleetLink(
        home.read_coordinator().url,
        coordinator.site(home),
        home.open_identity(),
        CoordinatorClock(),
    )
    time.sleep(1.5 * GRACE)  # the connection that enrolled it is gone by now
    with link:
        link._stop.set()  # a heartbeat would bring it back online before a test has looked
        yield home, link


@pytest.mark.processes
def test_an_agent_that_dies_is_offline_within_seconds(
    coordinator: RealCoordinator, agent: tuple[SiteHome, FleetLink]
) -> None:
    home, link = agent
    assert is_online(coordinator, home)
    link._client.close()  # as its kernel does
    link._client = link._new_client()  # for the fixture's end; not connected yet
    died = time.monotonic()
    while is_online(coordinator, home):
        assert time.monotonic() < died + CRASH_SECONDS
        time.sleep(0.05)
    assert time.monotonic() > died + GRACE / 2


@pytest.mark.processes
def test_an_agent_stays_online_when_another_connection_of_its_site_closes(
    coordinator: RealCoordinator, agent: tuple[SiteHome, FleetLink]
) -> None:
    home, _ = agent
    visit(coordinator, coordinator.site(home))
    time.sleep(1.5 * GRACE)
    assert is_online(coordinator, home)


@pytest.mark.processes
@pytest.mark.parametrize("kind", ["an invitation", "a certificate that is not enrolled"])
def test_a_certificate_that_opens_nothing_takes_no_agent_offline(
    coordinator: RealCoordinator, agent: tuple[SiteHome, FleetLink], tmp_path: Path, kind: str
) -> None:
    home, _ = agent
    name = home.read_config().hospital
    if kind == "an invitation":
        visit(coordinator, coordinator.invited(invite(coordinator.home, name)))
    else:
        visit(coordinator, coordinator.issued(name))
    time.sleep(1.5 * GRACE)
    assert is_online(coordinator, home)


def visit(coordinator: RealCoordinator, shown: ssl.SSLContext) -> None:
    """One connection, which asks something and is closed."""
    with coordinator.connection(coordinator.port, shown) as connection:
        ask(connection, "POST", "/v1/site/studies", body=b"{}")
