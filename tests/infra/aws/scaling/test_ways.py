"""What ways to serve do, against a queue that is played, an exhaustive search, and by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from flo.infra.aws.scaling.ways import (
    Function,
    Machine,
    Outcome,
    Way,
    open_hours,
    oracle,
    simulate,
)

MACHINE = Machine("ml.m5.large", price=0.12, service=0.005, requests=100.0)
FUNCTION = Function(price=1e-6, warm=0.01, cold=0.4)


def outcome(way: Way, rates: object, forecast: object = 0.0) -> Outcome:
    minutes = np.asarray(rates, float)
    expected = np.broadcast_to(np.asarray(forecast, float), len(minutes) // 60)
    return simulate(way, minutes, expected, MACHINE, FUNCTION)


def test_p99_of_a_machine_is_that_of_a_queue_that_is_played() -> None:
    """Lindley's recursion over two million requests, at the rate that is said to meet the bound."""
    service, bound = 0.005, 0.1
    machine = Machine.within("x", 1.0, service, bound)
    draw = np.random.default_rng(1)
    count = 2_000_000
    gaps = draw.exponential(1 / machine.requests, count)
    work = draw.exponential(service, count)
    steps = np.concatenate([[0.0], (work[:-1] - gaps[1:]).cumsum()])
    waits = steps - np.minimum.accumulate(steps)
    assert np.quantile(waits + work, 0.99) == pytest.approx(bound, rel=0.05)


def test_a_bound_that_no_machine_meets_leaves_no_request() -> None:
    assert Machine.within("x", 1.0, 0.1, 0.3).requests == 0


def test_machines_refuse_what_is_beyond_them() -> None:
    found = outcome(Way("x", 2, 2), np.full(120, 250.0))
    assert found.unserved == pytest.approx(50 / 250)
    assert found.spilled == 0
    assert found.cost == pytest.approx(2 * 2 * 0.12)


def test_the_function_takes_it_where_it_is_asked() -> None:
    found = outcome(Way("x", 2, 2, spills=True), np.full(120, 250.0))
    assert found.unserved == 0
    assert found.spilled == pytest.approx(50 / 250)
    assert found.cost == pytest.approx(2 * 2 * 0.12 + 50 * 7200 * 1e-6)


def test_the_function_alone_costs_its_requests_and_has_a_limit_of_its_own() -> None:
    found = outcome(Way("x", 0, 0), np.full(60, 1000.0))
    assert found.cost == pytest.approx(3600 * 1000 * 1e-6)
    assert (found.unserved, found.machine_hours, found.p99) == (0, 0, FUNCTION.warm)
    most = FUNCTION.at_once / FUNCTION.warm
    assert outcome(Way("x", 0, 0), np.full(60, 2 * most)).unserved == pytest.approx(0.5)


def test_a_function_that_is_rarely_asked_answers_cold() -> None:
    assert outcome(Way("x", 0, 0), np.full(60, 1 / 3600)).p99 == FUNCTION.cold
    assert outcome(Way("x", 0, 0), np.full(60, 1.0)).p99 == FUNCTION.warm


def test_of_a_burst_after_silence_only_the_first_requests_are_cold() -> None:
    rates = np.zeros(600)
    rates[::60] = 1000.0  # for a minute of each hour
    assert outcome(Way("x", 0, 0), rates).p99 == FUNCTION.warm
    slow = Function(price=1e-6, warm=0.01, cold=2.0)  # two of sixty seconds are more than 1 %
    assert simulate(Way("x", 0, 0), rates, np.zeros(10), MACHINE, slow).p99 == slow.cold


def test_tracking_adds_machines_after_three_minutes_and_they_answer_five_later() -> None:
    rates = np.concatenate([np.full(60, 50.0), np.full(60, 250.0)])
    found = outcome(Way("x", 1, 10, target=0.8), rates)
    minutes_short = 3 + 5 - 1  # the third minute above the target asks
    assert found.unserved == pytest.approx(150 * minutes_short / rates.sum())
    assert found.machine_hours == pytest.approx((63 + 57 * 4) / 60)


