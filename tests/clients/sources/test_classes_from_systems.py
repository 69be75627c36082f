"""Several classes are the same from a table, a database, FHIR and OMOP."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from flo.clients.quality.check import EncodedTable, require_clean
from flo.clients.sources.mapping import StudyMapping
from flo.datasets import heart
from flo.study.schema import CategoryColumn, Schema
from tests.clients.sources.hospital import HEART, mapping, source

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
    (tmp_path / "csv").mkdir()
    (tmp_path / kind).mkdir()

    def read(one: str) -> EncodedTable:
        mapped = mapping(one, known)
        if mapped is not None:
            document = json.loads(mapped.model_dump_json(exclude_defaults=True))
            del document["columns"]["disease"]
            mapped = StudyMapping.model_validate_json(json.dumps(document))
        found = require_clean(
            source(one, known, tmp_path / one), SCHEMA, "patient_id", mapped, ignore=("disease",)
        )
        order = sorted(range(len(found.patient_ids)), key=found.patient_ids.__getitem__)
        ids = [found.patient_ids[place] for place in order]
        return EncodedTable(found.inputs[order], found.labels[order], ids)

    wanted, found = read("csv"), read(kind)
    assert len({*wanted.labels.tolist()}) == len(PAIN.codes)
    assert found.patient_ids == wanted.patient_ids
    np.testing.assert_array_equal(found.labels, wanted.labels)
    np.testing.assert_array_equal(found.inputs, wanted.inputs)
