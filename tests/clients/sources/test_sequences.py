"""The steps of a sequence are the same from every system, and as another way works them out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.clients.sources.histories import events, patients, read, schema

KINDS = ("csv", "parquet", "sql", "fhir", "omop")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("step", ["period", "visit"])
def test_every_system_gives_the_steps_of_a_wide_table(kind: str, step: str, tmp_path: Path) -> None:
    table, of = patients(), schema(step)
    happened = events(table)
    wanted, found = (read(one, table, happened, tmp_path / one, of) for one in ("wide", kind))
    assert found.patient_ids == wanted.patient_ids
    np.testing.assert_array_equal(found.labels, wanted.labels)
    np.testing.assert_array_equal(found.inputs, wanted.inputs)
    steps = wanted.inputs[:, -of.steps_columns :]
    assert len(np.unique(steps, axis=0)) > 30, "patients differ in what happened to them"
