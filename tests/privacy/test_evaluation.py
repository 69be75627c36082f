"""A noisy histogram that one patient barely moves, and an AUC whose interval can be believed.

Intervals are tried on seeded simulations, so these tests say the same every time; the false-alarm
rate stated is what another seed would have.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from flo.features import encode_category, encode_number, input_names
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
from flo.privacy.plan import Plan
from flo.schema import CategoryColumn, NumberColumn
from flo.study import Study, from_document
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


def by_bin(shift: float, bins: int) -> Floats:
    """Chances of normal scores around ``shift`` to fall into each of even bins."""
    cuts = [3.5 * (i + 1) / bins - 1.0 for i in range(bins - 1)]
    return np.diff(stats.norm.cdf(np.array([-np.inf, *cuts, np.inf]) - shift))


def auc_of(healthy: Floats, ill: Floats) -> float:
    kernel = np.tril(np.ones((len(ill), len(ill))), -1) + 0.5 * np.eye(len(ill))
    return float(ill @ kernel @ healthy)


def simulate(
    patients: int, deviation: float, bins: int, times: int = SIMULATIONS
) -> tuple[float, list[float]]:
    """Share of intervals that hold the truth, and their half widths; AUC about .85, half ill."""
    healthy, ill = by_bin(0.0, bins), by_bin(1.5, bins)
    truth = auc_of(healthy, ill)
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


def test_bins_of_a_network_are_public_too() -> None:
    study = small_study(model={"kind": "mlp", "hidden": [4]})
    weights = np.linspace(-1, 1, parameter_count(study))
    edges = public_edges(study, weights)
    assert edges.shape == (study.evaluation.bins - 1,)
    assert (np.diff(edges) > 0).all()
    np.testing.assert_array_equal(public_edges(study, weights.copy()), edges)


# -- subgroups -------------------------------------------------------------------------------------

GROUPINGS = [(), ("ward",), ("sex",), ("sex", "ward")]
WARDS, SEXES = ["a", "b", "c", "missing"], ["f", "m"]
CODES = {"ward": WARDS, "sex": SEXES}


def study_by(*subgroups: str, bins: int = 3, **changes: Any) -> Study:
    """Age, ward (three codes or missing) and sex (two), counted by ``subgroups`` too."""
    document = study_document(**changes)
    document["data"]["columns"].append({"kind": "category", "name": "sex", "codes": SEXES})
    document["data"]["records_per_patient"] = "many"
    document["evaluation"] |= {"subgroups": subgroups, "bins": bins}
    return from_document(document)


Record = tuple[float, int, int, float, int]  # age, ward, sex, label, who
visits: st.SearchStrategy[list[Record]] = st.lists(
    st.tuples(
        st.floats(0, 100),
        st.integers(-1, 2),
        st.integers(0, 1),
        st.sampled_from([0.0, 1.0]),
        st.integers(0, 5),
    ),
    min_size=1,
    max_size=25,
)


def patients_of(study: Study, drawn: list[Record]) -> Patients:
    age, ward, sex = study.data.columns
    assert isinstance(age, NumberColumn)
    assert isinstance(ward, CategoryColumn)
    assert isinstance(sex, CategoryColumn)
    names = {name: i for i, name in enumerate(dict.fromkeys(record[4] for record in drawn))}
    return Patients(
        np.hstack(
            [
                encode_number(age, np.array([record[0] for record in drawn], dtype=np.float64)),
                encode_category(ward, np.array([record[1] for record in drawn], dtype=np.int64)),
                encode_category(sex, np.array([record[2] for record in drawn], dtype=np.int64)),
            ]
        ),
        np.array([record[3] for record in drawn], dtype=np.float64),
        np.array([names[record[4]] for record in drawn], dtype=np.int64),
        len(names),
    )


def some_weights(study: Study) -> Floats:
    return np.linspace(-1, 1.5, parameter_count(study))


def counted(study: Study, drawn: list[Record]) -> Floats:
    return evaluation.counts(study, some_weights(study), patients_of(study, drawn))


@pytest.mark.parametrize("subgroups", GROUPINGS)
def test_a_cell_is_a_score_bin_and_class_of_one_code_of_one_grouping(
    subgroups: tuple[str, ...],
) -> None:
    study = study_by(*subgroups)
    expected = {name: CODES[name] for name in subgroups} or {"": ["everyone"]}
    assert evaluation.groupings(study) == expected
    assert list(evaluation.groupings(study)) == list(expected)  # the study's order
    assert evaluation.length(study) == 2 * 3 * sum(len(codes) for codes in expected.values())
    mechanism = Plan.of(study).part("evaluation").mechanism
    assert mechanism.length == evaluation.length(study)
    assert mechanism.norm == pytest.approx(math.sqrt(max(1, len(subgroups))))


@settings(deadline=None, max_examples=50)
@given(st.sampled_from(GROUPINGS), visits)
def test_every_record_is_counted_where_a_slow_count_puts_it(
    subgroups: tuple[str, ...], drawn: list[Record]
) -> None:
    study = study_by(*subgroups)
    people = patients_of(study, drawn)
    scores = log_odds(study, some_weights(study), people.inputs)
    edges = public_edges(study, some_weights(study))
    slow, start = np.zeros(evaluation.length(study)), 0
    for name, codes in evaluation.groupings(study).items():
        for score, (_, ward, sex, label, who) in zip(scores, drawn, strict=True):
            code = {"ward": ward if ward >= 0 else 3, "sex": sex, "": 0}[name]
            cell = 2 * 3 * code + 3 * int(label) + int((score >= edges).sum())
            slow[start + cell] += 1 / [record[4] for record in drawn].count(who)
        start += 2 * 3 * len(codes)
    np.testing.assert_allclose(counted(study, drawn), slow, atol=1e-9)


@settings(deadline=None, max_examples=50)
@given(st.sampled_from(GROUPINGS), visits, st.data())
def test_one_patient_moves_k_groupings_by_at_most_the_root_of_k(
    subgroups: tuple[str, ...], drawn: list[Record], data: st.DataObject
) -> None:
    study, k = study_by(*subgroups), max(1, len(subgroups))
    gone = data.draw(st.sampled_from(sorted({record[4] for record in drawn})))
    others = [record for record in drawn if record[4] != gone]
    moved = counted(study, drawn) - (counted(study, others) if others else 0)
    assert np.linalg.norm(moved) <= math.sqrt(k) * (1 + 1e-9)
    assert np.abs(moved).sum() == pytest.approx(k)  # in L1 exactly: weight 1 in each grouping
    assert moved.min() >= -1e-9


def test_a_patient_of_one_record_moves_them_by_exactly_the_root_of_k() -> None:
    study = study_by("sex", "ward")
    assert np.linalg.norm(counted(study, [(50.0, 1, 0, 1.0, 0)])) == pytest.approx(math.sqrt(2))


@pytest.mark.parametrize("subgroups", GROUPINGS)
def test_nobody_held_out_is_counted_as_nobody(subgroups: tuple[str, ...]) -> None:
    study = study_by(*subgroups)
    width = len(input_names(study.data))
    nobody = Patients(np.zeros((0, width)), np.zeros(0), np.zeros(0, dtype=np.int64), 0)
    counts = evaluation.counts(study, some_weights(study), nobody)
    np.testing.assert_array_equal(counts, np.zeros(evaluation.length(study)))


def test_a_networks_patients_are_counted_too() -> None:
    study = study_by("sex", model={"kind": "mlp", "hidden": [3]})
    drawn: list[Record] = [(20.0, 0, 0, 0.0, 0), (90.0, 1, 1, 1.0, 1), (50.0, -1, 1, 1.0, 1)]
    moved = counted(study, drawn) - counted(study, drawn[:1])
    assert moved.sum() == pytest.approx(1)
    assert moved[:6].tolist() == [0] * 6  # the second patient is of the other sex


@settings(deadline=None, max_examples=25)
@given(visits)
def test_without_subgroups_the_histogram_and_its_reading_are_the_plain_ones(
    drawn: list[Record],
) -> None:
    study = study_by()
    people, weights = patients_of(study, drawn), some_weights(study)
    edges = public_edges(study, weights)
    cell = cell_of_score(log_odds(study, weights, people.inputs), people.labels, edges)
    plain = weighted_counts(cell, people.patient, people.count, 6)
    np.testing.assert_array_equal(counted(study, drawn), plain)
    assert evaluation.read(study, plain, 4.0) == (auc(plain, 4.0), {})


@settings(deadline=None, max_examples=25)
@given(st.sampled_from(GROUPINGS[1:]), visits)
def test_exact_counts_read_the_same_for_everyone_whatever_they_are_grouped_by(
    subgroups: tuple[str, ...], drawn: list[Record]
) -> None:
    study = study_by(*subgroups)
    overall, parts = evaluation.read(study, counted(study, drawn), 0.0)
    alone, _ = evaluation.read(study_by(), counted(study_by(), drawn), 0.0)
    assert overall.auc == pytest.approx(alone.auc, abs=1e-9)
    assert list(parts) == [f"{name}={code}" for name in subgroups for code in CODES[name]]
    for name, code in itertools.product(subgroups, (0, 1)):
        of_code = [r for r in drawn if (r[1] if name == "ward" else r[2]) == code]
        if of_code and len({r[4] for r in drawn}) == len(drawn):  # one record each
            own, _ = evaluation.read(study_by(), counted(study_by(), of_code), 0.0)
            assert parts[f"{name}={CODES[name][code]}"].auc == pytest.approx(own.auc, abs=1e-9)


def test_intervals_for_everyone_and_for_each_subgroup_cover_about_nine_times_in_ten() -> None:
    # 600 patients in the sum, two groupings, σ of about 9.6 a cell; women are told apart better.
    # At a true coverage of 90 % another seed would alarm 8e-6 of the time, for each of the three.
    study, patients, deviation, bins = study_by("sex", "ward", bins=4), 600, 9.6, 4
    healthy, ill = by_bin(0.0, bins), {"f": by_bin(2.0, bins), "m": by_bin(1.0, bins)}
    truth = {f"sex={sex}": auc_of(healthy, ill[sex]) for sex in SEXES}
    truth["everyone"] = (truth["sex=f"] + truth["sex=m"]) / 2
    generator = np.random.default_rng(7)
    covered = dict.fromkeys([*truth, *(f"ward={ward}" for ward in WARDS)], 0)
    found = []
    for _ in range(SIMULATIONS):
        by_sex = [
            np.concatenate([generator.multinomial(patients // 4, c) for c in (healthy, ill[sex])])
            for sex in SEXES
        ]
        by_ward = np.transpose(
            [generator.multinomial(c, [0.25] * 4) for c in np.sum(by_sex, axis=0)]
        )
        exact = np.concatenate([*by_sex, *by_ward]).astype(np.float64)
        noise = np.rint(generator.normal(scale=deviation, size=len(exact)))
        overall, parts = evaluation.read(study, exact + noise, deviation**2)
        found.append(overall.auc)
        for name, estimate in {"everyone": overall, **parts}.items():
            truly = truth.get(name, truth["everyone"])
            covered[name] += estimate.low <= truly <= estimate.high
    for name in truth:
        assert 0.87 <= covered[name] / SIMULATIONS <= 0.93
    for ward in WARDS:  # drowned in noise: wider than needed, and never too narrow
        assert covered[f"ward={ward}"] / SIMULATIONS >= 0.87
    # Unbiased: the mean of 2,000 has a standard error of about .0011; the ratio's bias is smaller.
    assert np.mean(found) == pytest.approx(truth["everyone"], abs=0.006)
