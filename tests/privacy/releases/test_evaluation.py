"""What held-out patients add up to: one patient barely moves it, and it is read by subgroup."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flo.arrays import Floats
from flo.privacy.accounting.plan import Plan
from flo.privacy.mechanisms.mechanisms import Histogram, ScoreWaves
from flo.privacy.patients.patients import Patients
from flo.privacy.releases import evaluation, score_waves
from flo.privacy.releases.evaluation import Positions
from flo.privacy.releases.score_waves import LENGTH, vectors
from flo.study.columns import CategoryColumn, NumberColumn
from flo.study.document import Study, from_document
from flo.study.features import encode_category, encode_number, input_names
from flo.study.models import log_odds, parameter_count
from tests.builders import small_study, study_document

GROUPINGS = [(), ("ward",), ("sex",), ("sex", "ward")]
WARDS, SEXES = ["a", "b", "c", "missing"], ["f", "m"]
CODES = {"ward": WARDS, "sex": SEXES}


def study_by(*subgroups: str, **changes: Any) -> Study:
    """Age, ward (three codes or missing) and sex (two), counted by ``subgroups`` too."""
    document = study_document(**changes)
    document["data"]["columns"].append({"kind": "category", "name": "sex", "codes": SEXES})
    document["data"]["records_per_patient"] = "many"
    document["evaluation"] |= {"subgroups": subgroups}
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


def summed(study: Study, drawn: list[Record]) -> Floats:
    return evaluation.sums(study, some_weights(study), patients_of(study, drawn))


@pytest.mark.parametrize("subgroups", GROUPINGS)
def test_a_release_tells_of_both_classes_of_each_code_of_each_grouping(
    subgroups: tuple[str, ...],
) -> None:
    study = study_by(*subgroups)
    expected = {name: CODES[name] for name in subgroups} or {"": ["everyone"]}
    assert evaluation.groupings(study) == expected
    assert list(evaluation.groupings(study)) == list(expected)  # the study's order
    codes = sum(len(found) for found in expected.values())
    assert evaluation.length(study) == 2 * LENGTH * codes
    mechanism = Plan.of(study).purpose("evaluation").mechanism
    assert type(mechanism) is ScoreWaves
    assert mechanism.length == evaluation.length(study)
    assert mechanism.norm == pytest.approx(math.sqrt(max(1, len(subgroups))))


@settings(deadline=None, max_examples=50)
@given(st.sampled_from(GROUPINGS), visits)
def test_every_record_is_added_where_a_slow_sum_puts_it(
    subgroups: tuple[str, ...], drawn: list[Record]
) -> None:
    study = study_by(*subgroups)
    people = patients_of(study, drawn)
    scores = log_odds(study, some_weights(study), people.inputs)
    each = vectors(Positions.of_model(study, some_weights(study)).of(scores))
    slow, start = np.zeros((evaluation.length(study) // LENGTH, LENGTH)), 0
    for name, codes in evaluation.groupings(study).items():
        for vector, (_, ward, sex, label, who) in zip(each, drawn, strict=True):
            code = {"ward": ward if ward >= 0 else 3, "sex": sex, "": 0}[name]
            weight = 1 / [record[4] for record in drawn].count(who)
            slow[start + 2 * code + int(label)] += weight * vector
        start += 2 * len(codes)
    np.testing.assert_allclose(summed(study, drawn), slow.ravel(), atol=1e-9)


@settings(deadline=None, max_examples=50)
@given(st.sampled_from(GROUPINGS), visits, st.data())
def test_one_patient_moves_k_groupings_by_at_most_the_root_of_k(
    subgroups: tuple[str, ...], drawn: list[Record], data: st.DataObject
) -> None:
    study, k = study_by(*subgroups), max(1, len(subgroups))
    gone = data.draw(st.sampled_from(sorted({record[4] for record in drawn})))
    others = [record for record in drawn if record[4] != gone]
    moved = summed(study, drawn) - (summed(study, others) if others else 0)
    assert np.linalg.norm(moved) <= math.sqrt(k) * (1 + 1e-9)


def test_a_patient_of_one_record_moves_them_by_exactly_the_root_of_k() -> None:
    study = study_by("sex", "ward")
    assert np.linalg.norm(summed(study, [(50.0, 1, 0, 1.0, 0)])) == pytest.approx(math.sqrt(2))


@pytest.mark.parametrize("weight", [math.nan, math.inf, -math.inf, 1e308, 0.0])
@pytest.mark.parametrize("model", [{"kind": "logistic"}, {"kind": "mlp", "hidden": [3]}])
def test_a_model_without_finite_scores_moves_nothing_further(
    weight: float, model: dict[str, Any]
) -> None:
    """A coordinator can send any weights: a record without a finite score adds nothing."""
    study = study_by("sex", model=model)
    weights = np.full(parameter_count(study), weight)
    people = patients_of(study, [(50.0, 1, 0, 1.0, 0), (1.0, 1, 0, 0.0, 1)])
    with np.errstate(all="ignore"):
        found = evaluation.sums(study, weights, people)
    assert np.isfinite(found).all()
    assert np.linalg.norm(found) <= 2


@pytest.mark.parametrize("label", [math.nan, 2.0, -1.0])
def test_a_record_without_a_class_adds_nothing_and_leaves_the_patient_less(label: float) -> None:
    study = study_by()
    assert summed(study, [(50.0, 0, 0, label, 0)]).tolist() == [0.0] * 2 * LENGTH
    # Nor does it make the patient's other record count for more.
    both = summed(study, [(50.0, 0, 0, label, 0), (20.0, 0, 0, 1.0, 0)])
    np.testing.assert_allclose(both, summed(study, [(20.0, 0, 0, 1.0, 0)]) / 2)


@pytest.mark.parametrize("subgroups", GROUPINGS)
def test_nobody_held_out_adds_up_to_nothing(subgroups: tuple[str, ...]) -> None:
    study = study_by(*subgroups)
    width = len(input_names(study.data))
    nobody = Patients(np.zeros((0, width)), np.zeros(0), np.zeros(0, dtype=np.int64), 0)
    found = evaluation.sums(study, some_weights(study), nobody)
    np.testing.assert_array_equal(found, np.zeros(evaluation.length(study)))


def test_more_patients_than_are_taken_at_once_add_up_as_they_would_in_parts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    study = study_by("ward")
    drawn = [(float(i % 100), i % 3, i % 2, float(i % 4 > 1), i // 2) for i in range(50)]
    whole = summed(study, drawn)
    monkeypatch.setattr(evaluation, "_AT_ONCE", 7)
    np.testing.assert_allclose(summed(study, drawn), whole, atol=1e-12)


# -- positions -------------------------------------------------------------------------------------


def test_positions_are_public_and_hang_on_nothing_but_model_bounds_and_codebooks() -> None:
    study, scores = small_study(), np.linspace(-3, 3, 50)
    weights = np.linspace(-1, 1, parameter_count(study))
    found = Positions.of_model(study, weights).of(scores)
    limits = {"deadline_seconds": 10, "minimum_cohort": 1}
    other = small_study(hospitals=[{"id": "far", "declared_size": 5000}], limits=limits)
    np.testing.assert_array_equal(Positions.of_model(other, weights.copy()).of(scores), found)
    assert (np.diff(found) > 0).all()


@settings(deadline=None)
@given(st.floats(1e-6, 1e6), st.floats(-1e6, 1e6))
def test_positions_keep_the_order_and_lie_between_0_and_1(scale: float, offset: float) -> None:
    study = small_study()
    weights = scale * np.linspace(-1, 1, parameter_count(study))
    weights[-1] += offset
    inputs = np.linspace(-1, 1, 20)[:, None] * np.ones(parameter_count(study) - 1)
    scores = np.sort(log_odds(study, weights, inputs))
    found = Positions.of_model(study, weights).of(scores)
    assert (np.diff(found) >= 0).all()
    assert (found >= 0).all()
    assert (found <= 1).all()


@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0])
def test_patients_are_told_apart_however_large_a_models_log_odds_are(scale: float) -> None:
    """Half of [0, 1] follows the made-up patients' own scores."""
    study = small_study()
    weights = scale * np.linspace(-1, 1, parameter_count(study))
    inputs = np.linspace(-0.5, 0.5, 20)[:, None] * np.ones(parameter_count(study) - 1)
    found = Positions.of_model(study, weights).of(log_odds(study, weights, inputs))
    assert np.ptp(found) > 0.1