def test_tracking_removes_machines_after_fifteen_minutes() -> None:
    rates = np.concatenate([np.full(120, 300.0), np.full(120, 50.0)])  # 75 % of four machines
    found = outcome(Way("x", 1, 10, target=0.8), rates)
    assert found.machine_hours == pytest.approx((3 + 117 * 4 + 15 * 4 + 105) / 60)


def test_tracking_stays_between_least_and_most() -> None:
    found = outcome(Way("x", 2, 3, target=0.5), np.full(240, 500.0))
    assert found.machine_hours == pytest.approx(3 * 4, abs=0.1)
    assert outcome(Way("x", 2, 3, target=0.5), np.full(240, 1.0)).machine_hours == 2 * 4


def test_machines_of_a_calendar_are_there_when_their_hour_begins() -> None:
    rates = np.concatenate([np.full(60, 50.0), np.full(60, 350.0), np.full(60, 50.0)])
    exact = [50.0, 350.0, 50.0]
    found = outcome(Way("x", 1, 10, ahead=1.0), rates, exact)
    assert found.unserved == 0
    assert found.machine_hours == pytest.approx((60 + 60 * 4 + 60 + 5 * 3) / 60)


def test_a_calendar_under_tracking_is_early_too_and_surprises_are_followed() -> None:
    rates = np.concatenate([np.full(60, 50.0), np.full(120, 350.0)])
    way = Way("x", 1, 10, target=0.95, ahead=1.0)
    assert outcome(way, rates, [50.0, 350.0, 350.0]).unserved == 0
    surprised = outcome(way, rates, [50.0, 50.0, 50.0])
    assert 0 < surprised.unserved < 250 * 8 / rates.sum()


def test_an_endpoint_that_is_opened_answers_two_starts_later_and_the_function_until_then() -> None:
    rates = np.concatenate([np.full(240, 1.0), np.full(60, 90.0), np.full(240, 1.0)])
    way = Way("x", 1, 1, from_rate=50.0, spills=True)
    found = outcome(way, rates, [1, 1, 1, 1, 90, 1, 1, 1, 1])
    assert found.unserved == 0
    assert found.spilled == pytest.approx((480 * 1 + 10 * 90) / rates.sum())
    assert found.machine_hours == pytest.approx((60 + 5) / 60)  # and the check


def test_an_endpoint_is_not_deleted_for_two_hours() -> None:
    day = np.array([0, 1, 0, 0, 1, 0, 0, 0, 1, 0], float)
    assert open_hours(day, 1.0).astype(int).tolist() == [1, 1, 1, 1, 1, 0, 0, 0, 1, 1]
    assert open_hours(np.zeros(5), 1.0).sum() == 0
    assert open_hours(np.ones(5), 1.0).sum() == 5


@pytest.mark.parametrize("price", [5e-6, 1e-6, 2e-7])
def test_the_oracle_is_the_best_of_all_plans_of_machines(price: float) -> None:
    """Of all numbers of machines in each of six minutes; each that is added costs its start."""
    machine = Machine("x", price=0.12, service=0.005, requests=100.0, start_minutes=2)
    rates = np.array([30.0, 260.0, 240.0, 10.0, 170.0, 290.0])

    def cost(counts: tuple[int, ...]) -> float:
        added = sum(max(0, after - before) for before, after in itertools.pairwise(counts))
        over = np.maximum(rates - np.array(counts) * machine.requests, 0).sum()
        minutes = sum(counts) + 2 * added
        return minutes * machine.price / 60 + float(over) * 60 * price

    best = min(cost(counts) for counts in itertools.product(range(4), repeat=6))
    assert oracle(rates, machine, Function(price, 0.01, 0.4)) == pytest.approx(best)


def test_more_requests_never_cost_the_oracle_less() -> None:
    rates = np.random.default_rng(3).gamma(0.7, 120, 600)
    costs = [oracle(rates * factor, MACHINE, FUNCTION) for factor in (0.1, 0.5, 1, 2, 4)]
    assert costs == sorted(costs)
