"""What outcomes show of two versions, with rows that could mislead."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from flo.clients.comparison.result import FARTHEST, ComparedResult, results
from flo.clients.comparison.words import in_words
from flo.clients.records.compared_answers import ComparedAnswer
from tests.clients.comparison.test_terms import comparison

DAY, NOW = 86_400.0, 1_000 * 86_400.0
TERMS = comparison(10)  # version 2 beside version 1, outcomes after 30 days


def row(number: int, own: float | None, old: float | None, outcome: bool | None) -> ComparedAnswer:
    reported = 0.0 if outcome is None else (number + 20) * DAY
    risks = {2: own, 1: old}
    facts = (f"{number:036}", f"p{number}", "ehr", number * DAY, 1, risks, outcome, reported)
    return ComparedAnswer(*facts)


def result(rows: list[ComparedAnswer], now: float = NOW) -> ComparedResult:
    (found,) = results(TERMS, sorted(rows, key=lambda one: one.time), now)
    return found


def gains(rows: list[ComparedAnswer], now: float = NOW) -> list[float]:
    """g of each patient whose outcome counts, in their order."""
    return [round(float(math.log(FARTHEST) * one), 9) for one in result(rows, now).gains]


def log(ratio: float) -> float:
    return round(math.log(ratio), 9)


def test_a_gain_says_how_much_likelier_it_found_what_happened() -> None:
    rows = [row(1, 0.5, 0.25, outcome=True), row(2, 0.5, 0.25, outcome=False)]
    assert gains(rows) == [log(0.5 / 0.25), log(0.5 / 0.75)]
    found = result(rows)
    assert (found.patients, found.due, found.reported, found.apart) == (2, 2, 2, 0.25)
    last = found.looks()[-1]
    assert abs(last.gain - 100 * (math.sqrt(2 * 2 / 3) - 1)) < 1e-6
    assert last.low < last.gain < last.high


def test_a_risk_far_from_the_baselines_counts_as_odds_that_are_five_times_apart() -> None:
    """Whatever patients come, so that the limit does not depend on them."""
    assert gains([row(1, 0.99, 0.5, outcome=True)]) == [log((5 / 6) / 0.5)]
    assert gains([row(1, 0.01, 0.5, outcome=True)]) == [log((1 / 6) / 0.5)]


@pytest.mark.parametrize("outcome", [True, False])
def test_a_risk_of_nothing_or_certainty_is_no_error(outcome: bool) -> None:
    (gain,) = gains([row(1, 0.0, 1.0, outcome=outcome)])
    assert abs(gain) <= math.log(5)
    assert (gain < 0) == outcome


def test_a_patient_counts_once_with_the_first_answer() -> None:
    one = row(1, 0.5, 0.25, outcome=True)
    again = replace(row(2, 0.4, 0.25, outcome=False), patient=one.patient)
    assert gains([again, one]) == [log(2)]
    without = replace(one, risks={2: None, 1: 0.25}, outcome=None, reported=0.0)
    assert result([without, again]).without == 1
    assert gains([without, again]) == [log(0.6 / 0.75)], "the first with both risks"


def test_an_outcome_reported_with_a_later_answer_is_the_patients() -> None:
    one = row(1, 0.5, 0.25, outcome=None)
    again = replace(row(2, 0.4, 0.25, outcome=True), patient=one.patient)
    assert gains([one, again]) == [log(2)]


def test_an_outcome_counts_after_the_follow_up_only() -> None:
    """A death that is known early must not count before those who live can."""
    rows = [row(1, 0.5, 0.25, outcome=True)]
    assert gains(rows, now=30 * DAY) == []
    assert gains(rows, now=31 * DAY) == [log(2)]


def test_an_outcome_that_is_not_reported_holds_up_the_later_ones_and_is_left_out_then() -> None:
    """Otherwise deaths that are reported at once would count before a monthly list of survivors."""
    rows = [row(number, 0.5, 0.25, outcome=number != 3) for number in range(8)]
    rows[3] = replace(rows[3], outcome=None, reported=0.0)
    assert gains(rows, now=50 * DAY) == [log(2)] * 3
    assert "do not count yet" in " ".join(in_words(TERMS, result(rows, now=50 * DAY)))
    late = replace(rows[3], outcome=False, reported=60 * DAY)
    others = [log(2)] * 4
    assert gains([*rows[:3], late, *rows[4:]], now=61 * DAY) == [log(2)] * 3 + [log(2 / 3), *others]
    assert gains(rows, now=64 * DAY) == [log(2)] * 3 + others
    too_late = replace(rows[3], outcome=False, reported=65 * DAY)
    found = result([*rows[:3], too_late, *rows[4:]], now=66 * DAY)
    assert (found.left_out, found.reported, len(found.gains)) == (1, 8, 7)
    assert "1 of 8 outcomes were not reported in time" in " ".join(in_words(TERMS, found))


@pytest.mark.parametrize("seed", range(3))
def test_what_was_looked_at_before_never_changes(seed: int) -> None:
    """Whatever is reported, in whatever order, a later look begins with the earlier one."""
    dice = np.random.default_rng(seed)
    rows = [
        replace(
            row(number, float(dice.uniform()), float(dice.uniform()), bool(dice.integers(2))),
            reported=float(number + dice.uniform(0, 90)) * DAY,
        )
        for number in range(60)
    ]

    def known(day: int) -> list[ComparedAnswer]:
        return [
            one if one.reported <= day * DAY else replace(one, outcome=None, reported=0.0)
            for one in rows
            if one.time <= day * DAY
        ]

    before: list[float] = []
    for day in range(1, 200, 7):
        now = gains(known(day), now=day * DAY)
        assert now[: len(before)] == before
        before = now
    assert 30 < len(before) < 60


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


def test_the_screen_says_by_how_much() -> None:
    said = " ".join(in_words(TERMS, result([row(1, 0.5, 0.25, outcome=True)])))
    assert "a probability that was 100.0 % higher than that of version 1" in said


def test_nothing_to_compare_is_no_error() -> None:
    found = result([])
    assert (found.patients, found.apart, found.looks(), found.verdict) == (0, 0.0, (), "not known")
    assert result([replace(row(1, 0.5, 0.25, outcome=True), risks={1: 0.25})]).answers == 0
