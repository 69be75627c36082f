"""What a study of statistics may ask, and that it need not say how to train."""

from __future__ import annotations

from typing import Any

import pytest

from flo.errors import StudyError
from flo.study.document import Study, from_document
from flo.study.loading import from_canonical
from flo.study.statistics import MOST_PARTS, Catalogue
from tests.builders import small_study, study_document
from tests.flo.continued import CARD
from tests.flo.studies import SURVEY

TABLE: dict[str, Any] = {"kind": "table", "name": "one", "columns": ["age", "ward"]}
CURVE: dict[str, Any] = {
    **{"kind": "survival", "name": "time", "time": "age", "event": "ill", "by": "ward"},
    "edges": [10, 50],
}

ILL: dict[str, Any] = {
    **{"kind": "regression", "name": "ill", "family": "logistic", "outcome": "ill"},
    "predictors": ["age", "ward"],
}
AGE: dict[str, Any] = {
    **{"kind": "regression", "name": "age", "family": "linear", "outcome": "age"},
    "predictors": ["ward"],
}
RANGES: dict[str, Any] = {"column": "age", "at": [50, 60]}
CATALOGUE: dict[str, Any] = {"kind": "catalogue", "name": "all", "ranges": [RANGES]}


def written(*parts: dict[str, Any], **changes: Any) -> dict[str, Any]:
    document = study_document(
        schema_version=4,
        mechanism={"noise": "distributed", "masking": "on", "delta": 1e-6},
        statistics={"epsilon": 0.5, "parts": list(parts)},
    )
    del document["model"], document["evaluation"]
    return document | changes


def asked(*parts: dict[str, Any], **changes: Any) -> Study:
    return from_document(written(*parts, **changes))


def test_a_study_of_statistics_says_nothing_about_training() -> None:
    study = asked(TABLE, CURVE)
    assert study.purposes == ("statistics",)
    assert not study.trains
    assert small_study().trains
    assert study.mechanism.epsilon == study.largest_epsilon == 0.5
    assert from_canonical(study.canonical_bytes) == study
    assert study.with_epsilon(0.25).largest_epsilon == 0.25


def test_other_studies_are_written_as_before() -> None:
    assert b"statistics" not in small_study(schema_version=4).canonical_bytes


@pytest.mark.parametrize(
    "change",
    [
        {"name": "two"},
        {"columns": ["ward", "age"]},
        {"columns": ["ward"]},
        {"by": "ill"},
        {"bins": 39},
        {"share": 2.0},
    ],
    ids=str,
)
def test_every_field_of_a_table_is_approved(change: dict[str, Any]) -> None:
    assert asked(TABLE).digest != asked(TABLE | change).digest


@pytest.mark.parametrize(
    "change",
    [
        {"name": "two"},
        {"event": "sex"},
        {"by": None},
        {"edges": [10]},
        {"edges": [10, 51]},
        {"share": 2.0},
    ],
    ids=str,
)
def test_every_field_of_a_curve_is_approved(change: dict[str, Any]) -> None:
    document = written(CURVE)
    sex = {"kind": "category", "name": "sex", "codes": ["f", "m"], "missing": "refuse"}
    document["data"]["columns"].append(sex)
    document["statistics"]["parts"] = [CURVE | change]
    other = from_document(document)
    document["statistics"]["parts"] = [CURVE]
    assert from_document(document).digest != other.digest


@pytest.mark.parametrize(
    "change",
    [{"name": "two"}, {"predictors": ["age"]}, {"predictors": ["ward", "age"]}, {"share": 2.0}],
    ids=str,
)
def test_every_field_of_a_regression_is_approved(change: dict[str, Any]) -> None:
    assert asked(ILL).digest != asked(ILL | change).digest


@pytest.mark.parametrize(
    "change",
    [
        {"name": "two"},
        {"columns": ["age", "ill"]},
        {"pairs": [["age", "ill"]]},
        {"ranges": [{"column": "age", "at": [50, 61]}]},
        {"bins": 5},
        {"share": 2.0},
    ],
    ids=str,
)
def test_every_field_of_a_catalogue_is_approved(change: dict[str, Any]) -> None:
    assert asked(CATALOGUE).digest != asked(CATALOGUE | change).digest


def test_a_catalogue_is_of_all_columns_and_the_label_unless_some_are_named() -> None:
    study = asked(CATALOGUE)
    assert study.statistics is not None
    (part,) = study.statistics.parts
    assert isinstance(part, Catalogue)
    assert part.of(study.data) == ("age", "ward", "ill")
    assert part.pairs_of(study.data) == (("age", "ward"), ("age", "ill"), ("ward", "ill"))


def test_no_predictor_is_named_like_the_intercept() -> None:
    document = written(ILL)
    document["data"]["columns"][0]["name"] = "intercept"
    document["statistics"]["parts"] = [ILL | {"predictors": ["intercept"]}]
    with pytest.raises(StudyError, match="no predictor can be named 'intercept'"):
        from_document(document)


