"""A measured outcome is the same from a table, FHIR and OMOP."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flo.clients.sources.mapping import StudyMapping
from flo.datasets import heart
from flo.study.schema import Schema
from tests.clients.sources.exports import chol, patient, write
from tests.clients.sources.hospital import HEART, with_another_label

OUTCOME = {"kind": "number", "unit": "mg/dL", "levels": [100, 200, 250, 300, 600]}
SCHEMA = Schema.model_validate(
    HEART.model_dump()
    | {"label": "chol", "outcome": OUTCOME}
    | {"columns": [one.model_dump() for one in HEART.columns if one.name != "chol"]}
)


@pytest.mark.parametrize("kind", ["parquet", "sql", "fhir", "omop"])
def test_every_system_gives_the_values_of_the_csv(kind: str, tmp_path: Path) -> None:
    table = heart.load()["cleveland"]
    known = table[table["chol"].notna() & table["chol"].between(100, 600)].reset_index(drop=True)
    wanted, found = (
        with_another_label(one, known, tmp_path / one, SCHEMA) for one in ("csv", kind)
    )
    assert found.patient_ids == wanted.patient_ids
    np.testing.assert_array_equal(found.labels, wanted.labels)
    np.testing.assert_array_equal(found.inputs, wanted.inputs)
    quantity = SCHEMA.quantity
    assert quantity is not None
    exact = known.sort_values("patient_id")["chol"].to_numpy()
    assert quantity.valued(found.labels) == pytest.approx(exact)


def test_a_measurement_after_the_records_day_can_be_the_outcome(tmp_path: Path) -> None:
    def read(**mapped: Any) -> list[Any]:
        column = {"field": "observation:http://loinc.org|2093-3", **mapped}
        document = {"columns": {"chol": column}, "as_of": "2021-01-01"}
        export = write(tmp_path, patient(), chol(180, "2020-12-01"), chol(220, "2021-03-01"))
        batches = export.read(StudyMapping.model_validate_json(json.dumps(document)), SCHEMA)
        return [cell for batch in batches for cell in batch.columns["chol"].to_pylist()]

    assert read() == [180]
    assert read(when="after") == [220]
