"""Several classes are the same from a table, a database, FHIR and OMOP."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from flo.datasets import heart
from flo.study.columns import CategoryColumn
from flo.study.schema import Schema
from tests.clients.sources.hospital import HEART, with_another_label

PAIN = HEART.category("cp")
SCHEMA = Schema.model_validate(
    HEART.model_dump()
    | {"label": "cp", "outcome": {"kind": "classes", "classes": list(PAIN.codes)}}
    | {"columns": [one.model_dump() for one in HEART.columns if one.name != "cp"]}
)


@pytest.mark.parametrize("kind", ["parquet", "sql", "fhir", "omop"])
def test_every_system_gives_the_classes_of_the_csv(kind: str, tmp_path: Path) -> None:
    assert isinstance(SCHEMA.value_column, CategoryColumn)
    table = heart.load()["cleveland"]
    known = table[table["cp"].notna()].reset_index(drop=True)
    wanted, found = (
        with_another_label(one, known, tmp_path / one, SCHEMA) for one in ("csv", kind)
    )
    assert len({*wanted.labels.tolist()}) == len(PAIN.codes)
    assert found.patient_ids == wanted.patient_ids
    np.testing.assert_array_equal(found.labels, wanted.labels)
    np.testing.assert_array_equal(found.inputs, wanted.inputs)
