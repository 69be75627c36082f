"""What outcomes show of two versions, with rows that could mislead."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from flo.clients.comparison.result import ComparedResult, results
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


def test_a_difference_is_that_of_squared_errors() -> None:
    found = result([row(1, 0.5, 0.25, outcome=True), row(2, 0.5, 0.25, outcome=False)])
    assert found.differences.tolist() == [0.25 - 0.5625, 0.25 - 0.0625]
    assert (found.patients, found.due, found.apart) == (2, 2, 0.25)


def test_a_patient_counts_once_with_the_first_answer() -> None:
    one = row(1, 0.5, 0.25, outcome=True)
    again = replace(row(2, 0.75, 0.25, outcome=False), patient=one.patient)
    assert result([again, one]).differences.tolist() == [0.25 - 0.5625]
    without = replace(one, risks={2: None, 1: 0.25})
    found = result([without, again])
    assert found.without == 1
    assert found.differences.tolist() == [0.5625 - 0.0625], "the first in which both state a risk"


def test_an_outcome_counts_after_the_follow_up_only() -> None:
    """A death that is known early must not count before those who live can."""
    rows = [row(1, 0.5, 0.25, outcome=True)]
    assert len(result(rows, now=30 * DAY).differences) == 0
    assert len(result(rows, now=31 * DAY).differences) == 1


def test_late_reports_do_not_change_what_was_looked_at_before() -> None:
    rows = [row(number, 0.5, 0.25, outcome=number % 2 == 0) for number in range(8)]
    rows[3] = replace(rows[3], outcome=None, reported=0.0)
    before = result(rows).differences
    late = replace(rows[3], outcome=True, reported=500 * DAY)
    after = result([*rows[:3], late, *rows[4:]]).differences
    assert after[:-1].tolist() == before.tolist()
    assert after[-1] == 0.25 - 0.5625


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
    assert ("worse than version 1" in said) == (verdict == "worse")
    assert ("nobody can tell yet" in said) == (verdict != "worse")


def test_the_other_way_round_it_is_better() -> None:
    rows = [replace(one, risks={2: one.risks[1], 1: one.risks[2]}) for one in many(4, 3.0, 900)]
    assert result(rows, now=2e9).verdict == "better"


def test_the_screen_says_how_many_outcomes_are_missing() -> None:
    rows = [row(1, 0.5, 0.25, outcome=True), row(2, 0.5, 0.25, outcome=None)]
    assert "1 of 2 outcomes that are due were not reported" in " ".join(
        in_words(TERMS, result(rows))
    )


def test_nothing_to_compare_is_no_error() -> None:
    found = result([])
    assert (found.patients, found.apart, found.looks(), found.verdict) == (0, 0.0, (), "not known")
    assert result([replace(row(1, 0.5, 0.25, outcome=True), risks={1: 0.25})]).answers == 0
