"""Cells of any Arrow type as text, or as numbers. Each cell by itself, whatever stands around it.

Missing is an empty cell, NA, N/A, NaN, null or None, in any case.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from flo.schema import MISSING

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
_NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
_INFINITE = r"(?i)^[+-]?inf(inity)?$"
_MISSING = pa.array(sorted(MISSING))


def as_text(cells: pa.Array) -> pa.StringArray:
    """Text without spaces around it, and null for missing; whole numbers without a decimal point.

    Raises:
        TypeError: cells that are lists, structures or bytes.
    """
    cells = _plain(cells)
    kind = cells.type
    if pa.types.is_null(kind):
        return pa.nulls(len(cells), pa.string())
    if pa.types.is_boolean(kind):
        return pc.if_else(cells, "True", "False")
    if pa.types.is_decimal(kind):
        cells, kind = cells.cast(pa.float64()), pa.float64()
    if pa.types.is_floating(kind):
        cells = pc.if_else(pc.is_nan(cells), pa.scalar(None, kind), cells)
        # Beyond 2^53 a float is no exact count of anything.
        whole = pc.and_(pc.equal(pc.floor(cells), cells), pc.less(pc.abs(cells), 2.0**53))
        integers = pc.if_else(whole, cells, pa.scalar(None, kind)).cast(pa.int64())
        return pc.coalesce(integers.cast(pa.string()), cells.cast(pa.string()))
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        if pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            raise TypeError("lists, structures or bytes")  # a structure's type names its keys
        return cells.cast(pa.string())
    trimmed = pc.utf8_trim_whitespace(cells.cast(pa.string()))
    absent = pc.is_in(pc.utf8_lower(trimmed), value_set=_MISSING)
    return pc.if_else(absent, pa.scalar(None, pa.string()), trimmed)


def as_numbers(cells: pa.Array) -> tuple[Floats, Mask]:
    """Numbers, NaN for missing, shape (n,); and which cells are no number (NaN, too).

    Infinity is a number here. Raises TypeError as ``as_text`` does.
    """
    cells = _plain(cells)
    kind = cells.type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return _floats(cells.cast(pa.float64(), safe=False)), np.zeros(len(cells), dtype=bool)
    text = as_text(cells)
    try:
        values = _floats(text.cast(pa.float64()))
    except pa.ArrowInvalid:  # some cell is no number; find out which
        numbers = pc.match_substring_regex(text, _NUMBER)
        bare = pc.replace_substring_regex(text, r"^\+", "")
        values = _floats(pc.if_else(numbers, bare, pa.scalar(None, pa.string())).cast(pa.float64()))
        values[_mask(pc.fill_null(pc.match_substring_regex(text, _INFINITE), False))] = np.inf
    return values, np.isnan(values) & ~_mask(pc.is_null(text))


def _plain(cells: pa.Array) -> pa.Array:
    if isinstance(cells, pa.ChunkedArray):
        cells = cells.combine_chunks()
    return cells.dictionary_decode() if pa.types.is_dictionary(cells.type) else cells


def _floats(cells: pa.Array) -> Floats:
    # A copy: Arrow's own memory cannot be written, and is kept as long as anything looks at it.
    return np.array(pc.fill_null(cells, float("nan")).to_numpy(zero_copy_only=False))


def _mask(cells: pa.Array) -> Mask:
    return np.asarray(cells.to_numpy(zero_copy_only=False), dtype=bool)
