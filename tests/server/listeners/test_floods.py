"""One party that wants too much at once: what it may take up, and what is left for the others."""

from __future__ import annotations

import contextlib
import http.client
import select
import socket
import ssl
import struct
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import closing
from pathlib import Path

import pytest

from flo.clients.home.site_home import SiteHome
from flo.server.flower.superlink import PUBLIC_KEY_HEADER
from flo.server.listeners.hospital_listener import MAX_SITE_BODY
from tests.server.real_coordinator import RealCoordinator, ask, key_header, new_home, served

pytestmark = pytest.mark.processes

PUSH, STUDIES, REPORTS = "/v1/fleet/push-object", "/v1/site/studies", "/v1/site/reports"
AT_ONCE, FILES, MOST, OF_ONE = 3 * MAX_SITE_BODY // 2, 240, 24, 8

SMALL = f"""
import resource
import flo.server.listeners.hospital_listener
import flo.http.protocol
flo.http.protocol.MOST_OF_ONE = {OF_ONE}
flo.server.listeners.hospital_listener.MOST_AT_ONCE = {AT_ONCE}
resource.setrlimit(resource.RLIMIT_NOFILE, ({FILES}, {FILES}))
"""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealCoordinator]:
    """A coordinator with few files and room for a MiB and a half of each hospital's messages."""
    home = new_home(tmp_path_factory.mktemp("small") / "home")
    with served(RealCoordinator(home, SMALL)) as real:
        yield real


@pytest.fixture(scope="module")
def pair(small: RealCoordinator, tmp_path_factory: pytest.TempPathFactory) -> list[SiteHome]:
    return [small.enrol(tmp_path_factory.mktemp(name), name) for name in ("north", "south")]


@contextlib.contextmanager
def uploading(
    coordinator: RealCoordinator, site: SiteHome, size: int, *, of: int
) -> Iterator[http.client.HTTPSConnection]:
    """A message of ``of`` bytes under way, ``size`` of them sent."""
    with coordinator.connection(coordinator.port, coordinator.site(site)) as connection:
        connection.putrequest("POST", PUSH)
        for name, value in {PUBLIC_KEY_HEADER: key_header(site), "content-length": str(of)}.items():
            connection.putheader(name, value)
        connection.endheaders(bytes(size))
        yield connection


def push(coordinator: RealCoordinator, site: SiteHome, size: int) -> int:
    with uploading(coordinator, site, size, of=size) as connection:
        return connection.getresponse().status


def test_all_messages_of_a_hospital_at_once_are_bounded_and_anothers_go_on(
    small: RealCoordinator, pair: list[SiteHome]
) -> None:
    north, south = pair
    part = MAX_SITE_BODY * 9 // 10
    assert push(small, north, part) != 429
    with (
        ThreadPoolExecutor(2) as readers,
        uploading(small, north, part, of=MAX_SITE_BODY) as first,
        uploading(small, north, part, of=MAX_SITE_BODY) as second,
    ):
        reading = [readers.submit(upload.getresponse) for upload in (first, second)]
        (cut,), (going_on,) = wait(reading, 10, FIRST_COMPLETED)
        assert cut.result().status == 429
        assert push(small, south, part) != 429
        assert not going_on.done()
        assert small.outside("POST", STUDIES, small.site(north), body=b"{}").status == 200
        for upload in (first, second):
            upload.sock.shutdown(socket.SHUT_RDWR)
    end = time.monotonic() + 10
    while push(small, north, part) == 429:  # until the coordinator has seen that they are gone
        assert time.monotonic() < end
    assert f"concurrent requests exceed {AT_ONCE} bytes" in (
        small.home.directory / "log" / "coordinator.jsonl"
    ).read_text(encoding="utf-8")


