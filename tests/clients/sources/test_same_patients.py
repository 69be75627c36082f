"""Whatever system a hospital has, the same patients become the same records."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from fhir.resources.R4B import get_fhir_model_class

from flo.datasets import heart
from flo.datasets import sample_sources as samples
from tests.clients.sources.hospital import HOSPITALS, checked


@pytest.mark.slow
@pytest.mark.parametrize("hospital", HOSPITALS)
@pytest.mark.parametrize("kind", ["parquet", "sql", "fhir", "omop"])
def test_every_system_gives_the_columns_of_the_csv(
    hospital: str, kind: str, tmp_path: Path
) -> None:
    table = heart.load()[hospital]
    wanted, found = (checked(k, table, tmp_path / k) for k in ("csv", kind))
    assert found.patient_ids == wanted.patient_ids
    assert len(found.patient_ids) == len(table)
    np.testing.assert_array_equal(found.inputs, wanted.inputs)
    np.testing.assert_array_equal(found.labels, wanted.labels)


def test_the_fhir_sample_is_fhir_r4(tmp_path: Path) -> None:
    folder = samples.write_fhir(heart.load()["switzerland"], tmp_path, "switzerland")
    seen = 0
    for path in folder.glob("*.ndjson"):
        model = get_fhir_model_class(path.stem)
        for line in path.read_text().splitlines():
            model.model_validate(json.loads(line))
            seen += 1
    assert seen > 1000
