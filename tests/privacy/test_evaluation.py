"""A noisy histogram that one patient barely moves, and an AUC whose interval can be believed.

Intervals are tried on seeded simulations, so these tests say the same every time; the false-alarm
rate stated is what another seed would have.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from flo.models import log_odds, parameter_count
from flo.privacy import evaluation
from flo.privacy.evaluation import (
    Floats,
    auc,
    cell_of_score,
    expected_half_width,
    public_edges,
)
from flo.privacy.histograms import weighted_counts
from flo.privacy.patients import Patients
from flo.study import Study
from tests.builders import small_study, study_document

EDGES = np.array([0.25, 0.5, 0.75])
# (held-out patients, noise per cell, bins): four hospitals of 230 together, and two thirds of that.
SETTINGS = [(276, 9.6, 4), (184, 6.8, 4)]
SIMULATIONS = 2000

scores = st.one_of(st.floats(0, 1), st.sampled_from([math.nan, math.inf, -math.inf, 0.25, 1e300]))
labels = st.sampled_from([0.0, 1.0, math.nan, 2.0, -1.0])
records = st.lists(st.tuples(scores, labels, st.integers(0, 5)), min_size=1, max_size=30)


def count(drawn: list[tuple[float, float, int]]) -> Floats:
    names = {name: i for i, name in enumerate(dict.fromkeys(who for _, _, who in drawn))}
    cell = cell_of_score(
        np.array([score for score, _, _ in drawn], dtype=np.float64),
        np.array([label for _, label, _ in drawn], dtype=np.float64),
        EDGES,
    )
    patient = np.array([names[who] for _, _, who in drawn], dtype=np.int64)
    return weighted_counts(cell, patient, len(names), 2 * len(EDGES) + 2)


@given(records, st.data())
def test_one_patient_moves_the_histogram_by_at_most_one(
    drawn: list[tuple[float, float, int]], data: st.DataObject
) -> None:
    gone = data.draw(st.sampled_from(sorted({who for _, _, who in drawn})))
    moved = count(drawn) - count([record for record in drawn if record[2] != gone])
    assert np.linalg.norm(moved) <= 1 + 1e-9
    assert moved.min() >= -1e-9


@given(st.lists(st.tuples(st.floats(0, 1), st.sampled_from([0.0, 1.0]), st.integers(0, 5))))
def test_every_patient_has_weight_one_however_many_records(
    drawn: list[tuple[float, float, int]],
) -> None:
    assert count(drawn).sum() == pytest.approx(len({who for _, _, who in drawn}), abs=1e-9)


@pytest.mark.parametrize(
    ("score", "label"),
    [(math.nan, 1.0), (math.inf, 0.0), (-math.inf, 1.0), (0.5, math.nan), (0.5, 2.0), (0.5, -1.0)],
)
def test_a_record_without_a_finite_score_or_a_class_counts_in_no_cell(
    score: float, label: float
) -> None:
    assert count([(score, label, 0)]).tolist() == [0.0] * 8
    # Nor does it make the patient's other record count for more.
    assert count([(score, label, 0), (0.9, 1.0, 0)]).sum() == 0.5


def test_cells_are_negatives_by_bin_then_positives_by_bin() -> None:
    drawn = [(0.1, 0.0, 0), (0.25, 0.0, 1), (0.9, 0.0, 2), (0.6, 1.0, 3), (0.99, 1.0, 4)]
    assert count(drawn).tolist() == [1, 1, 0, 1, 0, 0, 1, 1]


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


@given(st.lists(st.floats(-100, 100), min_size=8, max_size=8), st.floats(0, 1e4))
def test_any_noisy_histogram_gives_an_ordered_interval_within_bounds(
    cells: list[float], variance: float
) -> None:
    estimate = auc(np.array(cells), variance)
    assert 0 <= estimate.low <= estimate.auc <= estimate.high <= 1
    assert 0 <= estimate.noise_share <= 1
    assert estimate.level == 0.9


def simulate(
    patients: int, deviation: float, bins: int, times: int = SIMULATIONS
) -> tuple[float, list[float]]:
    """Share of intervals that hold the truth, and their half widths; AUC about .85, half ill."""
    cuts = [3.5 * (i + 1) / bins - 1.0 for i in range(bins - 1)]
    healthy = np.diff(stats.norm.cdf([-np.inf, *cuts, np.inf]))
    ill = np.diff(stats.norm.cdf(np.array([-np.inf, *cuts, np.inf]) - 1.5))
    kernel = np.tril(np.ones((bins, bins)), -1) + 0.5 * np.eye(bins)
    truth = float(ill @ kernel @ healthy)
    generator = np.random.default_rng(patients)
    covered, widths = 0, []
    for _ in range(times):
        counts = np.concatenate(
            [generator.multinomial(patients // 2, cells) for cells in (healthy, ill)]
        )
        noise = np.rint(generator.normal(scale=deviation, size=2 * bins))
        estimate = auc(counts + noise, deviation**2)
        covered += estimate.low <= truth <= estimate.high
        widths.append((estimate.high - estimate.low) / 2)
    return covered / times, widths


@pytest.mark.parametrize(("patients", "deviation", "bins"), SETTINGS)
def test_a_ninety_percent_interval_covers_the_truth_about_nine_times_in_ten(
    patients: int, deviation: float, bins: int
) -> None:
    # At a true coverage of 90 % another seed would alarm 8e-6 of the time (2,000 coin throws).
    coverage, widths = simulate(patients, deviation, bins)
    assert 0.87 <= coverage <= 0.93
    expected = expected_half_width(patients, 0.5, bins, deviation**2)
    assert expected == pytest.approx(float(np.median(widths)), rel=0.25)


@pytest.mark.parametrize(("patients", "deviation"), [(20, 30.0), (40, 30.0)])
def test_an_interval_still_covers_when_noise_drowns_the_counts(
    patients: int, deviation: float
) -> None:
    coverage, widths = simulate(patients, deviation, 4, times=600)
    # At a true coverage of 90 % another seed would alarm 1e-2 of the time.
    assert coverage >= 0.87
    assert np.mean(np.array(widths) < 0.01) < 0.01


def test_with_too_little_signal_the_interval_is_everything() -> None:
    estimate = auc(np.array([3.0, -5.0, 2.0, 1.0, -4.0, 2.0, 3.0, -1.0]), 1e4)
    assert (estimate.low, estimate.high) == (0.0, 1.0)


@settings(deadline=None)
@given(st.floats(20, 1e5), st.floats(0.05, 0.95), st.integers(2, 8), st.floats(0, 1e4))
def test_more_noise_never_promises_a_narrower_interval(
    patients: float, prevalence: float, bins: int, variance: float
) -> None:
    quiet = expected_half_width(patients, prevalence, bins, variance)
    loud = expected_half_width(patients, prevalence, bins, 2 * variance + 1)
    assert 0 < quiet <= loud <= 0.5


def test_edges_are_public_deterministic_and_ascending() -> None:
    study = small_study()
    weights = np.linspace(-1, 1, parameter_count(study))
    edges = public_edges(study, weights)
    assert edges.shape == (study.evaluation.bins - 1,)
    assert (np.diff(edges) > 0).all()
    np.testing.assert_array_equal(public_edges(small_study(), weights.copy()), edges)


def test_edges_hang_on_bounds_and_codebooks_and_not_on_who_takes_part() -> None:
    weights = np.linspace(-1, 1, parameter_count(small_study()))
    edges = public_edges(small_study(), weights)
    hospitals = [{"id": "far-away", "declared_size": 5000}]
    limits = {"deadline_seconds": 10, "minimum_cohort": 1}
    other = small_study(hospitals=hospitals, limits=limits, purpose="Another one.")
    np.testing.assert_array_equal(public_edges(other, weights), edges)


def test_made_up_patients_fill_every_bin_about_evenly() -> None:
    document = study_document()
    document["evaluation"]["bins"] = 2
    study = small_study(**document)
    # A score that rises with age alone: the one inner edge is the score of a middle-aged patient.
    weights = np.zeros(parameter_count(study))
    weights[0] = 3.0
    assert public_edges(study, weights)[0] == pytest.approx(0.0, abs=0.04)  # log odds
