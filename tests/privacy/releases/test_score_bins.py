"""Score bins of studies of schema 1 and 2: what they hide is inside the interval."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from flo.arrays import Floats
from flo.privacy.releases.score_bins import auc, public_edges, vectors
from flo.study.document import Study
from flo.study.models import parameter_count
from tests.builders import small_study

SETTINGS = [(276, 9.6, 4), (184, 6.8, 4)]  # (held-out patients, noise per cell, bins)
SIMULATIONS = 500


def binned_study(**changes: object) -> Study:
    evaluation = {"epsilon": 0.9, "bins": 4, "retry_allowance": 0}
    return small_study(schema_version=2, evaluation=evaluation, **changes)


@given(st.lists(st.floats(-1e300, 1e300), max_size=30))
def test_each_record_is_in_the_one_bin_of_its_score(scores: list[float]) -> None:
    edges = np.array([-1.0, 0.25, 0.5])
    found = vectors(np.array(scores, dtype=np.float64), edges)
    assert found.shape == (len(scores), 4)
    for score, row in zip(scores, found, strict=True):
        wanted = [0.0] * 4
        wanted[sum(score >= edge for edge in edges)] = 1.0
        assert row.tolist() == wanted


def test_edges_that_are_not_in_order_move_nobody_elses_record() -> None:
    edges = np.array([0.5, 0.1, 0.9])
    scores = np.array([0.2, 0.7, 0.95])
    together = vectors(scores, edges)
    for number in range(3):
        np.testing.assert_array_equal(
            vectors(scores[number : number + 1], edges), together[[number]]
        )


def pairwise_auc(counts: Floats) -> float:
    """Every pair of a positive and a negative: won, or drawn in the same bin."""
    negative, positive = (half.astype(int) for half in np.split(counts, 2))
    low = np.repeat(np.arange(len(negative)), negative)
    high = np.repeat(np.arange(len(positive)), positive)
    wins = (high[:, None] > low[None]) + 0.5 * (high[:, None] == low[None])
    return float(wins.mean())


@given(st.lists(st.integers(0, 30), min_size=4, max_size=16).filter(lambda c: len(c) % 2 == 0))
def test_without_noise_the_auc_is_that_of_the_binned_scores(cells: list[int]) -> None:
    counts = np.array(cells, dtype=np.float64)
    negative, positive = np.split(counts, 2)
    estimate = auc(counts, 0.0)
    if negative.sum() == 0 or positive.sum() == 0:
        assert estimate.auc == 0.5
    else:
        assert estimate.auc == pytest.approx(pairwise_auc(counts), abs=1e-12)
    assert 0 <= estimate.low <= estimate.auc <= estimate.high <= 1


@pytest.mark.slow
@given(st.lists(st.floats(-100, 100), min_size=8, max_size=8), st.floats(0, 1e4))
def test_any_noisy_histogram_gives_an_ordered_interval_within_bounds(
    cells: list[float], variance: float
) -> None:
    estimate = auc(np.array(cells), variance)
    assert 0 <= estimate.low <= estimate.auc <= estimate.high <= 1
    assert 0 <= estimate.noise_share <= 1
    assert estimate.level == 0.9


def share_of(shift: float, cuts: Floats) -> Floats:
    """Chances of normal scores around ``shift`` to fall between the cuts."""
    return np.diff(stats.norm.cdf(np.concatenate([[-np.inf], cuts, [np.inf]]) - shift))


@pytest.mark.parametrize(("patients", "deviation", "bins"), SETTINGS)
@pytest.mark.parametrize("crowded", [False, True])
def test_the_interval_holds_the_auc_of_the_scores_and_not_only_that_of_the_bins(
    patients: int, deviation: float, bins: int, crowded: bool
) -> None:
    """Also where most patients lie in one bin. It covers more often than it says, as it must."""
    cuts = np.linspace(3, 5, bins - 1) if crowded else np.linspace(-0.5, 2, bins - 1)
    truth = float(stats.norm.cdf(1.5 / np.sqrt(2)))
    generator, covered = np.random.default_rng(patients), 0
    for _ in range(SIMULATIONS):
        counts = np.concatenate(
            [generator.multinomial(patients // 2, share_of(shift, cuts)) for shift in (0.0, 1.5)]
        )
        noise = np.rint(generator.normal(scale=deviation, size=2 * bins))
        estimate = auc(counts + noise, deviation**2)
        covered += estimate.low <= truth <= estimate.high
    assert covered / SIMULATIONS >= 0.9


def test_patients_who_all_lie_in_one_bin_tell_nothing() -> None:
    estimate = auc(np.array([0.0, 1000.0, 0.0, 0.0, 800.0, 0.0]), 25.0)
    assert estimate.bias == pytest.approx(0.5, abs=0.05)
    assert estimate.low < 0.05
    assert estimate.high > 0.95


def test_with_too_little_signal_the_interval_is_everything() -> None:
    estimate = auc(np.array([3.0, -5.0, 2.0, 1.0, -4.0, 2.0, 3.0, -1.0]), 1e4)
    assert (estimate.low, estimate.high) == (0.0, 1.0)


def test_edges_are_public_deterministic_and_ascending() -> None:
    study = binned_study()
    weights = np.linspace(-1, 1, parameter_count(study))
    edges = public_edges(study, weights, 4)
    assert edges.shape == (3,)
    assert (np.diff(edges) > 0).all()
    np.testing.assert_array_equal(public_edges(binned_study(), weights.copy(), 4), edges)


def test_edges_hang_on_bounds_and_codebooks_and_not_on_who_takes_part() -> None:
    weights = np.linspace(-1, 1, parameter_count(small_study()))
    edges = public_edges(binned_study(), weights, 4)
    hospitals = [{"id": "far-away", "declared_size": 5000}]
    limits = {"deadline_seconds": 10, "minimum_cohort": 1}
    other = binned_study(hospitals=hospitals, limits=limits, purpose="Another one.")
    np.testing.assert_array_equal(public_edges(other, weights, 4), edges)


def test_bins_of_a_network_are_public_too() -> None:
    study = binned_study(model={"kind": "mlp", "hidden": [4]})
    weights = np.linspace(-1, 1, parameter_count(study))
    edges = public_edges(study, weights, 4)
    assert edges.shape == (3,)
    assert (np.diff(edges) > 0).all()
    np.testing.assert_array_equal(public_edges(study, weights.copy(), 4), edges)
