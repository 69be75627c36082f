"""What a cell must be, in words: the rules of a study's columns, as a person reads them.

Tables and single records are judged by the same rules. Imports nothing but types, so that a process
that scores one patient starts quickly.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flo.study.columns import CategoryColumn, ImageColumn, NumberColumn

MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "<na>"})
NOT_A_NUMBER, NOT_FINITE = "must be a number", "must be finite"
ONLY_A_BOUND = (
    f"{NOT_A_NUMBER}, but is a bound with a comparator (<, <=, >, >=); if such a cell means "
    '"not known", name it under `missing` in mapping.toml, spelt as in the data'
)
MISSING_CELLS = "cells are missing, and the study allows none here"
IS_MISSING = "is missing from the record"
NOT_TEXT = "must be text"
NO_CODE = "must be a code of the study's codebook"
UNKNOWN = "\0"  # prefix of a cell that the mapping's codes do not name; in no codebook
_CODES_SHOWN = 8
_WHOLE = re.compile(r"(-?\d+)\.0+")
_NUMBER = re.compile(r"-?\d+(\.\d+)?")


def out_of_bounds(column: NumberColumn) -> str:
    """Return the rule of a number's bounds."""
    return f"must lie within [{column.minimum:g}, {column.maximum:g}] {column.unit}"


def no_code(column: CategoryColumn) -> str:
    """Return the rule of a codebook."""
    some = ", ".join(column.codes[:_CODES_SHOWN])
    some += ", ..." if len(column.codes) > _CODES_SHOWN else ""
    return f"{NO_CODE} ({some})"


def bad_pixel(column: ImageColumn) -> str:
    """Return the rule of an image's bounds."""
    return f"every pixel must be a number within [{column.minimum:g}, {column.maximum:g}]"


def missing_cells(cells: tuple[str, ...]) -> tuple[tuple[str, ...], list[float]]:
    """Return words, and numbers, which have several spellings: -1 and -1.0."""
    numbers = {cell: float(cell) for cell in cells if _NUMBER.fullmatch(cell)}
    return tuple(cell for cell in cells if cell not in numbers), list(numbers.values())


def code_of(cell: str, codes: Mapping[str, str], known: tuple[str, ...]) -> str | None:
    """Return a cell's code in the study, None for missing.

    ``codes`` may also name an empty cell and words such as None. A whole number that a file writes
    with decimals, 1.0, is that number, as in Parquet.
    """
    wanted = codes or known
    if cell not in wanted and (whole := _WHOLE.fullmatch(cell)) and whole[1] in wanted:
        cell = whole[1]
    if not codes:
        return cell
    if cell in codes:
        return codes[cell]
    return None if cell.lower() in MISSING else f"{UNKNOWN}{cell}"
