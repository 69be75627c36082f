"""One record, encoded at once: for a patient who is scored now, not a table of a million.

``RecordEncoder`` is made once for a study and a mapping, and does for one record what a hospital's
quality gate (``check_inputs``) does for a table: the same inputs to the last bit, or the same
refusals. A property test compares the two on random records, bad ones among them.

A record's cells are what JSON has: text, whole numbers, decimals, true, false, null; an image is a
list of its pixels, row by row, each a number and not its text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from flo.study.cell_rules import (
    IS_MISSING,
    MISSING,
    MISSING_CELLS,
    NOT_A_NUMBER,
    NOT_FINITE,
    ONLY_A_BOUND,
    bad_pixel,
    code_of,
    missing_cells,
    no_code,
    out_of_bounds,
)

if TYPE_CHECKING:
    from flo.arrays import Floats
    from flo.study.columns import CategoryColumn, Column, ImageColumn, NumberColumn

_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)  # never backtracks
_INFINITE = re.compile(r"[+-]?inf(inity)?", re.ASCII | re.IGNORECASE)
_BOUND = re.compile(r"[<>≤≥]|\? ")
_EXACT, _LARGEST = 2.0**53, 1 << 64  # whole numbers beyond it are written out by nobody
_NO_TEXT = "\0"  # of a cell that is no text; in no codebook
_LISTS, _STRUCTURES = "lists or structures", (list, tuple, dict)
_MOST_SEEN, _LONGEST_CODE = 1000, 100  # spellings of codes that are remembered; characters
Cell = object  # what JSON has
# From a cell to the column's inputs, as a list of floats or an array of an image; or the rule that
# it breaks, as text.
_Read = Callable[[Cell], "list[float] | Floats | str"]


class Field(NamedTuple):
    """A hospital's own field of a column: its ``name``, units, codes and missing cells, as
    ``mapping.toml`` has them."""

    name: str
    multiply: float | None = None
    add: float = 0.0
    codes: Mapping[str, str] = {}
    missing: tuple[str, ...] = ()


class Beyond(str):
    """The rule that a number beyond its column's bounds breaks. ``value``: in the study's unit."""

    value: float

    @classmethod
    def of(cls, rule: str, value: float) -> Beyond:
        """Return the rule with this value."""
        found = cls(rule)
        found.value = value
        return found


class Encoded(NamedTuple):
    """``inputs`` (d,), or None and in ``broken`` each column's rule that does not hold.

    A list of floats, or an array if an image is among the columns.
    """

    inputs: list[float] | Floats | None
    broken: tuple[tuple[str, str], ...] = ()


class RecordEncoder:
    """Encodes records of a study's columns, of which ``fields`` may have other names and units.

    ``fields``: by column; a column that is not among them is a field of the same name.
    """

    def __init__(
        self, columns: Sequence[Column], fields: Mapping[str, Field] | None = None
    ) -> None:
        self._columns: list[tuple[str, str, _Read]] = []
        for column in columns:
            own = (fields or {}).get(column.name) or Field(column.name)
            self._columns.append((own.name, column.name, _reader(column, own)))

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields that a record needs."""
        return tuple(field for field, _, _ in self._columns)

    def encode(self, record: Mapping[str, Cell]) -> Encoded:
        """Return the record's inputs, or every rule that it breaks. A field must be there."""
        inputs: list[float] = []
        images: list[list[float] | Floats] = []
        broken: list[tuple[str, str]] = []
        for own, name, read in self._columns:
            if own not in record:
                broken.append((name, IS_MISSING))
                continue
            found = read(record[own])
            if isinstance(found, str):
                broken.append((name, found))
            elif isinstance(found, list):
                inputs += found
            else:
                images += [inputs, found]
                inputs = []
        if broken:
            return Encoded(None, tuple(broken))
        if images:
            return Encoded(_joined([*images, inputs]))
        return Encoded(inputs)


def _reader(column: Column, own: Field) -> _Read:
    if column.kind == "number":
        return _number(column, own)
    if column.kind == "category":
        return _category(column, own)
    assert column.kind == "image"  # encoders do not run here
    return _image(column)


def _number(column: NumberColumn, own: Field) -> _Read:
    words, absent = missing_cells(own.missing)
    low, high, outside = column.minimum, column.maximum, out_of_bounds(column)
    multiply, add = own.multiply, own.add
    width, hinges = column.maximum - column.minimum, column.hinges
    indicator = [0.0] if column.missing == "indicator" else []

    def scaled(value: float) -> list[float]:
        bends = ((value - at) / (high - at) if value > at else 0.0 for at in hinges)
        return [2 * ((value - low) / width) - 1, *bends]

    without = None
    if column.missing_value is not None:
        without = [*scaled(column.missing_value), 1.0]

    def read(cell: Cell) -> list[float] | str:
        value = cell if type(cell) is float else _as_number(cell, words)
        if isinstance(value, str):
            return value
        if value != value or value in absent:
            return without if without is not None else MISSING_CELLS
        if math.isinf(value):
            return NOT_FINITE
        if multiply is not None:
            value = value * multiply + add
        if not low <= value <= high:
            return Beyond.of(outside, value)
        if not hinges:
            return [2 * ((value - low) / width) - 1, *indicator]
        return [*scaled(value), *indicator]

    def read_words(cell: Cell) -> list[float] | str:
        if isinstance(cell, _STRUCTURES):
            return NOT_A_NUMBER
        return read(math.nan if _as_text(cell) in words else cell)

    return read_words if words else read  # a number may be spelt as one of the words


