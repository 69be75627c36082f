"""A table with several classes: what fits becomes codes, and what does not is named."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flo.clients.mapping.suggest import suggest
from flo.clients.quality.check import encode_checked, inspect_table, require_clean
from flo.clients.quality.inspection import inspection, page
from flo.clients.sources.mapping import StudyMapping, problems
from flo.clients.sources.source import SourceField
from flo.errors import DataError
from flo.study.document import from_document
from tests.clients.quality.test_check import good, written
from tests.clients.quality.test_quantities import many
from tests.flo.class_studies import CLASSES, NAMES, class_document

SCHEMA = from_document(class_document()).data
NUMBERED = from_document(class_document(CLASSES, classes=["1", "2", "3"])).data


def sorted_as(*cells: Any) -> dict[str, list[Any]]:
    return good() | {"ill": list(cells)}


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_classes_become_codes(tmp_path: Path, kind: str) -> None:
    source = written(tmp_path, kind, sorted_as("worst", "mild", "severe", "mild"))
    assert encode_checked(source, SCHEMA, "patient_id").labels.tolist() == [2, 0, 1, 0]
    (tmp_path / "numbers").mkdir()
    source = written(tmp_path / "numbers", kind, sorted_as("3", "1", "2", "2"))
    assert encode_checked(source, NUMBERED, "patient_id").labels.tolist() == [2, 0, 1, 1]


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        (
            "98765.4321",
            "column 'ill': must be a code of the study's codebook (mild, severe, worst), 1 record "
            "(row 2)",
        ),
        (None, "column 'ill': cells are missing, and the study allows none here"),
    ],
)
def test_a_class_that_is_none_is_named_by_column_rule_and_row(
    tmp_path: Path, cell: Any, said: str
) -> None:
    source = written(tmp_path, "csv", sorted_as("mild", cell, "worst", "severe"))
    with pytest.raises(DataError, match=re.escape(said)) as refused:
        require_clean(source, SCHEMA, "patient_id", None)
    assert "98765" not in str(refused.value)


def test_a_mapping_translates_the_hospitals_own_codes(tmp_path: Path) -> None:
    columns = {name: {"field": name} for name in ("age", "ward")}
    codes = {"1": "mild", "2": "severe", "3": "worst"}
    own = {"columns": columns | {"ill": {"field": "grade", "codes": codes}}}
    mapping = StudyMapping.model_validate(own)
    assert problems(mapping, SCHEMA) == []
    table = good() | {"grade": ["3", "1", "2", "2"]}
    source = written(tmp_path, "csv", table)
    found = require_clean(source, SCHEMA, "patient_id", mapping, ignore=("patient_id",))
    assert found.labels.tolist() == [2, 0, 1, 1]
    wrong = {"columns": columns | {"ill": {"field": "grade", "codes": {"1": "dead"}}}}
    (said,) = problems(StudyMapping.model_validate(wrong), SCHEMA)
    assert said == "ill: the study has no code dead, only mild, severe, worst"


def test_a_mapping_is_suggested_for_the_classes() -> None:
    spellings = {"ill": {"mild": "", "severe": "", "worst": ""}}
    found = suggest(
        SCHEMA, [SourceField("ill"), SourceField("age"), SourceField("ward")], spellings
    )
    assert found["ill"].mapped is not None
    assert found["ill"].mapped.field == "ill"


def test_the_steward_sees_how_many_have_each_class(tmp_path: Path) -> None:
    source = written(tmp_path, "csv", sorted_as("worst", "mild", "severe", "mild"))
    seen = inspection(inspect_table(source, SCHEMA, "patient_id"), SCHEMA, None)
    assert [one.name for one in seen.columns] == ["ill", "age", "ward"]
    assert (seen.dark, seen.positive) == ("with ill worst", 0.25)
    assert "with ill worst" in page(seen, "tiny", "here", "now")


def test_a_column_that_tells_one_class_is_found(tmp_path: Path) -> None:
    """It tells the others apart no better than chance."""
    rng = np.random.default_rng(1)
    classes = rng.integers(0, 3, 300)
    ages = np.where(classes == 1, rng.integers(70, 100, 300), rng.integers(20, 60, 300))
    table = many([NAMES[one] for one in classes], [str(one) for one in ages])
    looked = inspect_table(written(tmp_path, "csv", table), SCHEMA, "patient_id")
    (leak,) = [str(one) for one in looked.found if "almost alone" in str(one)]
    assert "'age': predicts the label almost alone (AUC 1.00)" in leak


def test_one_class_in_every_record_is_found(tmp_path: Path) -> None:
    ages = [str(20 + number % 60) for number in range(40)]
    table = many(["severe"] * 40, ages)
    looked = inspect_table(written(tmp_path, "csv", table), SCHEMA, "patient_id")
    assert any("is severe in every record" in str(one) for one in looked.found)
