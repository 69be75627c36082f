"""The fault bench's own parts: schedules follow from seeds, relays misbehave, checks can fail."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from flo.protocol.messages import Reply, encode_reply
from tests.clients.approved_site import Site, approved_site
from tests.faults.clocks import Clock, can_be_wrong
from tests.faults.federation import Member
from tests.faults.invariants import _of_a_site, sent
from tests.faults.relay import Relay
from tests.faults.schedule import COORDINATOR, KINDS, schedule

SITES = ("east", "north", "south")


# -- schedules -------------------------------------------------------------------------------------


def test_a_schedule_follows_from_its_seed() -> None:
    assert schedule(7, SITES) == schedule(7, SITES[::-1]) != schedule(8, SITES)


def test_every_fault_strikes_whom_it_can_and_within_its_time() -> None:
    faults = [fault for seed in range(300) for fault in schedule(seed, SITES)]
    assert {fault.kind for fault in faults} == set(KINDS)
    for fault in faults:
        whom, shortest, longest = KINDS[fault.kind]
        able = {"anyone": (*SITES, COORDINATOR), "a site": SITES, COORDINATOR: (COORDINATOR,)}
        assert fault.whom in able[whom]
        assert shortest <= fault.seconds <= longest
        assert 0.2 <= fault.at <= 5
    assert {fault.whom for fault in faults if fault.kind == "kill"} == {*SITES, COORDINATOR}


def test_a_schedule_can_leave_kinds_out() -> None:
    chosen = {fault.kind for seed in range(50) for fault in schedule(seed, SITES, ["kill"])}
    assert chosen == {"kill"}


# -- relays ----------------------------------------------------------------------------------------


@pytest.fixture
def echo() -> Iterator[int]:
    """A server that sends back what it gets."""

    def serve(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            while data := connection.recv(65_536):
                connection.sendall(data)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=accept, daemon=True).start()
        yield int(server.getsockname()[1])
        server.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def relay(echo: int) -> Iterator[Relay]:
    made = Relay(echo)
    yield made
    made.close()


def said(connection: socket.socket, data: bytes) -> bytes:
    connection.settimeout(5)
    connection.sendall(data)
    return connection.recv(65_536)


def joined(relay: Relay) -> socket.socket:
    return socket.create_connection(("127.0.0.1", relay.port), timeout=5)


def test_a_relay_passes_bytes_on_and_flips_a_bit_when_told(relay: Relay) -> None:
    with joined(relay) as connection:
        assert said(connection, b"hello") == b"hello"
        relay.corrupt = 1
        assert said(connection, b"hello") != b"hello"
        assert relay.corrupt == 0
        assert said(connection, b"hello") == b"hello"


def test_a_stalled_relay_holds_everything_back_until_it_is_healed(relay: Relay) -> None:
    with joined(relay) as connection:
        assert said(connection, b"one") == b"one"
        relay.stalled = True
        connection.settimeout(0.3)
        connection.sendall(b"two")
        with pytest.raises(TimeoutError):
            connection.recv(10)
        relay.heal()
        connection.settimeout(5)
        assert connection.recv(10) == b"two"


def test_a_partition_ends_connections_and_refuses_new_ones(relay: Relay) -> None:
    with joined(relay) as connection:
        assert said(connection, b"one") == b"one"
        relay.refusing = True
        relay.cut()
        with contextlib.suppress(ConnectionError):
            assert connection.recv(10) == b""
    with joined(relay) as connection, contextlib.suppress(ConnectionError):
        connection.settimeout(5)
        assert connection.recv(10) == b""
    relay.heal()
    with joined(relay) as connection:
        assert said(connection, b"two") == b"two"


# -- clocks ----------------------------------------------------------------------------------------

_ASKS = """
import datetime, ssl, sys, time
for _ in sys.stdin:
    print(time.time(), datetime.datetime.now().timestamp(), time.monotonic(), flush=True)
"""


@pytest.mark.skipif(not can_be_wrong(), reason="no C compiler")
@pytest.mark.processes
def test_a_clock_can_be_wrong_and_be_set_under_a_process(tmp_path: Path) -> None:
    clock = Clock(tmp_path / "clock", ahead=86_400)
    with subprocess.Popen(
        [sys.executable, "-c", _ASKS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **clock.environment},
    ) as process:

        def ahead() -> list[float]:
            assert process.stdin
            assert process.stdout
            process.stdin.write("\n")
            process.stdin.flush()
            said = map(float, process.stdout.readline().split())
            true = (time.time(), time.time(), time.monotonic())
            return [a - b for a, b in zip(said, true, strict=True)]

        assert ahead() == pytest.approx([86_400, 86_400, 0], abs=0.5)
        clock.step(-86_460)
        assert ahead() == pytest.approx([-60, -60, 0], abs=0.5)
        clock.drift(-100)
        time.sleep(0.1)
        first = ahead()[0]
        assert first < 86_391
        time.sleep(0.1)
        assert ahead()[0] < first - 5
        clock.right()
        assert ahead() == pytest.approx([86_400, 86_400, 0], abs=0.5)


# -- checks ----------------------------------------------------------------------------------------


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    yield from approved_site(tmp_path)


def member(site: Site, tmp_path: Path, *replies: Reply) -> Member:
    path = tmp_path / "sent"
    data = [encode_reply(reply) for reply in replies]
    path.write_bytes(b"".join(len(d).to_bytes(4, "big") + d for d in data))
    return Member(site.home, cast(Relay, None), tmp_path / "orders", path)


def wrong(site: Site, tmp_path: Path, *replies: Reply) -> list[str]:
    return list(_of_a_site(member(site, tmp_path, *replies), site.study.digest))


def test_what_left_as_the_ledger_says_is_right(site: Site, tmp_path: Path) -> None:
    reply = site.ask()
    assert list(sent(member(site, tmp_path, reply, reply).sent))[1].header == reply.header
    assert wrong(site, tmp_path, reply, reply) == []


def test_a_reply_that_the_ledger_does_not_have_is_found(site: Site, tmp_path: Path) -> None:
    reply = site.ask()
    later = reply.header.model_copy(update={"round": 2})
    (found,) = wrong(site, tmp_path, Reply(later, reply.values))
    assert "is not in the ledger" in found


def test_other_bits_than_the_ledger_names_are_found(site: Site, tmp_path: Path) -> None:
    reply = site.ask()
    other = Reply(reply.header, reply.values + np.ones_like(reply.values))
    found = wrong(site, tmp_path, reply, other)
    assert [("as it left" in text, "two answers" in text) for text in found] == [
        (True, False),
        (False, True),
    ]


def test_a_ledger_whose_chain_was_broken_is_found(site: Site, tmp_path: Path) -> None:
    import sqlite3

    reply = site.ask()
    site.ledger.close()
    with contextlib.closing(sqlite3.connect(site.home.directory / "ledger.sqlite")) as database:
        database.execute("DELETE FROM rows WHERE sequence = 2")
        database.commit()
    found = wrong(site, tmp_path, reply)
    assert len(found) == 1
    assert "ledger" in found[0]


def test_seeds_of_a_hundred_runs_are_all_different() -> None:
    plans = [tuple(schedule(seed, SITES)) for seed in range(100)]
    assert not any(one == other for one, other in itertools.pairwise(plans))
