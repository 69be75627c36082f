"""A table with times to an event: what fits becomes codes, and what does not is named."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from flo.clients.quality.check import encode_checked, inspect_table, require_clean
from flo.clients.quality.inspection import inspection
from flo.clients.sources.mapping import StudyMapping, problems
from flo.errors import DataError
from flo.study.document import from_document
from tests.clients.quality.test_check import good, written
from tests.clients.quality.test_quantities import many
from tests.flo.times import times_document

SCHEMA = from_document(times_document()).data


def followed(*days: Any) -> dict[str, list[Any]]:
    return {**good(), "days": list(days)}


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_times_and_events_become_codes(tmp_path: Path, kind: str) -> None:
    """Labels 0, 1, 1, 0, and horizons after 10, 30 and 60 days."""
    found = encode_checked(
        written(tmp_path, kind, followed("4", "30", "400", "30")), SCHEMA, "patient_id"
    )
    assert found.labels.tolist() == [0.0, 3.0, 6.0, 4.0]


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("-1", "column 'days': must lie within [0, 1e+09] days, 1 record (row 2)"),
        (None, "column 'days': cells are missing, and the study allows none here"),
        ("soon", "column 'days': must be a number, 1 record (row 2)"),
        ("inf", "column 'days': must be finite, 1 record (row 2)"),
        ("> 5", "column 'days': must be a number, but is a bound with a comparator"),
    ],
)
def test_a_time_that_is_none_is_named_by_column_rule_and_row(
    tmp_path: Path, cell: Any, said: str
) -> None:
    source = written(tmp_path, "csv", followed("4", cell, "5", "6"))
    with pytest.raises(DataError, match=re.escape(said)) as refused:
        require_clean(source, SCHEMA, "patient_id", None)
    assert "soon" not in str(refused.value)


def test_a_file_without_the_time_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'days': is missing from the file"):
        encode_checked(written(tmp_path, "csv", good()), SCHEMA, "patient_id")


def test_a_mapping_converts_the_times_unit(tmp_path: Path) -> None:
    columns = {name: {"field": name} for name in ("ill", "age", "ward")}
    months = {"field": "months", "unit": "months", "multiply": 30.4375}
    mapping = StudyMapping.model_validate({"columns": {**columns, "days": months}})
    assert problems(mapping, SCHEMA) == []
    table = good() | {"months": ["0.1", "1", "13", "1"]}
    found = require_clean(
        written(tmp_path, "csv", table), SCHEMA, "patient_id", mapping, ignore=("patient_id",)
    )
    assert found.labels.tolist() == [0.0, 5.0, 6.0, 4.0]
    left = StudyMapping.model_validate({"columns": columns})
    assert problems(left, SCHEMA) == ["days: is not mapped"]


def test_the_steward_sees_the_times(tmp_path: Path) -> None:
    looked = inspect_table(
        written(tmp_path, "csv", followed("4", "30", "400", "30")), SCHEMA, "patient_id"
    )
    seen = inspection(looked, SCHEMA, None)
    assert [one.name for one in seen.columns] == ["ill", "days", "age", "ward"]


@pytest.mark.parametrize(("last_seen", "noted"), [(40, True), (30, True), (90, False)])
def test_a_follow_up_that_ends_before_a_horizon_is_noted(
    tmp_path: Path, last_seen: int, noted: bool
) -> None:
    """Such patients count as free of the event in a period that nobody saw them in."""
    days = [str(min(3 + 2 * number, last_seen)) for number in range(60)]
    ill = ["1" if number < 10 else "0" for number in range(60)]
    ages = [str(20 + number) for number in range(60)]
    table = many(ill, ages) | {"days": days}
    looked = inspect_table(written(tmp_path, "csv", table), SCHEMA, "patient_id")
    said = [str(one) for one in looked.found if "not followed so long" in str(one)]
    assert len(said) == noted
    if noted:
        assert "'days': hardly ever reaches 60 days" in said[0]
        encode_checked(written(tmp_path, "csv", table), SCHEMA, "patient_id")  # a note only
