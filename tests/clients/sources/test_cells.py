"""Ids, codes and numbers of any Arrow type: two different cells never become one."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flo.clients.quality.check import encode_checked, require_clean
from flo.clients.quality.table import _ids
from flo.clients.sources.cells import as_ids, as_numbers, as_text, dictionary
from flo.clients.sources.files import DataFrameSource, open_file
from flo.clients.sources.mapping import StudyMapping
from flo.errors import DataError
from flo.privacy.patients.split import normalise
from tests.builders import small_study

SCHEMA = small_study().data
LARGE = 12_345_678_901_234_560
ONE, OTHER = UUID(int=1), UUID(int=2)


@pytest.mark.parametrize(
    ("cells", "ids"),
    [
        (pa.array([Decimal(LARGE), Decimal(LARGE + 1)]), [str(LARGE), str(LARGE + 1)]),
        (pa.array([Decimal("1.50"), Decimal("2.00"), Decimal("100")]), ["1.5", "2", "100"]),
        (pa.array([LARGE, LARGE + 1]), [str(LARGE), str(LARGE + 1)]),
        (pa.array([1.0, None, 2.0]), ["1", None, "2"]),
        (pa.array([b"p1", b" p2 "]), ["p1", "p2"]),
        (pa.array([b"ab", b"cd"], pa.binary(2)), ["ab", "cd"]),
        (pa.array([ONE, OTHER]), [str(ONE), str(OTHER)]),
        (pa.array(["a", "b", "a"]).dictionary_encode(), ["a", "b", "a"]),
    ],
    ids=lambda given: str(given.type) if isinstance(given, pa.Array) else "",
)
def test_an_id_is_itself_whatever_its_type(cells: pa.Array, ids: list[Any]) -> None:
    assert as_ids(cells).to_pylist() == ids


_CELLS = "|7|7 | 7|+7|-0|1e3|1_0|0x1|5,2|nan|NaN|inf|NA|<5|1.5|\t1|1\x1f|٣|é|P 1|p\u00a01|İ|ß"
SPELT = st.sampled_from(_CELLS.split("|"))


def test_codes_of_small_decimals_are_read() -> None:
    small = pa.array([Decimal(1), None, Decimal(1)]).cast(pa.decimal32(5, 0))
    found = dictionary(small)
    assert (found.dictionary.to_pylist(), found.indices.to_pylist()) == (["1"], [0, None, 0])


@given(st.lists(st.none() | SPELT, max_size=6))
def test_cells_read_together_are_read_as_each_alone(cells: list[str | None]) -> None:
    """The quick ways, of columns in which all cells are plain, change nothing."""
    together, each = pa.array(cells, pa.string()), [pa.array([c], pa.string()) for c in cells]
    values, text = as_numbers(pa.concat_arrays([together, pa.array(["word"])]))  # the slow way
    for place, alone in enumerate(each):
        value, is_text = as_numbers(alone)
        np.testing.assert_array_equal(value[0], values[place])
        assert is_text[0] == text[place]
    wanted = [normalise(name) if name else "" for name in as_ids(together).to_pylist()]
    assert _ids(together) == wanted == [name for one in each for name in _ids(one)]


@pytest.mark.parametrize(
    "cells",
    [
        pa.array([ONE.bytes, b"\xff\xfe"]),
        pa.array([[1], [2]]),
        pa.array([{"a": 1}]),
        pa.array([1.5, 2.0]),
        pa.array([2.0**53, 1.0]),
    ],
    ids=["bytes", "lists", "structures", "decimals", "too long for a float"],
)
def test_what_cannot_tell_patients_apart_is_refused_without_a_cell(cells: pa.Array) -> None:
    with pytest.raises(DataError, match="patient ids must be text or whole numbers") as refused:
        as_ids(cells)
    assert "ff" not in str(refused.value)


def test_ids_of_a_study_with_many_records_are_as_many_as_there_are_patients(
    tmp_path: Path,
) -> None:
    many = SCHEMA.model_copy(update={"records_per_patient": "many"})
    columns = {"age": [50] * 4, "ward": ["a"] * 4, "ill": [0, 1, 0, 1]}
    for ids in (
        pa.array([Decimal(LARGE + n) for n in range(4)], pa.decimal128(38, 0)),
        pa.array([f"p{n}".encode() for n in range(4)]),
    ):
        pq.write_table(pa.table({"patient_id": ids, **columns}), tmp_path / "x.parquet")
        checked = encode_checked(
            open_file(tmp_path / "x.parquet", "patient_id"), many, "patient_id"
        )
        assert len(set(checked.patient_ids)) == 4
    noise = pa.array([bytes([255, n]) for n in range(4)])
    pq.write_table(pa.table({"patient_id": noise, **columns}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match="patient ids must be"):
        encode_checked(open_file(tmp_path / "x.parquet", "patient_id"), many, "patient_id")


def coded(cells: list[Any], codes: dict[str, str], **mapped: Any) -> list[str | None]:
    """What becomes of a column of the study's codes a, b and c."""
    table = pa.table(
        {
            **{"patient_id": [f"p{n}" for n in range(len(cells))], "age": [50] * len(cells)},
            **{"ward": cells, "ill": [0] * len(cells)},
        }
    )
    fields = {name: {"field": name} for name in ("age", "ill")}
    by = {"columns": fields | {"ward": {"field": "ward", "codes": codes, **mapped}}}
    schema = SCHEMA.model_copy(
        update={
            "columns": (
                SCHEMA.columns[0],
                SCHEMA.columns[1].model_copy(update={"missing": "indicator"}),
            )
        }
    )
    found = require_clean(
        DataFrameSource("x", "patient_id", table),
        schema,
        "patient_id",
        StudyMapping.model_validate(by),
    )
    one_hot = found.inputs[:, 1:4]
    return ["abc"[row.argmax()] if row.any() else None for row in one_hot]


def test_a_word_for_missing_is_a_code_where_the_mapping_says_so() -> None:
    assert coded(["None", "x", "", "NA"], {"None": "a", "x": "b"}) == ["a", "b", None, None]
    assert coded(["", "x", None], {"": "a", "x": "b"}) == ["a", "b", None]
    assert coded(["None", "x"], {"None": "a", "x": "b"}, missing=["None"]) == [None, "b"]


def test_a_whole_number_with_decimals_is_the_code_it_spells() -> None:
    assert coded(["1.0", "2.00", "2"], {"1": "a", "2": "b"}) == ["a", "b", "b"]
    table = {"patient_id": ["p1", "p2"], "age": ["50", "60"], "ward": ["a", "b"]}
    source = DataFrameSource("x", "patient_id", pa.table({**table, "ill": ["1.0", "0.0"]}))
    assert encode_checked(source, SCHEMA, "patient_id").labels.tolist() == [1, 0]


def test_bytes_that_a_file_calls_text_are_no_text() -> None:
    cells = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(np.array([0, 1], np.int32)), pa.py_buffer(b"\xff")]
    )
    for read in (as_text, as_numbers):
        with pytest.raises(TypeError, match=r"^bytes$"):
            read(cells)
    with pytest.raises(DataError, match="not bytes"):
        as_ids(cells)


@pytest.mark.parametrize("kind", [pa.float16(), pa.float32(), pa.float64()])
def test_floats_of_every_size_are_numbers_and_text(kind: pa.DataType) -> None:
    cells = pa.array([1.0, 2.5, None], kind)
    assert as_numbers(cells)[0][:2].tolist() == [1, 2.5]
    assert as_text(cells).to_pylist() == ["1", "2.5", None]