def _as_number(cell: Cell, words: tuple[str, ...]) -> float | str:
    """Return a cell's number, NaN for missing; or the rule that it breaks."""
    if cell is None:
        return math.nan
    if isinstance(cell, bool):
        return NOT_A_NUMBER
    if isinstance(cell, int | float):
        try:
            return float(cell)
        except OverflowError:
            return math.inf if cell > 0 else -math.inf
    if not isinstance(cell, str):
        return f"{NOT_A_NUMBER}, not {_LISTS}"
    text = cell.strip()
    if text.lower() in MISSING or text in words:
        return math.nan
    if _NUMBER.fullmatch(text) or _INFINITE.fullmatch(text):
        return float(text)
    return ONLY_A_BOUND if _BOUND.match(text) else NOT_A_NUMBER


def _category(column: CategoryColumn, own: Field) -> _Read:
    missing, codes, known = own.missing, own.codes, column.codes
    shown = known[1:] if len(known) == 2 else known
    indicator = [0.0] if column.missing == "indicator" else []
    encoded = {code: [*(float(one == code) for one in shown), *indicator] for code in known}
    without = [*(0.0 for _ in shown), 1.0] if indicator else None
    unknown, seen = no_code(column), dict[str, "list[float]"]()

    def look(text: str | None) -> list[float] | str:
        code = None if text is None or text in missing else code_of(text, codes, known)
        if code is None:
            return without if without is not None else MISSING_CELLS
        return encoded.get(code, unknown)

    def read(cell: Cell) -> list[float] | str:
        if isinstance(cell, _STRUCTURES):
            return unknown
        text = _as_text(cell, as_spelt=bool(codes))
        if text is None:
            return look(None)
        if text in seen:
            return seen[text]
        found = look(text)
        if not isinstance(found, str) and len(text) <= _LONGEST_CODE and len(seen) < _MOST_SEEN:
            seen[text] = found  # spellings of codes; nothing else of a patient is kept
        return found

    return read


def _as_text(cell: Cell, *, as_spelt: bool = False) -> str | None:
    """Return a cell as text without outer spaces, None for missing, as a table's reader does."""
    if cell is None or isinstance(cell, _STRUCTURES):
        return None
    if isinstance(cell, bool):
        return "True" if cell else "False"
    if isinstance(cell, int):
        return str(cell) if abs(cell) < _LARGEST else _NO_TEXT
    if isinstance(cell, float):
        if cell != cell:
            return None
        whole = cell == math.floor(cell) and abs(cell) < _EXACT if math.isfinite(cell) else False
        return str(int(cell)) if whole else _shortest(cell)
    if not isinstance(cell, str):
        return _NO_TEXT
    text = cell.strip()
    return None if not as_spelt and text.lower() in MISSING else text


def _shortest(value: float) -> str:
    """Return a decimal that is no whole number, or is 2⁵³ or larger, as Arrow writes it."""
    if not math.isfinite(value):
        return repr(value)
    from decimal import Decimal

    exact = Decimal(repr(value))
    if -7 < exact.adjusted() < 10:
        return f"{exact:f}"
    digits = "".join(map(str, exact.as_tuple().digits)).rstrip("0") or "0"
    fraction = f".{digits[1:]}" if len(digits) > 1 else ""
    return f"{'-' * (value < 0)}{digits[0]}{fraction}e{exact.adjusted():+d}"


def _image(column: ImageColumn) -> _Read:
    import numpy as np

    from flo.study.features import encode_image, scale

    count, rule = column.channels * column.height * column.width, bad_pixel(column)

    def read(cell: Cell) -> Floats | str:
        if not isinstance(cell, list | tuple) or len(cell) != count:
            return f"must be a list of {count} numbers, row by row"
        if not set(map(type, cell)) <= {int, float}:
            return rule
        try:
            values = np.array(cell, dtype=np.float64)
        except OverflowError:
            return rule
        if not ((values >= column.minimum) & (values <= column.maximum)).all():
            return rule
        inputs: Floats = encode_image(column, scale(column, values[None]))[0]
        return inputs

    return read


def _joined(parts: Sequence[list[float] | Floats]) -> Floats:
    import numpy as np

    return np.concatenate([np.asarray(part, dtype=np.float64) for part in parts])
