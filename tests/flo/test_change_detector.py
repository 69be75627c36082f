"""The detector of changed rates: what its promise rests on, and that the promise is kept."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flo.scores.change_detector import (
    FACTORS,
    NOTHING,
    after,
    evidence,
    log_factors,
    log_period,
    times_odds,
    upper_limit,
)

rates = st.floats(1e-4, 1 - 1e-4)


@given(limit=rates, part=st.floats(0, 1))
def test_a_factor_has_a_mean_of_at_most_1_for_every_rate_up_to_the_limit(
    limit: float, part: float
) -> None:
    rate, (of_hit, of_miss) = part * limit, log_factors(np.array(limit))
    assert (rate * np.exp(of_hit) + (1 - rate) * np.exp(of_miss) <= 1 + 1e-9).all()


@given(limit=rates, hits=st.integers(0, 20), misses=st.integers(0, 20))
def test_a_period_is_the_product_of_its_trials(limit: float, hits: int, misses: int) -> None:
    of_hit, of_miss = log_factors(np.array([limit]))
    found = log_period(np.array([float(hits)]), np.array([float(hits + misses)]), np.array([limit]))
    assert np.allclose(found, hits * of_hit + misses * of_miss)


def test_the_recursion_is_that_of_the_detector() -> None:
    log_l = np.array([0.3, -1.0, 2.0, 0.1])
    log_m, plain = np.full(1, NOTHING), 0.0
    for one in log_l:
        log_m, plain = after(log_m, np.array([one])), (plain + 1) * np.exp(one)
        assert np.exp(log_m[0]) == pytest.approx(plain)


def test_evidence_is_the_mean_over_the_alternatives() -> None:
    assert np.exp(evidence(np.log([[1.0, 2.0, 3.0, 6.0]])))[0] == pytest.approx(3)


@pytest.mark.slow
def test_no_alarm_comes_before_its_time_on_average_at_the_very_limit() -> None:
    generator, limit, wanted, count = np.random.default_rng(3), 0.2, 40.0, 2000
    log_m = np.full((count, len(FACTORS)), NOTHING)
    alarm = np.zeros(count)  # the day; 0 before it came
    for day in range(1, 4000):
        hits = generator.binomial(25, limit, count).astype(float)
        log_m = after(log_m, log_period(hits, np.full(count, 25.0), np.full(count, limit)))
        alarm = np.where((alarm == 0) & (evidence(log_m) >= np.log(wanted)), day, alarm)
        if alarm.all():
            break
    assert alarm.all()
    assert alarm.mean() > wanted


def test_a_rate_that_doubled_is_found_within_days() -> None:
    log_m, days = np.full((1, len(FACTORS)), NOTHING), 0
    while evidence(log_m)[0] < np.log(100_000):
        log_m = after(log_m, log_period(np.array([40.0]), np.array([100.0]), np.array([0.2])))
        days += 1
    assert days <= 4


@given(hits=st.integers(0, 200), more=st.integers(0, 200), miss=st.floats(1e-6, 0.2))
def test_the_limit_is_that_of_an_exact_interval_with_what_is_tolerated(
    hits: int, more: int, miss: float
) -> None:
    from scipy.stats import binom

    trials = hits + more
    limit = float(upper_limit(np.array(hits), np.array(trials), miss, 1.0))
    if more and limit > 1e-4:
        assert binom.cdf(hits, trials, limit) == pytest.approx(miss, rel=1e-3)
    wider = float(upper_limit(np.array(hits), np.array(trials), miss, 1.5))
    assert wider == pytest.approx(float(times_odds(np.array(limit), 1.5)))
    assert wider >= limit
