"""The AUC that sums of waves tell is that of the scores, and its interval what its noise allows.

Simulations are seeded, so these tests say the same every time. Whether intervals hold the truth of
models on real patients is a proof of its own: ``tests/proofs``.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata

from flo.arrays import Floats
from flo.privacy.releases.score_waves import LENGTH, WAVES, auc, expected_half_width, vectors
from flo.scores.metrics import exact_auc

_Z = 1.6448536269514722


def summed(positions: Floats) -> Floats:
    return np.asarray(vectors(positions).sum(0))


def told(scores: Floats, labels: Floats, variance: float = 0.0) -> Floats:
    return np.array([summed(scores[labels == 0]), summed(scores[labels == 1])])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_a_vector_has_norm_1_wherever_it_is(positions: list[float]) -> None:
    lengths = np.linalg.norm(vectors(np.array(positions)), axis=1)
    np.testing.assert_allclose(lengths, 1, atol=1e-12)


spaced = st.lists(st.integers(1, 15), min_size=2, max_size=40)


@pytest.mark.slow
@given(spaced, st.data())
def test_without_noise_the_auc_is_that_of_scores_that_lie_apart(
    places: list[int], data: st.DataObject
) -> None:
    """Ties count half. A sixteenth apart: then the waves left out are worth less than .03."""
    labels = data.draw(st.lists(st.booleans(), min_size=len(places), max_size=len(places)))
    score, label = np.array(places) / 16, np.array(labels, dtype=np.float64)
    if 0 < label.sum() < len(label):
        assert auc(told(score, label), 0.0).auc == pytest.approx(exact_auc(score, label), abs=0.03)
    else:
        estimate = auc(told(score, label), 0.0)
        assert (estimate.auc, estimate.low, estimate.high) == (0.5, 0.0, 1.0)


@pytest.mark.slow
@settings(deadline=None)
@given(st.lists(st.floats(-300, 300), min_size=2 * LENGTH, max_size=2 * LENGTH), st.floats(0, 1e4))
def test_any_noisy_sums_give_an_ordered_interval_within_bounds(
    numbers: list[float], variance: float
) -> None:
    estimate = auc(np.array(numbers).reshape(2, LENGTH), variance)
    assert 0 <= estimate.low <= estimate.auc <= estimate.high <= 1
    assert 0 <= estimate.noise_share <= 1
    assert 0 <= estimate.bias <= 1
    assert estimate.level == 0.9


@pytest.mark.parametrize("patients", [100, 1000, 20_000])
@pytest.mark.parametrize("spread", [0.02, 0.1])
def test_without_noise_the_interval_is_delongs(patients: int, spread: float) -> None:
    generator = np.random.default_rng(patients)
    label = (np.arange(patients) % 3 == 0).astype(np.float64)
    score = np.clip(0.4 + spread * (generator.standard_normal(patients) + 1.2 * label), 0, 1)
    estimate = auc(told(score, label), 0.0)
    assert estimate.auc == pytest.approx(exact_auc(score, label), abs=0.003)
    ranks, ill = rankdata(score), label == 1
    of_ill = (ranks[ill] - rankdata(score[ill])) / (~ill).sum()
    of_well = (ranks[~ill] - rankdata(score[~ill])) / ill.sum()
    error = math.sqrt(of_ill.var() / ill.sum() + of_well.var() / (~ill).sum())
    assert (estimate.high - estimate.low) / 2 == pytest.approx(_Z * error, rel=0.05)
    assert estimate.noise_share == 0


@pytest.mark.slow
def test_with_noise_the_auc_varies_by_what_the_interval_says() -> None:
    """4,000 patients, noise alone: the same patients, 400 releases."""
    generator, deviation = np.random.default_rng(5), 25.0
    label = (np.arange(4000) % 4 == 0).astype(np.float64)
    score = np.clip(0.4 + 0.1 * (generator.standard_normal(4000) + 1.5 * label), 0, 1)
    exact, truth = told(score, label), exact_auc(score, label)
    found = [
        auc(exact + generator.normal(scale=deviation, size=exact.shape), deviation**2)
        for _ in range(400)
    ]
    error = np.std([one.auc for one in found])
    said = [
        math.sqrt(one.noise_share) * (one.high - one.low) / 2 / _Z for one in found if not one.bias
    ]
    assert np.mean([one.auc for one in found]) == pytest.approx(truth, abs=0.2 * float(error))
    # A deviation of 400 has a standard error of 3.5 %.
    assert np.median(said) == pytest.approx(error, rel=0.12)
    predicted = expected_half_width(4000, 0.25, deviation**2)
    assert predicted == pytest.approx(np.median([one.high - one.low for one in found]) / 2, rel=0.2)


def test_with_too_little_signal_the_interval_is_everything() -> None:
    generator = np.random.default_rng(3)
    noise = generator.normal(scale=100, size=(2, LENGTH))
    estimate = auc((told(np.full(20, 0.5), (np.arange(20) % 2).astype(np.float64)) + noise), 1e4)
    assert (estimate.low, estimate.high) == (0.0, 1.0)


@pytest.mark.parametrize("better", [True, False])
def test_an_estimate_beyond_what_an_auc_can_be_still_says_at_which_end(better: bool) -> None:
    """Noise in the totals can make 1.6 of a perfect AUC, with which no AUC agrees."""
    label = (np.arange(2000) % 2).astype(np.float64)
    sums = told(np.where((label == 1) == better, 0.7, 0.3), label)
    sums[:, 0] *= 0.5
    estimate = auc(sums, 400.0)
    assert estimate.auc == (1.0 if better else 0.0)
    assert estimate.high - estimate.low < 0.5
    assert (estimate.high if better else estimate.low) == estimate.auc


@pytest.mark.parametrize("side", [-1, 1])
def test_scores_too_close_for_the_waves_are_told_with_their_bias(side: int) -> None:
    """All within a tenth of the last wave's length: the AUC is off, and the estimate says so."""
    generator = np.random.default_rng(9)
    label = (np.arange(3000) % 2).astype(np.float64)
    width = 0.1 / (2 * WAVES)
    score = 0.5 + width * (generator.standard_normal(3000) + 1.5 * side * label)
    truth, estimate = exact_auc(score, label), auc(told(score, label), 0.0)
    assert abs(estimate.auc - truth) > 0.1
    assert estimate.bias > 0.05


@pytest.mark.slow
@settings(deadline=None)
@given(st.floats(20, 1e5), st.floats(0.05, 0.95), st.floats(0, 1e4))
def test_more_noise_never_promises_a_narrower_interval(
    patients: float, prevalence: float, variance: float
) -> None:
    quiet = expected_half_width(patients, prevalence, variance)
    loud = expected_half_width(patients, prevalence, 2 * variance + 1)
    assert 0 < quiet <= loud <= 0.5


@pytest.mark.slow
@given(st.floats(20, 1e5), st.floats(0.05, 0.95), st.floats(0, 1e4))
def test_more_patients_never_promise_a_wider_interval(
    patients: float, prevalence: float, variance: float
) -> None:
    assert expected_half_width(2 * patients, prevalence, variance) <= expected_half_width(
        patients, prevalence, variance
    )