# -- reading ---------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=25)
@given(visits)
def test_without_subgroups_both_classes_are_read_as_they_are(drawn: list[Record]) -> None:
    study = study_by()
    found = summed(study, drawn)
    assert evaluation.read(study, found, 4.0) == (
        score_waves.auc(found.reshape(2, LENGTH), 4.0),
        {},
    )


@pytest.mark.slow
@settings(deadline=None, max_examples=25)
@given(st.sampled_from(GROUPINGS[1:]), visits)
def test_exact_sums_read_the_same_for_everyone_whatever_they_are_grouped_by(
    subgroups: tuple[str, ...], drawn: list[Record]
) -> None:
    study = study_by(*subgroups)
    overall, parts = evaluation.read(study, summed(study, drawn), 0.0)
    alone, _ = evaluation.read(study_by(), summed(study_by(), drawn), 0.0)
    assert overall.auc == pytest.approx(alone.auc, abs=1e-9)
    assert list(parts) == [f"{name}={code}" for name in subgroups for code in CODES[name]]
    for name, code in itertools.product(subgroups, (0, 1)):
        of_code = [r for r in drawn if (r[1] if name == "ward" else r[2]) == code]
        if of_code and len({r[4] for r in drawn}) == len(drawn):  # one record each
            own, _ = evaluation.read(study_by(), summed(study_by(), of_code), 0.0)
            assert parts[f"{name}={CODES[name][code]}"].auc == pytest.approx(own.auc, abs=1e-9)


def test_noise_of_everyone_is_that_of_the_mean_of_the_groupings() -> None:
    """Two codes and four: noise of variance s in each is s·6/4 in the mean of two totals."""
    study = study_by("sex", "ward")
    exact = summed(study, [(float(i), i % 3, i % 2, float(i > 50), i) for i in range(100)])
    overall, _ = evaluation.read(study, exact, 4.0)
    mean = exact.reshape(6, 2, LENGTH).sum(0) / 2
    assert overall == score_waves.auc(mean, 6.0)


def test_a_study_of_schema_2_is_counted_in_its_bins_to_its_end() -> None:
    document = study_document(schema_version=2)
    document["evaluation"] |= {"bins": 3}
    study = small_study(**document)
    assert evaluation.length(study) == 6
    assert type(Plan.of(study).purpose("evaluation").mechanism) is Histogram
    width = len(input_names(study.data))
    people = Patients(np.zeros((9, width)), np.arange(9.0) % 2, np.arange(9), 9)
    found = evaluation.sums(study, np.ones(parameter_count(study)), people)
    assert sorted(found) == [0, 0, 0, 0, 4, 5]
    overall, _ = evaluation.read(study, found, 0.0)
    assert (overall.auc, overall.bias) == (0.5, 0.5)