def test_a_count_of_a_poisson_regression_is_never_negative() -> None:
    poisson = AGE | {"family": "poisson"}
    assert asked(poisson).purposes == ("regression",)
    document = written(poisson)
    document["data"]["columns"][0]["minimum"] = -1
    with pytest.raises(StudyError, match="a minimum of 0 or more"):
        from_document(document)


def test_a_study_releases_tables_first_and_then_rounds_of_regressions() -> None:
    assert asked(ILL).purposes == ("regression",)
    assert asked(ILL, TABLE, AGE).purposes == ("statistics", "regression")


@pytest.mark.parametrize(
    ("parts", "why"),
    [
        ([], "at least 1"),
        ([TABLE | {"name": f"n{n}"} for n in range(MOST_PARTS + 1)], f"at most {MOST_PARTS}"),
        ([TABLE, CURVE | {"name": "one"}], "two parts have the same name"),
        ([TABLE | {"columns": ["heart"]}], "one: column 'heart' is no number or category column"),
        ([TABLE | {"columns": ["age", "age"]}], "a column appears twice"),
        ([TABLE | {"by": "ward"}], "column 'ward' is what the table is grouped by"),
        ([TABLE | {"by": "age"}], "by = 'age' is neither the label nor a category"),
        ([TABLE | {"bins": 1}], "bins"),
        ([TABLE | {"kind": "cox"}], "FLO has no 'cox'; the nearest that it has: survival by a gr"),
        ([TABLE | {"kind": "x"}], "FLO has no 'x'; the nearest that it has: table, survival, r"),
        ([CURVE | {"time": "ward"}], "time = 'ward' must be a number column"),
        ([CURVE | {"event": "ward"}], "event = 'ward' must be the label, or a category of two"),
        ([CURVE | {"edges": [0, 50]}], "edges must lie above 0 and up to 100, the bounds of age"),
        ([CURVE | {"edges": [50, 101]}], "edges must lie above 0 and up to 100"),
        ([CURVE | {"edges": [50, 50]}], "edges must rise"),
        ([CURVE | {"edges": []}], "at least 1"),
        ([ILL | {"outcome": "ward"}], "outcome = 'ward' of a logistic regression must be the"),
        ([ILL | {"outcome": "age"}], "must be the label, or a category of two codes"),
        ([AGE | {"outcome": "ill"}], "of a linear regression must be a number column"),
        ([AGE | {"predictors": ["age"]}], "predictor 'age' is the outcome"),
        ([ILL | {"predictors": ["heart"]}], "predictor 'heart' is no number or category column"),
        ([ILL | {"predictors": ["age", "age"]}], "a predictor appears twice"),
        ([ILL | {"predictors": []}], "at least 1"),
        (
            [ILL | {"family": "poisson"}],
            "of a poisson regression must be a number",
        ),
        ([ILL | {"family": "gamma"}], "family"),
        ([CATALOGUE | {"columns": ["age", "heart"]}], "column 'heart' is no number or category"),
        ([CATALOGUE | {"columns": ["age", "age"]}], "a column appears twice"),
        ([CATALOGUE | {"pairs": [["age", "age"]]}], "a pair names one column twice"),
        ([CATALOGUE | {"pairs": [["age", "ill"], ["ill", "age"]]}], "a pair appears twice"),
        ([CATALOGUE | {"pairs": [["age", "heart"]]}], "a pair names 'heart', which is not counted"),
        (
            [CATALOGUE | {"ranges": [RANGES | {"column": "ward"}]}],
            "ranges of 'ward', which is no",
        ),
        (
            [CATALOGUE | {"ranges": [RANGES | {"at": [0, 50]}]}],
            "must meet between 0 and 100",
        ),
        ([CATALOGUE | {"ranges": [RANGES | {"at": [50, 100]}]}], "must meet between 0 and 100"),
        ([CATALOGUE | {"ranges": [RANGES | {"at": [50, 50]}]}], "at must rise"),
        ([CATALOGUE | {"ranges": [RANGES, RANGES]}], "a column's range appears twice"),
        ([ILL | {"kind": "logistic"}], "FLO has no 'logistic'; the nearest that it has: regressi"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_asked_is_refused_by_name(parts: list[dict[str, Any]], why: str) -> None:
    with pytest.raises(StudyError, match=why):
        asked(*parts)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"schema_version": 3}, "only in a study of schema_version = 4"),
        ({"survey": SURVEY}, "without \\[survey\\]"),
        ({"continues": {"models": [CARD]}}, "without \\[survey\\] and \\[continues\\]"),
    ],
    ids=["schema", "survey", "continues"],
)
def test_where_statistics_cannot_stand(change: dict[str, Any], why: str) -> None:
    with pytest.raises(StudyError, match=why):
        asked(TABLE, **change)


@pytest.mark.parametrize("part", [CURVE, ILL], ids=["curve", "regression"])
def test_some_parts_need_one_record_for_each_patient(part: dict[str, Any]) -> None:
    document = written(part)
    document["data"]["records_per_patient"] = "many"
    with pytest.raises(StudyError, match='needs records_per_patient = "one"'):
        from_document(document)
