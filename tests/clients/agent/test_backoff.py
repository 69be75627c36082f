"""When an agent tries to connect again."""

from __future__ import annotations

from flo.clients.agent.agent import Backoff


def test_it_waits_longer_each_time_and_two_seconds_at_most_in_the_first_minute() -> None:
    backoff = Backoff(lambda: 0.0)
    waits = [backoff.next() for _ in range(50)]
    assert 0.1 <= waits[0] <= 0.3
    assert max(waits) <= 2
    assert min(waits[6:]) >= 1


def test_after_a_minute_it_waits_half_a_minute_at_most() -> None:
    now = [0.0]
    backoff = Backoff(lambda: now[0])
    for _ in range(20):
        backoff.next()
    now[0] = 61
    waits = [backoff.next() for _ in range(100)]
    assert min(waits) > 2
    assert max(waits) <= 30


def test_no_two_agents_wait_for_the_same_time() -> None:
    waits = {Backoff(lambda: 0.0).next() for _ in range(20)}
    assert len(waits) > 15
