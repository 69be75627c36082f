"""New connections of one address have a pace; nobody else waits for them."""

from __future__ import annotations

import itertools

import pytest

from flo.http.asgi import Refused
from flo.http.connection_rate import ConnectionRate
from flo.server.listeners.extract_turns import WAIT_SECONDS, ExtractTurns


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def begun(pace: ConnectionRate, address: str, most: int = 1000) -> list[float]:
    """The waits of connections that come at once, up to the first that is refused."""
    waits = (pace.wait(address) for _ in range(most))
    return [w for w in itertools.takewhile(lambda wait: wait is not None, waits) if w is not None]


def test_many_begin_at_once_some_wait_and_the_rest_are_refused() -> None:
    waits = begun(ConnectionRate(clock=Clock()), "192.0.2.1")
    assert waits[:128] == [0.0] * 128
    assert waits[128:] == pytest.approx([n / 20 for n in range(1, 61)])


def test_who_was_refused_does_not_wait_longer_for_that() -> None:
    clock = Clock()
    pace = ConnectionRate(clock=clock)
    begun(pace, "192.0.2.1")
    assert [pace.wait("192.0.2.1") for _ in range(5000)] == [None] * 5000
    clock.now += 1.0
    assert len(begun(pace, "192.0.2.1")) == 20
    clock.now += 60.0
    assert len(begun(pace, "192.0.2.1")) == 188


def test_another_address_does_not_wait() -> None:
    pace = ConnectionRate(clock=Clock())
    begun(pace, "192.0.2.1")
    assert pace.wait("192.0.2.2") == 0.0


def test_addresses_of_one_ipv6_network_share_its_pace() -> None:
    pace = ConnectionRate(clock=Clock())
    begun(pace, "2001:db8::1")
    assert pace.wait("2001:db8::ffff") is None
    assert pace.wait("fe80::1%eth0") == 0.0
    assert pace.wait("2001:db8:0:1::1") == 0.0


def test_ipv4_addresses_at_a_listener_of_ipv6_are_apart() -> None:
    pace = ConnectionRate(clock=Clock())
    begun(pace, "::ffff:192.0.2.1")
    assert pace.wait("192.0.2.1") is None
    assert pace.wait("::ffff:192.0.2.2") == 0.0


def test_addresses_are_forgotten() -> None:
    clock = Clock()
    pace = ConnectionRate(clock=clock)
    for number in range(30_000):
        clock.now += 0.01
        assert pace.wait(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}") == 0.0
    assert len(pace._next) <= 10_000


# -- extracts --------------------------------------------------------------------------------------


def test_extracts_of_one_hospital_are_read_one_at_a_time() -> None:
    turns = ExtractTurns(Clock())
    with turns.of("north"):
        with pytest.raises(Refused, match="another extract is being read") as refused:
            turns.of("north").__enter__()
        assert refused.value.status == 429
        with turns.of("south"):
            pass
    with turns.of("north"):
        pass


def test_after_one_that_was_none_the_next_waits_and_no_other_hospital() -> None:
    clock = Clock()
    turns = ExtractTurns(clock)
    with turns.of("north"):
        turns.wasted("north")
    with pytest.raises(Refused, match="after an invalid extract"):
        turns.of("north").__enter__()
    with turns.of("south"):
        pass
    clock.now += WAIT_SECONDS
    with turns.of("north"):
        pass
