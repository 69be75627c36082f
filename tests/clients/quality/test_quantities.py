"""A table with a number or a count: what fits becomes codes, and what does not is named."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flo.clients.quality.check import encode_checked, inspect_table, require_clean
from flo.clients.quality.inspection import inspection
from flo.clients.sources.mapping import StudyMapping, problems
from flo.errors import DataError
from flo.study.document import from_document
from tests.clients.quality.test_check import good, written
from tests.flo.quantities import COUNT, NUMBER, quantity_document

SCHEMA = from_document(quantity_document(COUNT)).data
OF_NUMBER = from_document(quantity_document(NUMBER)).data


def counted(*cells: Any) -> dict[str, list[Any]]:
    return good() | {"ill": list(cells)}


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_values_become_codes(tmp_path: Path, kind: str) -> None:
    """Levels 0, 1, 2, 4 and 8 of a count; 0, 2, 4, 6 and 10 of a number."""
    source = written(tmp_path, kind, counted("0", "2", "3", "8"))
    assert encode_checked(source, SCHEMA, "patient_id").labels.tolist() == [0, 2, 2.5, 4]
    assert encode_checked(source, OF_NUMBER, "patient_id").labels.tolist() == [0, 1, 1.5, 3.5]


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("-1", "column 'ill': must lie within [0, 8] visits, 1 record (row 2)"),
        ("9", "column 'ill': must lie within [0, 8] visits, 1 record (row 2)"),
        ("1.5", "column 'ill': a count must be a whole number, 1 record (row 2)"),
        (None, "column 'ill': cells are missing, and the study allows none here"),
        ("many", "column 'ill': must be a number, 1 record (row 2)"),
        ("inf", "column 'ill': must be finite, 1 record (row 2)"),
    ],
)
def test_a_count_that_is_none_is_named_by_column_rule_and_row(
    tmp_path: Path, cell: Any, said: str
) -> None:
    source = written(tmp_path, "csv", counted("4", cell, "5", "6"))
    with pytest.raises(DataError, match=re.escape(said)) as refused:
        require_clean(source, SCHEMA, "patient_id", None)
    assert "many" not in str(refused.value)


def test_a_mapping_converts_the_unit_and_has_no_codes(tmp_path: Path) -> None:
    columns = {name: {"field": name} for name in ("age", "ward")}
    halves = {"field": "halves", "unit": "half points", "multiply": 0.5}
    mapping = StudyMapping.model_validate({"columns": {**columns, "ill": halves}})
    assert problems(mapping, OF_NUMBER) == []
    table = good() | {"halves": ["0", "4", "6", "20"]}
    found = require_clean(
        written(tmp_path, "csv", table), OF_NUMBER, "patient_id", mapping, ignore=("patient_id",)
    )
    assert found.labels.tolist() == [0, 1, 1.5, 4]
    left = StudyMapping.model_validate({"columns": columns})
    assert problems(left, OF_NUMBER) == ["ill: is not mapped"]
    label = {"field": "x", "codes": {"a": "1"}}
    coded = StudyMapping.model_validate({"columns": columns | {"ill": label}})
    assert problems(coded, OF_NUMBER) == ["ill: only a category has codes"]


def test_the_steward_sees_the_values(tmp_path: Path) -> None:
    looked = inspect_table(
        written(tmp_path, "csv", counted("0", "2", "3", "8")), SCHEMA, "patient_id"
    )
    seen = inspection(looked, SCHEMA, None)
    assert [one.name for one in seen.columns] == ["ill", "age", "ward"]
    assert (seen.dark, seen.positive) == ("in the upper half of ill", 0.5)
    assert seen.columns[0].rule == "0 to 8 visits"
    assert seen.columns[0].numbers[4] == 8


def many(label: list[Any], age: list[Any]) -> dict[str, list[Any]]:
    count = len(label)
    ids = [f"p{number}" for number in range(count)]
    return {"patient_id": ids, "ill": label, "age": age, "ward": ["a", "b"] * (count // 2)}


def test_a_column_that_is_the_value_again_is_found(tmp_path: Path) -> None:
    values = np.random.default_rng(1).integers(0, 9, 200)
    table = many([str(one) for one in values], [str(20 + one) for one in values])
    looked = inspect_table(written(tmp_path, "csv", table), SCHEMA, "patient_id")
    assert any("'age': predicts the label almost alone" in str(one) for one in looked.found)


def test_a_value_that_never_changes_is_found(tmp_path: Path) -> None:
    ages = [str(20 + number % 60) for number in range(40)]
    looked = inspect_table(written(tmp_path, "csv", many(["3"] * 40, ages)), SCHEMA, "patient_id")
    (found,) = [str(one) for one in looked.found if "'ill'" in str(one)]
    assert "has the same value in every record" in found
    assert "3" not in found


def test_a_copy_of_the_value_is_found_also_where_most_are_at_the_last_level(tmp_path: Path) -> None:
    values = np.minimum(np.random.default_rng(1).integers(0, 20, 200), 8)
    table = many([str(one) for one in values], [str(20 + one) for one in values])
    looked = inspect_table(written(tmp_path, "csv", table), SCHEMA, "patient_id")
    assert np.median(values) == 8
    assert any("'age': predicts the label almost alone" in str(one) for one in looked.found)


def test_identifiers_as_the_outcome_are_found(tmp_path: Path) -> None:
    born = {"kind": "number", "unit": "1", "levels": [0, 19_000_000, 21_000_000]}
    schema = from_document(quantity_document(born)).data
    days = [f"19{year:02}{month:02}15" for year in range(40, 80) for month in (3, 9)]
    ages = [str(20 + number % 60) for number in range(80)]
    looked = inspect_table(written(tmp_path, "csv", many(days, ages)), schema, "patient_id")
    assert any("'ill': holds what looks like" in str(one) for one in looked.found)
