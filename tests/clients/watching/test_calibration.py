"""Outcomes against stated risks: which count, when, and what is found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flo.clients.watching.calibration import (
    GRACE_DAYS,
    LATE_DAYS,
    TOLERATED,
    Kept,
    OutcomeWatch,
    log_outcomes,
)
from flo.scores.change_detector import times_odds
from tests.clients.watching.builders import FIRST, kept

FOLLOW_UP = 30


def watch_of(days: dict[int, list[Kept]]) -> tuple[OutcomeWatch, dict[int, list[Kept]]]:
    watch = OutcomeWatch({"all patients": -1.0}, -2.0)
    watch.next_day = watch.next_late = FIRST
    return watch, days


def take(watch: OutcomeWatch, days: dict[int, list[Kept]], today: int) -> int:
    """Let monitors count on a day; return how many outcomes are counted by then."""

    def of_day(day: int) -> Sequence[Kept]:
        return [
            one if one.reported <= FIRST + today else replace(one, outcome=None, reported=0)
            for one in days.get(day - FIRST, [])
        ]

    def unknown(day: int) -> int:
        return sum(one.outcome is None for one in of_day(day))

    watch.take(FIRST + today, FOLLOW_UP, of_day, unknown)
    return watch.since(0, "all patients").known


@given(
    risk=st.floats(0.001, 0.999),
    odds=st.floats(1 / TOLERATED, TOLERATED),
)
def test_no_factor_rises_on_average_while_odds_are_within_what_is_tolerated(
    risk: float, odds: float
) -> None:
    rate = float(times_odds(np.array(risk), odds))
    one, none = np.ones(1), np.zeros(1)
    of = [np.exp(log_outcomes(np.array([risk]), *had)) for had in ((none, one), (one, none))]
    assert ((1 - rate) * of[0] + rate * of[1] <= 1 + 1e-9).all()
    unknown = np.exp(log_outcomes(np.array([risk]), none, none))
    assert (unknown <= np.minimum(of[0], of[1]) + 1e-12).all(), "never above the true one"


def test_a_death_that_is_known_early_counts_with_the_others_of_its_day() -> None:
    watch, days = watch_of({0: [*kept([True], day=2), *kept([False] * 9, day=30)]})
    assert take(watch, days, 20) == 0
    assert take(watch, days, 30) == 0, "the follow-up of the last patient of that day is not over"
    assert take(watch, days, 31) == 10
    assert watch.since(0, "all patients").had == 1
    assert watch.since(0, "all patients").stated == pytest.approx(2.0)


def test_a_day_waits_for_its_outcomes_and_holds_up_later_days() -> None:
    watch, days = watch_of({0: kept([True] * 9 + [None]), 1: kept([False] * 10)})
    assert take(watch, days, 35) == 0
    assert take(watch, days, FOLLOW_UP + GRACE_DAYS) == 0
    assert take(watch, days, FOLLOW_UP + GRACE_DAYS + 1) == 19


def test_who_is_never_reported_raises_no_alarm() -> None:
    """A fifth dies as stated; of those who live, nobody ever hears."""
    days = {day: kept([True] * 20 + [None] * 80, day=day + 5) for day in range(60)}
    watch, _ = watch_of(days)
    for today in range(60 + FOLLOW_UP + GRACE_DAYS + 2):
        take(watch, days, today)
    assert (watch.now()["all patients"].evidence() < 1).all()
    assert watch.since(0, "all patients").known == 1200


def test_an_outcome_that_is_reported_after_its_day_was_counted_changes_nothing() -> None:
    watch, days = watch_of({0: kept([True] * 9 + [None])})
    before = take(watch, days, FOLLOW_UP + GRACE_DAYS + 1)
    days[0][-1] = replace(days[0][0], reported=FIRST + 62)
    assert take(watch, days, 70) == before == 9


def test_late_outcomes_are_found_against_the_first_60_days() -> None:
    usual = {day: kept([False] * 20, day=day + FOLLOW_UP) for day in range(60)}
    late = {day: kept([False] * 20, day=day + FOLLOW_UP + 12) for day in range(60, 80)}
    watch, days = watch_of(usual | late)
    for today in range(60 + FOLLOW_UP + LATE_DAYS + 2):
        take(watch, days, today)
    found = watch.late()
    assert found is not None
    assert found.evidence()[0] < 3
    for today in range(99, 110):
        take(watch, days, today)
    found = watch.late()
    assert found is not None
    assert found.evidence()[0] > 10
    watch.restart_late(anew=False)
    assert watch.late() is not None, "the cause is mended, and the baseline stays"
    watch.restart_late(anew=True)
    assert watch.late() is None


def test_a_file_of_outcomes_once_a_month_is_no_change() -> None:
    months = {day: kept([False] * 20, day=30 * -(-(day + FOLLOW_UP) // 30)) for day in range(240)}
    watch, days = watch_of(months)
    for today in range(240 + FOLLOW_UP):
        take(watch, days, today)
        found = watch.late()
        assert found is None or found.evidence()[0] < 8, "12 is an alarm"


def test_odds_that_doubled_are_found_in_the_right_direction() -> None:
    generator, risks = np.random.default_rng(1), np.full(400, 0.2)
    for odds, wanted in ((2.0, 0), (0.5, 1)):
        had = generator.random(400) < times_odds(risks, odds)
        watch, _ = watch_of({})
        watch.count(FIRST, "all patients", kept(had.tolist()))
        evidence = watch.now()["all patients"].evidence()
        assert int(np.argmax(evidence)) == wanted
        assert evidence[wanted] > 5
        watch.restart("all patients")
        assert (watch.now()["all patients"].evidence() <= 1e-9).all()


def test_it_comes_back_from_its_file_as_it_was() -> None:
    watch, days = watch_of({day: kept([False] * 20, day=day + FOLLOW_UP) for day in range(20)})
    for today in range(62):
        take(watch, days, today)
    other, _ = watch_of({})
    other.take_state(watch.to_state())
    assert other.to_state() == watch.to_state()
