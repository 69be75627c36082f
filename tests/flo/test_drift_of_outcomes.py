"""The detector of noisy sums: where nothing changed, its factors have a mean of at most 1."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flo.scores.change_detector import health, times_odds
from flo.scores.drift import LOADINGS, Period, follow, log_factors, odds_factor

QUIET = Period(0.0, 30.0, 80.0, 8.0)
MANY_MORE = Period(60.0, 100.0, 80.0, 8.0)


@given(st.floats(0.001, 0.999), st.floats(1.0, 2.0), st.floats(-1.0, 1.0))
def test_the_factor_of_one_patient_has_a_mean_of_at_most_one(
    p: float, tolerance: float, place: float
) -> None:
    """Exactly, for any probability whose odds are within the tolerance of the stated ones."""
    q = float(times_odds(np.asarray(p), tolerance**place))
    ill, well = (log_factors(Period(y - p, p * (1 - p), 0.0, 0.0), tolerance) for y in (1, 0))
    mean = q * np.exp(ill) + (1 - q) * np.exp(well)
    assert (mean <= 1 + 1e-12).all()


@pytest.mark.parametrize("deviation", [0.5, 3.0, 9.0])
def test_noise_is_paid_for_exactly(deviation: float) -> None:
    """The mean over a discrete Gaussian of one number, summed exactly."""
    values = np.arange(-round(40 * deviation) - 40, round(40 * deviation) + 41)
    chance = np.exp(-(values**2) / (2 * deviation**2))
    chance /= chance.sum()
    each = np.array([log_factors(Period(float(v), 0.0, deviation**2, 0.0), 1.25) for v in values])
    assert (chance @ np.exp(each) <= 1 + 1e-12).all()
    other = np.array([log_factors(Period(0.0, float(v), 0.0, deviation**2), 1.25) for v in values])
    assert (chance @ np.exp(other) <= 1 + 1e-12).all()


def test_more_outcomes_than_stated_raise_an_alarm_and_evidence_begins_anew() -> None:
    found = list(follow([QUIET, MANY_MORE, MANY_MORE, MANY_MORE, QUIET], 1.25, 60))
    assert [one.alarm for one in found].index(True) in (1, 2, 3)
    first = next(place for place, one in enumerate(found) if one.alarm)
    assert found[first].direction == 1
    assert found[first].log_e >= math.log(60)
    again = list(follow([QUIET, *[MANY_MORE] * 3, QUIET][first + 1 :], 1.25, 60))
    assert [one.log_e for one in found[first + 1 :]] == [one.log_e for one in again]


def test_fewer_outcomes_than_stated_raise_one_in_the_other_direction() -> None:
    fewer = Period(
        -MANY_MORE.more,
        *[getattr(MANY_MORE, name) for name in ("expected_variance", "noise", "variance_noise")],
    )
    raised = [one for one in follow([fewer] * 6, 1.25, 60) if one.alarm]
    assert raised
    assert raised[0].direction == -1


def test_what_is_tolerated_never_grows_evidence() -> None:
    """Odds at the tolerance, in every period and without noise of its own."""
    p = np.full(1000, 0.2)
    q = times_odds(p, 1.25)
    period = Period(float((q - p).sum()), float((p * (1 - p)).sum()), 80.0, 8.0)
    found = [one.log_e for one in follow([period] * 50, 1.25, 60)]
    assert not any(one >= math.log(60) for one in found)
    assert all(later <= max(earlier, 1.0) + 1e-9 for earlier, later in pairwise(found[5:]))


def test_health_is_100_without_evidence_and_85_where_the_alarm_is_raised() -> None:
    assert health(-3.0, math.log(60)) == 100
    assert health(math.log(60), math.log(60)) == pytest.approx(85)
    assert health(0.5 * math.log(60), math.log(60)) == pytest.approx(92.5)
    assert health(1e4, math.log(60)) == 0


def test_the_odds_are_about_those_that_outcomes_have() -> None:
    p = np.full(20_000, 0.2)
    q = times_odds(p, 1.3)
    found = odds_factor(Period(float((q - p).sum()), float((p * (1 - p)).sum()), 80.0, 8.0))
    assert found is not None
    low, middle, high = found
    assert low < 1.3 < high
    assert middle == pytest.approx(1.3, abs=0.06)


def test_an_interval_reaches_to_infinity_where_the_odds_may() -> None:
    found = odds_factor(Period(200.0, 100.0, 80.0, 8.0))
    assert found is not None
    assert found[2] == math.inf
    assert 2 < found[0] < found[1]
    found = odds_factor(Period(-140.0, 100.0, 80.0, 8.0))
    assert found is not None
    assert found[0] == 0


def test_with_hardly_any_patients_there_is_no_figure() -> None:
    assert odds_factor(Period(3.0, 5.0, 80.0, 8.0)) is None
    assert odds_factor(Period(3.0, -5.0, 80.0, 8.0)) is None
    assert odds_factor(Period(0.0, 0.0, 0.0, 0.0)) is None


def test_any_sums_are_read() -> None:
    for more in (-1e9, 0.0, 1e9):
        for variance in (-1e9, 0.0, 1e9):
            (found,) = follow([Period(more, variance, 80.0, 8.0)], 1.25, 60)
            assert math.isfinite(found.log_e)
            assert 0 <= health(found.log_e, math.log(60)) <= 100
    assert len(LOADINGS) == 6
