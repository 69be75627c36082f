"""Into which cell a value falls: all at once from inputs, and one by one from its number."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flo.clients.watching.cells import StudyCells
from flo.documents.document import parse
from flo.scoring.record import RecordEncoder
from flo.study.schema import Schema

COLUMNS: list[dict[str, Any]] = [
    {"kind": "number", "name": "age", "unit": "years", "minimum": 18, "maximum": 100},
    {"kind": "category", "name": "sex", "codes": ["f", "m"], "missing": "indicator"},
    {"kind": "image", "name": "scan", "height": 8, "width": 8, "minimum": 0, "maximum": 255},
    {
        **{"kind": "number", "name": "be", "unit": "mmol/L", "minimum": -30, "maximum": 30},
        **{"missing": "indicator", "missing_value": 0, "hinges": [-5, 5]},
    },
    {"kind": "category", "name": "stage", "codes": ["i", "ii", "iii"], "missing": "indicator"},
    {"kind": "number", "name": "crea", "unit": "mg/dL", "minimum": 0, "maximum": 15},
]
SCHEMA = parse(Schema, {"record": "p", "label": "died", "columns": COLUMNS}, "the schema")
CELLS, ENCODER = StudyCells(SCHEMA), RecordEncoder(SCHEMA.columns)
IMAGE = [0] * 64


def on_a_grid(low: int, high: int) -> st.SearchStrategy[float]:
    """Values of a tenth: those of laboratories, which often lie on the edge of a cell."""
    return st.integers(10 * low, 10 * high).map(lambda tenths: tenths / 10)


records = st.fixed_dictionaries(
    {
        "age": on_a_grid(18, 100),
        "sex": st.sampled_from(["f", "m", None]),
        "scan": st.just(IMAGE),
        "be": on_a_grid(-30, 30) | st.none(),
        "stage": st.sampled_from(["i", "ii", "iii", None]),
        "crea": on_a_grid(0, 15) | st.floats(0, 15),
    }
)


@given(several=st.lists(records, min_size=1, max_size=5))
def test_all_at_once_is_as_one_by_one(several: list[dict[str, Any]]) -> None:
    inputs = np.array([ENCODER.encode(one).inputs for one in several])
    found = CELLS.of_inputs(inputs)
    assert found.shape == (len(several), 5), "an image has no cell"
    for record, cells in zip(several, found, strict=True):
        for one, cell in zip(CELLS.columns, cells.tolist(), strict=True):
            value = record[one.column.name]
            if value is None:
                assert cell == one.missing
            elif one.column.kind == "category":
                assert cell == one.column.codes.index(value)
            else:
                assert cell == int(one.of_values(np.array([value]))[0])
                assert cell < one.missing


def test_edges_rise_and_reach_far_beyond_the_bounds() -> None:
    for one in CELLS.columns:
        if one.column.kind == "number":
            assert (np.diff(one.edges) > 0).all()
            assert one.count == len(one.edges) + 2
    crea = CELLS.columns[-1]
    assert crea.edges[-1] > 88.42 * 15, "values in µmol/L are told apart"


def test_a_number_beyond_its_bounds_has_a_cell_and_text_has_none() -> None:
    record = {"age": 400, "sex": "x", "scan": IMAGE, "be": "high", "stage": "i", "crea": 88.4}
    found = dict(CELLS.of_rules(ENCODER.encode(record).broken))
    assert set(found) == {0, 1, 2, 4}
    assert found[1] is found[2] is None
    cell, edges = found[4], CELLS.columns[4].edges
    assert cell is not None
    assert edges[cell - 1] <= 88.4 < edges[cell]


def test_rules_of_no_column_are_left_out() -> None:
    assert CELLS.of_rules([("patient", "is about another patient"), ("age", "is missing")]) == [
        (0, None)
    ]


@pytest.mark.parametrize("count", [0, 1, 1000])
def test_any_number_of_records(count: int) -> None:
    record = {"age": 50, "sex": "f", "scan": IMAGE, "be": 0, "stage": "i", "crea": 1}
    inputs = np.tile(np.array([ENCODER.encode(record).inputs]), (count, 1))
    assert CELLS.of_inputs(inputs).shape == (count, 5)