@pytest.mark.parametrize("which", ["hospitals", "operators"])
def test_connections_that_do_nothing_leave_files_for_all_else(
    small: RealCoordinator, pair: list[SiteHome], which: str
) -> None:
    port, other = small.port, small.private_port
    if which == "operators":
        port, other = other, port
    with contextlib.ExitStack() as stack:
        idle = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            for _ in range(FILES + 10)
        ]
        end = time.monotonic() + 5
        closed: list[socket.socket] = []
        while len(closed) < len(idle) - MOST:
            assert time.monotonic() < end, f"{len(closed)} of {len(idle)} were closed"
            closed, _, _ = select.select(idle, [], [], 0.1)
        context = small.site(pair[0]) if other == small.port else small.anonymous()
        method, path = ("POST", STUDIES) if other == small.port else ("GET", "/health")
        with small.connection(other, context) as connection:
            assert ask(connection, method, path, body=b"{}").status in (200, 204)
    log = (small.home.directory / "serve.log").read_text()
    assert "could not be accepted" not in log
    end = time.monotonic() + 20
    while True:
        with contextlib.suppress(OSError):
            assert small.outside("POST", STUDIES, small.site(pair[0]), body=b"{}").status == 200
            assert small.private("GET", "/health").status == 204
            return
        assert time.monotonic() < end
        time.sleep(0.1)


def test_one_certificate_cannot_hold_every_connection(
    small: RealCoordinator, pair: list[SiteHome]
) -> None:
    """What is more is cut, and entered in its hospital's name; another hospital goes on."""
    north, south = pair
    with contextlib.ExitStack() as stack:
        held = [
            stack.enter_context(small.connection(small.port, small.site(north)))
            for _ in range(OF_ONE)
        ]
        for connection in held:
            assert ask(connection, "POST", STUDIES, body=b"{}").status == 200
        with (
            small.connection(small.port, small.site(north)) as one_more,
            pytest.raises((ConnectionError, ssl.SSLError, http.client.HTTPException)),
        ):
            ask(one_more, "POST", STUDIES, body=b"{}")
        assert ask(held[0], "POST", STUDIES, body=b"{}").status == 200
        with small.connection(small.port, small.site(south)) as another:
            assert ask(another, "POST", STUDIES, body=b"{}").status == 200
    with closing(small.home.open_store()) as store:
        told = [event[4] for event in store.events_after(0) if event[2] == "refused-connection"]
    why = f"more than {OF_ONE} connections with one certificate"
    assert {"hospital": "north", "why": why}.items() <= told[-1].items()
    with small.connection(small.port, small.site(north)) as again:
        assert ask(again, "POST", STUDIES, body=b"{}").status == 200


def memory(process: int) -> float:
    """MiB that are resident."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) / 256


def test_nothing_is_kept_of_connections_that_are_reset(
    coordinator: RealCoordinator, sites: dict[str, SiteHome]
) -> None:
    """uvicorn leaves a timer of 75 s running, which holds a connection's buffers of 256 KiB."""
    north = sites["north"]
    context, body = coordinator.site(north), bytes(600_000)

    def asked_and_reset() -> None:
        with coordinator.connection(coordinator.port, context) as connection:
            assert ask(connection, "POST", STUDIES, body=body).status == 400
            now = struct.pack("ii", 1, 0)  # close by a reset
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, now)

    for _ in range(20):
        asked_and_reset()
    before = memory(coordinator.pid)
    for _ in range(100):
        asked_and_reset()
    assert memory(coordinator.pid) - before < 10


def test_after_an_extract_that_is_none_the_next_is_not_read_for_a_while(
    coordinator: RealCoordinator, sites: dict[str, SiteHome]
) -> None:
    south, west = (coordinator.site(sites[name]) for name in ("south", "west"))
    assert coordinator.outside("POST", REPORTS, south, body=b"[" * 1_000_000).status == 400
    assert coordinator.outside("POST", REPORTS, south, body=b"{}").status == 429
    assert coordinator.outside("POST", STUDIES, south, body=b"{}").status == 200
    assert coordinator.outside("POST", REPORTS, west, body=b"{}").status == 400
