"""Surveys of FLO 0.2: carried out no more, but their plans are those of ledgers and reports."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flo.errors import StudyError
from flo.privacy.accounting.life_budget import LifetimeBudget
from flo.privacy.accounting.plan import Plan
from flo.privacy.mechanisms.mechanisms import Histogram
from flo.privacy.patients.patients import Patients
from flo.privacy.releases import survey
from flo.study.columns import CategoryColumn, NumberColumn
from flo.study.document import Study, from_document
from flo.study.features import encode_category, encode_number
from tests.builders import small_study, study_document, surveyed

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
    return surveyed(planned(), **{"epsilon": 0.5, "columns": columns, "bins": 4, **more})


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


@pytest.mark.parametrize("columns", CHOICES)
def test_the_mechanism_reckons_with_that_root_and_with_every_cell(columns: tuple[str, ...]) -> None:
    study = survey_of(*columns)
    mechanism = Plan.of(study).purpose("survey").mechanism
    assert mechanism == Histogram(
        survey.length(study), mechanism.noise_multiplier, groups=len(columns) + 1
    )
    assert mechanism.norm == pytest.approx(math.sqrt(len(columns) + 1))


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
            surveyed(from_document(document), epsilon=0.5, columns=[column])


def test_a_study_that_is_no_survey_has_no_layout() -> None:
    study = planned()
    for ask in (survey.layout, survey.length):
        with pytest.raises(StudyError, match="tiny is not a survey"):
            ask(study)


def test_nobody_carries_a_survey_out() -> None:
    survey.refuse(planned())
    with pytest.raises(StudyError, match=r"no \[survey\] any more") as refused:
        survey.refuse(survey_of("ward"))
    assert "flo study survey drafts it" in str(refused.value.hint)


# -- as a study ------------------------------------------------------------------------------------


def test_a_survey_is_a_study_of_its_own_with_one_purpose() -> None:
    study = small_study()
    asked = surveyed(study, epsilon=0.25, columns=["ward"])
    assert asked.name == "tiny-survey"
    assert asked.digest != study.digest
    assert asked.purposes == ("survey",)
    assert study.purposes == ("training", "evaluation")
    assert asked.largest_epsilon == 0.25
    assert study.largest_epsilon == 0.9
    assert asked.survey is not None
    assert (asked.survey.bins, asked.survey.retry_allowance) == (5, 0)


def test_the_name_of_a_survey_is_never_too_long() -> None:
    asked = surveyed(small_study(name="a" * 63), epsilon=0.5, columns=["ward"])
    assert asked.name == "a" * 56 + "-survey"


def test_a_survey_can_be_asked_for_a_study_of_flo_0_1() -> None:
    asked = surveyed(small_study(schema_version=1), epsilon=0.5, columns=["ward"])
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
