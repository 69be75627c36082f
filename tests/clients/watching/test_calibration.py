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

    watch.take(FIRST + today, FOLLOW_UP, of_day)
    return watch.since(0, "all patients").known


@given(
    risk=st.floats(0.001, 0.999),
    odds=st.floats(1 / TOLERATED, TOLERATED),
)
def test_no_factor_rises_on_average_while_odds_are_within_what_is_tolerated(
    risk: float, odds: float
) -> None:
    rate = float(times_odds(np.array(risk), odds))
    of = [np.exp(log_outcomes(np.array([risk]), np.array([float(had)]))) for had in (0, 1)]
    assert ((1 - rate) * of[0] + rate * of[1] <= 1 + 1e-9).all()


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
    assert take(watch, days, FOLLOW_UP + GRACE_DAYS + 1) == 19, "one in ten may stay unknown"


def test_a_day_of_which_too_much_is_unknown_is_left_out() -> None:
    watch, days = watch_of({0: kept([True] * 8 + [None] * 2), 1: kept([False] * 10)})
    assert take(watch, days, FOLLOW_UP + GRACE_DAYS + 1) == 10
    assert watch.since(0, "all patients").had == 0


def test_an_outcome_that_is_reported_after_its_day_was_counted_changes_nothing() -> None:
    watch, days = watch_of({0: kept([True] * 9 + [None])})
    before = take(watch, days, FOLLOW_UP + GRACE_DAYS + 1)
    days[0][-1] = replace(days[0][0], reported=FIRST + 62)
    assert take(watch, days, 70) == before == 9


def test_late_outcomes_are_found_against_the_first_300() -> None:
    usual = {day: kept([False] * 20, day=day + FOLLOW_UP) for day in range(20)}
    late = {day: kept([False] * 20, day=day + FOLLOW_UP + 12) for day in range(20, 40)}
    watch, days = watch_of(usual | late)
    for today in range(20 + FOLLOW_UP + LATE_DAYS + 1):
        take(watch, days, today)
    found = watch.late()
    assert found is not None
    assert found.evidence()[0] < 1
    for today in range(58, 62):
        take(watch, days, today)
    found = watch.late()
    assert found is not None
    assert found.evidence()[0] > 10
    watch.restart_late()
    assert watch.late() is None


def test_odds_that_doubled_are_found_in_the_right_direction() -> None:
    generator, risks = np.random.default_rng(1), np.full(400, 0.2)
    for odds, wanted in ((2.0, 0), (0.5, 1)):
        had = generator.random(400) < times_odds(risks, odds)
        watch, _ = watch_of({})
        watch.count(FIRST, "all patients", risks, had.astype(float))
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
