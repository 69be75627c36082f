"""A survey: counts of patients that add up, that one patient barely moves, read without bias.

A test that says "false alarm p" fails with probability p although nothing is wrong: it draws real
noise.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from flo.arrays import Floats
from flo.errors import StudyError
from flo.privacy.accounting.life_budget import LifetimeBudget
from flo.privacy.accounting.plan import Plan, combined_variance
from flo.privacy.mechanisms.discrete_gaussian import SystemNoise
from flo.privacy.mechanisms.mechanisms import Histogram
from flo.privacy.patients.patients import Patients
from flo.privacy.releases import survey
from flo.study.document import Study, from_document
from flo.study.features import encode_category, encode_number
from flo.study.schema import CategoryColumn, NumberColumn
from tests.builders import NoNoise, small_study, study_document

WARD = ["a", "b", "c", "missing"]
AGE = ["0 to 25", "25 to 50", "50 to 75", "75 to 100"]
PRESSURE = ["80 to 100", "100 to 120", "120 to 140", "140 to 160", "missing"]
PRESSURE_COLUMN = {
    "kind": "number",
    "name": "pressure",
    "unit": "mm Hg",
    "minimum": 80,
    "maximum": 160,
    "missing": "indicator",
    "missing_value": 120,
}
CHOICES = [("ward",), ("age",), ("ward", "age"), ("pressure", "age", "ward")]


def planned(**changes: Any) -> Study:
    document = study_document(**changes)
    document["data"]["columns"].append(PRESSURE_COLUMN)
    document["data"]["records_per_patient"] = "many"
    return from_document(document)


def survey_of(*columns: str, **more: Any) -> Study:
    return planned().with_survey(**{"epsilon": 0.5, "columns": columns, "bins": 4, **more})


Visit = tuple[float, int, float, float, int]  # age, ward, pressure, label, who
visits: st.SearchStrategy[list[Visit]] = st.lists(
    st.tuples(
        st.floats(0, 100),
        st.integers(-1, 2),
        st.one_of(st.just(math.nan), st.floats(80, 160)),
        st.sampled_from([0.0, 1.0]),
        st.integers(0, 5),
    ),
    max_size=25,
)


def patients_of(study: Study, drawn: list[Visit]) -> Patients:
    age, ward, pressure = study.data.columns
    assert isinstance(age, NumberColumn)
    assert isinstance(ward, CategoryColumn)
    assert isinstance(pressure, NumberColumn)
    names = {name: i for i, name in enumerate(dict.fromkeys(visit[4] for visit in drawn))}
    floats = np.array(drawn, dtype=np.float64).reshape(-1, 5)
    return Patients(
        np.hstack(
            [
                encode_number(age, floats[:, 0]),
                encode_category(ward, floats[:, 1].astype(np.int64)),
                encode_number(pressure, floats[:, 2]),
            ]
        ),
        floats[:, 3],
        np.array([names[visit[4]] for visit in drawn], dtype=np.int64),
        len(names),
    )


def counted(study: Study, drawn: list[Visit]) -> Floats:
    return survey.counts(study, patients_of(study, drawn))


def by_column(study: Study, counts: Floats) -> dict[str, dict[str, float]]:
    return {
        found.column: dict(zip(found.cells, found.patients, strict=True))
        for found in survey.read(study, counts, 0.0)
    }


# -- layout ----------------------------------------------------------------------------------------


def test_the_label_comes_first_and_then_the_columns_as_the_survey_names_them() -> None:
    study = survey_of("pressure", "age", "ward")
    assert list(survey.layout(study).items()) == [
        ("ill", ["0", "1"]),
        ("pressure", PRESSURE),
        ("age", AGE),
        ("ward", WARD),
    ]
    assert survey.length(study) == 2 + 5 + 4 + 4


@pytest.mark.parametrize("bins", [2, 7, 50])
def test_a_number_is_counted_in_equal_ranges_of_its_bounds(bins: int) -> None:
    layout = survey.layout(survey_of("age", bins=bins))
    assert len(layout["age"]) == bins
    assert layout["age"][0] == f"0 to {100 / bins:g}"
    assert layout["age"][-1] == f"{100 - 100 / bins:g} to 100"


def test_patients_are_counted_in_the_cells_that_a_steward_would_name() -> None:
    study = survey_of("pressure", "age", "ward")
    drawn = [
        (10.0, 0, 90.0, 1.0, 0),
        (100.0, -1, math.nan, 0.0, 1),  # at the upper bound; the ward and pressure are missing
        (60.0, 2, 160.0, 0.0, 2),
        (30.0, 2, 130.0, 0.0, 3),
        (0.0, 1, 80.0, 1.0, 4),
    ]
    found = by_column(study, counted(study, drawn))
    assert found["ill"] == {"0": 3, "1": 2}
    assert found["ward"] == {"a": 1, "b": 1, "c": 2, "missing": 1}
    assert found["age"] == dict(zip(AGE, [2, 1, 1, 1], strict=True))
    assert found["pressure"] == dict(zip(PRESSURE, [2, 0, 1, 1, 1], strict=True))


def test_a_patients_visits_share_their_weight() -> None:
    study = survey_of("ward")
    drawn = [(1.0, 0, 90.0, 0.0, 7), (1.0, 0, 90.0, 1.0, 7), (1.0, 2, 90.0, 1.0, 7)]
    found = by_column(study, counted(study, [*drawn, (1.0, 2, 90.0, 1.0, 8)]))
    assert found["ill"] == pytest.approx({"0": 1 / 3, "1": 2 / 3 + 1})
    assert found["ward"] == pytest.approx({"a": 2 / 3, "b": 0, "c": 1 / 3 + 1, "missing": 0})


def test_nobody_is_counted_as_nobody() -> None:
    study = survey_of("pressure", "age", "ward")
    np.testing.assert_array_equal(counted(study, []), np.zeros(15))


@given(st.sampled_from(CHOICES), visits)
def test_every_columns_counts_add_up_to_the_number_of_patients(
    columns: tuple[str, ...], drawn: list[Visit]
) -> None:
    study = survey_of(*columns)
    for cells in by_column(study, counted(study, drawn)).values():
        assert sum(cells.values()) == pytest.approx(len({visit[4] for visit in drawn}), abs=1e-9)


# -- sensitivity -----------------------------------------------------------------------------------


@given(st.sampled_from(CHOICES), visits.filter(bool), st.data())
def test_one_patient_moves_k_histograms_by_at_most_the_root_of_k(
    columns: tuple[str, ...], drawn: list[Visit], data: st.DataObject
) -> None:
    study, k = survey_of(*columns), len(columns) + 1  # and the label
    gone = data.draw(st.sampled_from(sorted({visit[4] for visit in drawn})))
    moved = counted(study, drawn) - counted(study, [v for v in drawn if v[4] != gone])
    assert np.linalg.norm(moved) <= math.sqrt(k) * (1 + 1e-9)
    assert moved.min() >= -1e-9


@pytest.mark.parametrize("columns", CHOICES)
def test_the_mechanism_reckons_with_that_root_and_with_every_cell(columns: tuple[str, ...]) -> None:
    study = survey_of(*columns)
    mechanism = Plan.of(study).purpose("survey").mechanism
    assert mechanism == Histogram(
        survey.length(study), mechanism.noise_multiplier, groups=len(columns) + 1
    )
    moved = counted(study, [(50.0, 1, 90.0, 1.0, 0)])
    assert np.linalg.norm(moved) == pytest.approx(mechanism.norm)


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "columns", [("heart",), ("ill",), ("ward", "ward"), (), ("ward", "patient_id"), ("ward=a",)]
)
def test_a_column_that_is_not_in_the_study_or_stands_twice_is_refused(
    columns: tuple[str, ...],
) -> None:
    with pytest.raises(StudyError, match="survey"):
        survey_of(*columns)


def test_an_image_cannot_be_surveyed() -> None:
    document = study_document(model={"kind": "cnn"})
    image = {"kind": "image", "name": "scan", "height": 8, "width": 8, "minimum": 0, "maximum": 1}
    document["data"]["columns"] = [image]
    for column in ("scan", "scan_0"):
        with pytest.raises(StudyError, match="survey: columns"):
            from_document(document).with_survey(epsilon=0.5, columns=[column])


def test_a_study_that_is_no_survey_has_no_layout_and_counts_nobody() -> None:
    study = planned()
    for ask in (survey.layout, survey.length):
        with pytest.raises(StudyError, match="tiny is not a survey"):
            ask(study)
    with pytest.raises(StudyError, match="tiny is not a survey"):
        survey.counts(study, patients_of(study, []))


# -- reading ---------------------------------------------------------------------------------------


@given(st.lists(st.floats(-1e6, 1e6), min_size=15, max_size=15), st.floats(0, 1e9))
def test_reading_puts_names_to_the_numbers_and_changes_none(
    noisy: list[float], variance: float
) -> None:
    study = survey_of("pressure", "age", "ward")
    found = survey.read(study, np.array(noisy), variance)
    assert [value for one in found for value in one.patients] == noisy  # negative ones too
    assert [(one.column, list(one.cells)) for one in found] == list(survey.layout(study).items())
    assert {one.half_width for one in found} == {survey.half_width(variance)}


def test_the_half_width_is_the_normal_quantile_of_the_noise() -> None:
    assert survey.half_width(1.0) == pytest.approx(1.6449, abs=1e-4)  # two-sided 90 %
    assert survey.half_width(100.0, level=0.95) == pytest.approx(19.600, abs=1e-3)
    assert survey.half_width(0.0) == 0


@pytest.mark.parametrize("hospitals", [1, 3])
def test_a_noisy_survey_is_unbiased_and_its_half_width_holds_nine_in_ten(hospitals: int) -> None:
    study = survey_of("pressure", "age", "ward")
    drawn = [(float(i % 101), i % 4 - 1, 80.0 + i % 80, float(i % 3 == 0), i) for i in range(300)]
    part = Plan.of(study).purpose("survey")
    exact, releases = counted(study, drawn), 400
    noise = SystemNoise()
    variance = combined_variance(study, part, hospitals)
    errors = []
    for _ in range(releases):
        total = sum(part.mechanism.release(exact, noise) for _ in range(hospitals))
        (read, *rest) = survey.read(study, part.mechanism.to_real(np.asarray(total)), variance)
        values = [value for one in (read, *rest) for value in one.patients]
        errors.append(np.array(values) - hospitals * exact)
    wrong = np.concatenate(errors)  # 6,000 independent cells
    # False alarm 1e-6 each. Rounding to the grid moves nothing that could be seen here.
    assert abs(wrong.mean()) <= stats.norm.isf(5e-7) * math.sqrt(variance / len(wrong))
    inside = int((np.abs(wrong) <= read.half_width).sum())
    low, high = stats.binom(len(wrong), 0.9).ppf([5e-7, 1 - 5e-7])
    assert low <= inside <= high


def test_without_noise_a_survey_reads_what_was_counted() -> None:
    study = survey_of("ward", "age")
    part = Plan.of(study).purpose("survey")
    exact = counted(study, [(10.0 * i, i % 4 - 1, 90.0, float(i % 2), i) for i in range(10)])
    real = part.mechanism.to_real(part.mechanism.release(exact, NoNoise()))
    np.testing.assert_allclose(real, exact, atol=1e-4)


# -- as a study ------------------------------------------------------------------------------------


def test_a_survey_is_a_study_of_its_own_with_one_purpose() -> None:
    study = small_study()
    asked = study.with_survey(epsilon=0.25, columns=["ward"])
    assert asked.name == "tiny-survey"
    assert asked.digest != study.digest
    assert asked.purposes == ("survey",)
    assert study.purposes == ("training", "evaluation")
    assert asked.largest_epsilon == 0.25
    assert study.largest_epsilon == 0.9
    assert asked.survey is not None
    assert (asked.survey.bins, asked.survey.retry_allowance) == (5, 0)


def test_the_name_of_a_survey_is_never_too_long() -> None:
    asked = small_study(name="a" * 63).with_survey(epsilon=0.5, columns=["ward"])
    assert asked.name == "a" * 56 + "-survey"


def test_a_survey_can_be_asked_for_a_study_of_flo_0_1() -> None:
    asked = small_study(schema_version=1).with_survey(epsilon=0.5, columns=["ward"])
    assert (asked.schema_version, asked.purposes) == (2, ("survey",))


@settings(deadline=None, max_examples=20)
@given(st.floats(0.05, 3), st.integers(0, 3), st.sampled_from(CHOICES))
def test_a_survey_plans_itself_only_and_keeps_its_epsilon_retries_included(
    epsilon: float, allowance: int, columns: tuple[str, ...]
) -> None:
    study = survey_of(*columns, epsilon=epsilon, retry_allowance=allowance)
    plan = Plan.of(study)
    assert set(plan.purposes) == {"survey"}
    assert plan.purpose("survey").releases == 1 + allowance
    assert plan.epsilon <= epsilon <= plan.epsilon * 1.01


def test_a_survey_touches_everyone_and_is_charged_to_both_sub_ledgers() -> None:
    plan, life = Plan.of(survey_of("ward")), LifetimeBudget.create(0.9, 1e-6)
    cost = plan.purpose("survey").cost(life.order)
    assert cost > 0
    assert plan.cost("training", life.order) == plan.cost("evaluation", life.order) == cost
    assert plan.shares(life) == {
        "training": cost / life.renyi,
        "evaluation": cost / life.renyi,
    }
