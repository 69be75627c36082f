"""The concordance from noisy sums is that of all pairs, and its interval says how noisy it is."""

from __future__ import annotations

import numpy as np
import pytest

from flo.arrays import Floats
from flo.privacy.releases import concordance, score_waves
from flo.privacy.releases.score_waves import LENGTH
from flo.scores.metrics import Scores
from tests.flo.times import drawn_times

HAZARDS = np.array([0.2, 0.15, 0.3])


def world(count: int, seed: int = 1) -> tuple[Floats, Floats]:
    """Positions (n,) and codes (n,) of patients; a higher position has a higher hazard."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=count)
    return 1 / (1 + np.exp(-scores)), drawn_times(scores, HAZARDS, rng)


def sums_of(positions: Floats, codes: Floats) -> Floats:
    vectors = score_waves.vectors(positions)
    return np.array([vectors[codes == code].sum(0) for code in range(2 * len(HAZARDS) + 1)])


def all_pairs(positions: Floats, codes: Floats) -> float:
    right = pairs = 0.0
    for one, code in zip(positions, codes, strict=True):
        if code % 2:
            others = positions[codes > code]
            right += (one > others).sum() + 0.5 * (one == others).sum()
            pairs += len(others)
    return right / pairs


def test_without_noise_it_is_that_of_all_pairs() -> None:
    positions, codes = world(700)
    found = concordance.between_periods(sums_of(positions, codes), 0.0)
    exact = all_pairs(positions, codes)
    assert found.auc == pytest.approx(exact, abs=0.002 + found.bias)
    assert found.low < exact < found.high
    everyone = np.arange(len(codes))
    tested = Scores(positions, codes, everyone, np.zeros_like(everyone), codes=7, kind="times")
    assert tested.auc == pytest.approx(exact, abs=1e-12)


def test_of_one_horizon_it_is_the_auc() -> None:
    """Both formulas of the estimate, its noise and its sampling then say the same."""
    rng = np.random.default_rng(2)
    positions = rng.beta(2, 3, 500)
    ill = rng.random(500) < positions
    vectors = score_waves.vectors(positions)
    two = np.array([vectors[~ill].sum(0), vectors[ill].sum(0)])
    for variance in (0.0, 4.0):
        noisy = two + rng.normal(0, np.sqrt(variance), two.shape)
        three = np.array([np.zeros(LENGTH), noisy[1], noisy[0]])
        expected = score_waves.auc(noisy, variance)
        for found in (
            concordance.between_periods(three, variance),
            concordance.at_horizon(three, 1, variance),
        ):
            assert found.auc == pytest.approx(expected.auc, abs=1e-12)
            assert found.low == pytest.approx(expected.low, abs=0.004)
            assert found.high == pytest.approx(expected.high, abs=0.004)


def test_the_auc_at_a_horizon_leaves_out_whoever_was_lost_before_it() -> None:
    positions, codes = world(700)
    known = (codes % 2 == 1) & (codes < 4) | (codes >= 4)
    ill = (codes % 2 == 1) & (codes < 4)
    everyone = np.arange(known.sum())
    exact = Scores(positions[known], ill[known].astype(float), everyone, 0 * everyone).auc
    found = concordance.at_horizon(sums_of(positions, codes), 2, 0.0)
    assert found.auc == pytest.approx(exact, abs=0.002 + found.bias)


@pytest.mark.slow
@pytest.mark.parametrize("deviation", [1.0, 6.0])
def test_an_interval_holds_the_exact_value_nine_times_in_ten(deviation: float) -> None:
    """The truth is the concordance of a large population; 300 samples, each with new noise."""
    truth = all_pairs(*world(6000, seed=99))
    rng, covered = np.random.default_rng(3), 0
    for sample in range(300):
        sums = sums_of(*world(800, seed=1000 + sample))
        noisy = sums + rng.normal(0, deviation, sums.shape)
        found = concordance.between_periods(noisy, deviation**2)
        covered += found.low <= truth <= found.high
    assert 0.87 <= covered / 300 <= 0.97


def test_noise_alone_says_nothing() -> None:
    noise = np.random.default_rng(4).normal(0, 10, (7, LENGTH))
    found = concordance.between_periods(noise, 100.0)
    assert (found.low, found.high) == (0.0, 1.0)
    assert concordance.between_periods(np.zeros((7, LENGTH)), 0.0).auc == 0.5


def test_the_expected_width_is_about_the_one_that_is_found() -> None:
    positions, codes = world(2000)
    counts = np.bincount(codes.astype(int), minlength=7).astype(float)
    sums = sums_of(positions, codes) + np.random.default_rng(5).normal(0, 5, (7, LENGTH))
    found = concordance.between_periods(sums, 25.0)
    expected = concordance.expected_half_width(counts, 25.0)
    assert expected == pytest.approx((found.high - found.low) / 2, rel=0.5)
