"""What outcomes show of two versions, with rows that could mislead."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from flo.clients.comparison.result import FIRST, ComparedResult, results
from flo.clients.comparison.words import in_words
from flo.clients.records.compared_answers import ComparedAnswer
from tests.clients.comparison.test_terms import comparison

DAY, NOW = 86_400.0, 1_000 * 86_400.0
TERMS = comparison(10)  # version 2 beside version 1, outcomes after 30 days


def row(number: int, own: float | None, old: float | None, outcome: bool | None) -> ComparedAnswer:
    reported = 0.0 if outcome is None else (number + 20) * DAY
    risks = {2: own, 1: old}
    return ComparedAnswer(f"{number:036}", f"p{number}", number * DAY, 1, risks, outcome, reported)


def result(rows: list[ComparedAnswer], now: float = NOW) -> ComparedResult:
    (found,) = results(TERMS, sorted(rows, key=lambda one: one.time), now)
    return found


def others(count: int = FIRST) -> list[ComparedAnswer]:
    """Patients of later days, whose outcomes are not known: their risks set the cap, log 3."""
    return [row(500 + number, 0.75, 0.5, outcome=None) for number in range(count)]


def gains(rows: list[ComparedAnswer], now: float = NOW) -> list[float]:
    """g of each patient whose outcome counts, in their order."""
    found = result([*rows, *others()], now)
    return [round(float(found.cap * one), 9) for one in found.gains]


def log(ratio: float) -> float:
    return round(math.log(ratio), 9)


def test_a_gain_says_how_much_likelier_it_found_what_happened() -> None:
    rows = [row(1, 0.5, 0.25, outcome=True), row(2, 0.5, 0.25, outcome=False)]
    assert gains(rows) == [log(0.5 / 0.25), log(0.5 / 0.75)]
    found = result([*rows, *others()])
    assert (found.patients, found.due) == (102, 102)
    assert abs(found.cap - math.log(3)) < 1e-12
    last = found.looks()[-1]
    assert abs(last.gain - 100 * (math.sqrt(2 * 2 / 3) - 1)) < 1e-9
    assert last.low < last.gain < last.high


def test_before_a_hundred_patients_were_scored_nothing_is_said() -> None:
    rows = [row(1, 0.5, 0.25, outcome=True)]
    assert len(result([*rows, *others(FIRST - 2)]).gains) == 0
    assert len(result([*rows, *others(FIRST - 1)]).gains) == 1
    said = in_words(TERMS, result(rows))
    assert "100 patients have to be scored before any does" in " ".join(said)


def test_risks_that_are_further_apart_than_those_of_the_first_hundred_count_as_the_cap() -> None:
    first = [row(number, 0.6, 0.5, outcome=None) for number in range(FIRST)]
    found = result([*first, row(FIRST, 0.99, 0.01, outcome=False)])
    (scaled,) = found.gains
    assert abs(scaled - math.log(0.01 / 0.99) / (2 * math.log(99))) < 1e-12
    assert abs(found.cap - math.log(1.5)) < 1e-12


@pytest.mark.parametrize("outcome", [True, False])
def test_a_risk_of_nothing_or_certainty_is_no_error(outcome: bool) -> None:
    (gain,) = gains([row(1, 0.0, 1.0, outcome=outcome)])
    assert math.isclose(abs(gain), math.log(999), rel_tol=1e-6), "risks count as .001 and .999"


def test_a_patient_counts_once_with_the_first_answer() -> None:
    one = row(1, 0.5, 0.25, outcome=True)
    again = replace(row(2, 0.4, 0.25, outcome=False), patient=one.patient)
    assert gains([again, one]) == [log(2)]
    without = replace(one, risks={2: None, 1: 0.25})
    assert result([without, again]).without == 1
    assert gains([without, again]) == [log(0.6 / 0.75)], "the first with both risks"


def test_an_outcome_counts_after_the_follow_up_only() -> None:
    """A death that is known early must not count before those who live can."""
    rows = [row(1, 0.5, 0.25, outcome=True)]
    assert gains(rows, now=30 * DAY) == []
    assert gains(rows, now=31 * DAY) == [log(2)]


def test_late_reports_do_not_change_what_was_looked_at_before() -> None:
    rows = [row(number, 0.5, 0.25, outcome=number % 2 == 0) for number in range(8)]
    rows[3] = replace(rows[3], outcome=None, reported=0.0)
    before = gains(rows)
    late = replace(rows[3], outcome=True, reported=800 * DAY)
    after = gains([*rows[:3], late, *rows[4:]])
    assert after == [*before, log(2)]


def many(seed: int, odds: float, count: int = 6000) -> list[ComparedAnswer]:
    generator = np.random.default_rng(seed)
    logit = generator.normal(-1, 1.2, count)
    old, own = 1 / (1 + np.exp(-logit)), 1 / (1 + np.exp(-logit - np.log(odds)))
    outcomes = generator.random(count) < old
    return [
        replace(row(number, float(own[number]), float(old[number]), bool(outcomes[number])))
        for number in range(count)
    ]


@pytest.mark.parametrize(("odds", "verdict"), [(3.0, "worse"), (1.0, "not known")])
def test_a_version_with_wrong_odds_is_found(odds: float, verdict: str) -> None:
    found = result(many(4, odds, 900), now=2e9)
    assert found.verdict == verdict
    said = " ".join(in_words(TERMS, found))
    assert ("it is worse than version 1" in said) == (verdict == "worse")
    assert ("nobody can tell yet" in said) == (verdict != "worse")


def test_the_other_way_round_it_is_better() -> None:
    rows = [replace(one, risks={2: one.risks[1], 1: one.risks[2]}) for one in many(4, 3.0, 900)]
    assert result(rows, now=2e9).verdict == "better"


def test_the_screen_says_how_many_outcomes_are_missing() -> None:
    rows = [row(1, 0.5, 0.25, outcome=True), *others()]
    said = " ".join(in_words(TERMS, result(rows)))
    assert "100 of 101 outcomes that are due were not reported" in said
    assert "a probability that was 100.0 % higher than that of version 1" in said


def test_nothing_to_compare_is_no_error() -> None:
    found = result([])
    assert (found.patients, found.apart, found.looks(), found.verdict) == (0, 0.0, (), "not known")
    assert result([replace(row(1, 0.5, 0.25, outcome=True), risks={1: 0.25})]).answers == 0
