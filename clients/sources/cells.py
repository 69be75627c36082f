"""Convert cells of any Arrow type to text, numbers or patient ids, each cell independently.

Missing is an empty cell, NA, N/A, NaN, null or None, in any case.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flo.arrays import Floats, Mask
from flo.errors import DataError
from flo.study.cell_rules import MISSING

_NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
_INFINITE = r"(?i)^[+-]?inf(inity)?$"
_MISSING = pa.array(sorted(MISSING))
_EXACT = 2.0**53  # below it a float holds every whole number exactly


def as_text(cells: pa.Array, *, as_spelt: bool = False) -> pa.StringArray:
    """Return text without outer spaces, null for missing; whole numbers without a decimal point.

    ``as_spelt``: keep empty cells and words such as None, so that a mapping can name them.

    Raises:
        TypeError: cells are lists or structures, or bytes that are not UTF-8.
    """
    cells = _plain(cells)
    kind = cells.type
    if pa.types.is_null(kind):
        return pa.nulls(len(cells), pa.string())
    if pa.types.is_boolean(kind):
        return pc.if_else(cells, "True", "False")
    if pa.types.is_decimal(kind):  # as text: a float cannot hold an id of 18 digits
        whole = pc.replace_substring_regex(cells.cast(pa.string()), r"\.0+$", "")
        return pc.replace_substring_regex(whole, r"(\.\d*[1-9])0+$", r"\1")
    if pa.types.is_floating(kind):
        cells = pc.if_else(pc.is_nan(cells), pa.scalar(None, kind), cells)
        whole = pc.and_(pc.equal(pc.floor(cells), cells), pc.less(pc.abs(cells), _EXACT))
        integers = pc.if_else(whole, cells, pa.scalar(None, kind)).cast(pa.int64())
        return pc.coalesce(integers.cast(pa.string()), cells.cast(pa.string()))
    if pa.types.is_nested(kind):
        raise TypeError("lists or structures")  # a structure's type would name its keys
    if not _is_text(kind):
        return cells.cast(pa.string())
    try:
        trimmed = pc.utf8_trim_whitespace(cells.cast(pa.string()))
        trimmed.validate(full=True)  # a file may mark bytes as text
        absent = pc.is_in(pc.utf8_lower(trimmed), value_set=_MISSING)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise TypeError("bytes") from None  # Arrow's message may quote them
    return trimmed if as_spelt else pc.if_else(absent, pa.scalar(None, pa.string()), trimmed)


def is_text(cells: pa.Array) -> bool:
    """Return whether cells are text or bytes, lists or structures, or all missing."""
    kind = _plain(cells).type
    return pa.types.is_null(kind) or pa.types.is_nested(kind) or _is_text(kind)


def as_ids(cells: pa.Array) -> pa.StringArray:
    """Return patient ids: text or whole numbers, null for missing.

    Different ids stay different, except for outer spaces.

    Raises:
        DataError: cells of another kind, or floats that are not exact whole numbers.
    """
    cells = _plain(cells)
    rule, hint = "patient ids must be text or whole numbers", "export them as text"
    if pa.types.is_floating(cells.type):
        known = _floats(cells.cast(pa.float64()))
        known = known[~np.isnan(known)]
        if (known != np.floor(known)).any() or (np.abs(known) >= _EXACT).any():
            raise DataError(
                f"{rule}, and some are decimal numbers or have over 15 digits", hint=hint
            )
    try:
        return as_text(cells)
    except TypeError as error:
        raise DataError(f"{rule}, not {error}", hint=hint) from None


def dictionary(cells: pa.Array) -> pa.DictionaryArray:
    """Return cells as places in the list of their different values, which keep their type.

    Raises TypeError: cells are lists or structures.
    """
    cells = _plain(cells)
    if pa.types.is_null(cells.type):
        cells = cells.cast(pa.string())
    if pa.types.is_nested(cells.type):
        raise TypeError("lists or structures")
    try:
        return cells.dictionary_encode()
    except pa.ArrowNotImplementedError:  # such as decimals of 32 bits
        return as_text(cells).dictionary_encode()


def as_numbers(cells: pa.Array) -> tuple[Floats, Mask]:
    """Return numbers, NaN for missing, shape (n,), and the mask of cells that are no number.

    The latter are NaN, too. Infinity is a number here. Raises TypeError as ``as_text`` does.
    """
    cells = _plain(cells)
    kind = cells.type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return _floats(cells.cast(pa.float64(), safe=False)), np.zeros(len(cells), dtype=bool)
    if (values := _as_spelt(cells)) is not None:
        return values, np.zeros(len(cells), dtype=bool)
    text = as_text(cells)
    try:
        values = _floats(text.cast(pa.float64()))
    except pa.ArrowInvalid:  # some cell is no number; find which
        numbers = pc.match_substring_regex(text, _NUMBER)
        bare = pc.replace_substring_regex(text, r"^\+", "")
        values = _floats(pc.if_else(numbers, bare, pa.scalar(None, pa.string())).cast(pa.float64()))
        values[_mask(pc.fill_null(pc.match_substring_regex(text, _INFINITE), False))] = np.inf
    return values, np.isnan(values) & ~_mask(pc.is_null(text))


def _as_spelt(cells: pa.Array) -> Floats | None:
    """Return the numbers if each cell is empty or spelt as a number, which is seen quickly."""
    if not pa.types.is_string(cells.type):
        return None
    cells = pc.if_else(pc.equal(cells, ""), pa.scalar(None, pa.string()), cells)
    try:
        values = _floats(cells.cast(pa.float64()))
    except pa.ArrowInvalid:
        return None
    words = np.count_nonzero(np.isnan(values)) > cells.null_count  # NaN, of which Arrow makes one
    return None if words else values


def _plain(cells: pa.Array) -> pa.Array:
    if isinstance(cells, pa.ChunkedArray):
        cells = cells.combine_chunks()
    if isinstance(cells.type, pa.UuidType):
        return pa.array([None if cell is None else str(cell) for cell in cells.to_pylist()])
    if isinstance(cells.type, pa.BaseExtensionType):
        cells = cells.storage
    if pa.types.is_float16(cells.type):
        cells = cells.cast(pa.float32())
    return cells.dictionary_decode() if pa.types.is_dictionary(cells.type) else cells


def _is_text(kind: pa.DataType) -> bool:
    """Return whether cells are text or bytes: Impala and old Spark do not mark text as such."""
    return any(
        is_so(kind)
        for is_so in (
            *(pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view),
            *(pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary),
        )
    )


def _floats(cells: pa.Array) -> Floats:
    # A copy: Arrow's own memory is read-only, and is not freed while a view of it exists.
    return np.array(pc.fill_null(cells, float("nan")).to_numpy(zero_copy_only=False))


def _mask(cells: pa.Array) -> Mask:
    return np.asarray(cells.to_numpy(zero_copy_only=False), dtype=bool)
