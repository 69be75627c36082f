"""Detect numbers that a record system writes for unknown values: codes, defaults, constants.

The criteria were tested on the 17,887 numeric columns of 1,257 public tables. A missing code such
as 999 is frequent and lies at the edge. A default lies within a quantity that is otherwise finely
measured. A frequent zero at the edge is reported only if it is far from the other values, because
counts and doses have many zeros.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from flo.arrays import Floats
from flo.clients.quality.findings import DataFinding, rows
from flo.study.columns import CategoryColumn, NumberColumn

CONSTANT, DEFAULT, MISSING_CODE = "constant column", "default value", "missing code"
_FEWEST = 20  # minimum of known values
_MEASURED = 20  # minimum of different values besides the default, or besides zeros
_GRADED = 5  # minimum of different values besides a code
_FEWEST_CODES = 3  # minimum of records
_MOST = 0.5  # share of the known values
_CENTRE = (0.05, 0.95)  # quantiles of the other values
_NEAR, _TIMES = 0.1, 4  # share of the distance between these; factor over the count of near values


def placeholders(column: NumberColumn, values: Floats) -> list[DataFinding]:
    """Find values that seem to mean "not known" in (n,) values, NaN for missing.

    Fewer than 20 known values are not judged.
    """
    known = np.sort(values[~np.isnan(values)])
    if len(known) < _FEWEST:
        return []
    first = np.flatnonzero(np.append(True, known[1:] != known[:-1]))  # of equal values
    different, counts = known[first], np.diff(first, append=len(known))
    if len(different) == 1:
        rule = "has the same value in every record: is it measured, or a default?"
        return [DataFinding(column.name, rule, level="to accept", kind=CONSTANT)]
    # Only these can be codes; checking a million different values one by one would be slow.
    low, high = np.quantile(known, _CENTRE)
    outer = (different <= low) | (different >= high) | (different == 0)
    chosen = outer & (counts >= _FEWEST_CODES)
    codes = [
        value
        for value, count in zip(different[chosen], counts[chosen], strict=True)
        if _is_code(value, int(count), known)
    ]
    if codes:
        rule = (
            "holds a number that often means 'not known' (such as 999, 9.99, -1, 0), far from the "
            "other values: if it means that, name it under `missing` in mapping.toml"
        )
        return rows(column.name, rule, np.isin(values, codes), level="to accept", kind=MISSING_CODE)
    place = int(counts.argmax())
    if counts[place] > _MOST * len(known) and _is_default(place, different, known):
        rule = (
            f"has one value in {counts[place] / len(known):.0%} of the records, although the "
            "others are finely measured: is that value a default?"
        )
        return [DataFinding(column.name, rule, level="to accept", kind=DEFAULT)]
    return []


def constant_codes(column: CategoryColumn, cells: pd.Series) -> list[DataFinding]:
    """Return a note for a constant category; it may be right, as the sex in a men's clinic is."""
    if cells.nunique() != 1 or cells.notna().sum() < _FEWEST:
        return []
    return [DataFinding(column.name, "is the same code in every record that has one", level="note")]


def _is_code(value: float, count: int, known: Floats) -> bool:
    """Return whether a value is spelt like a missing code and is apart from the other values.

    A zero must be far from them. Any other value must lie at their edge and occur more than four
    times as often as values near it: ages thin out above 99, and 2,552 cells of 99 are not ages.
    """
    digits = f"{abs(value):.10g}".replace(".", "")
    nines = len(digits) > 1 and set(digits) in ({"9"}, {"8"}) and digits != "88"
    negative = value < 0 and digits in ("1", "9")
    if not (nines or negative or value == 0):
        return False
    others = known[known != value]
    distance, different = np.abs(others - value), len(np.unique(others))
    if value == 0:
        return different >= _MEASURED and float(np.quantile(distance, 0.005)) > _far(others)
    low, high = np.quantile(others, _CENTRE)
    near = int((distance <= _NEAR * (high - low)).sum())
    return different >= _GRADED and not low <= value <= high and count > _TIMES * near


def _is_default(place: int, different: Floats, known: Floats) -> bool:
    """Return whether the value at ``place`` is between the others, or outside and far from them."""
    others = known[known != different[place]]
    if len(different) <= _MEASURED:
        return False
    within = 0 < place < len(different) - 1
    return within or float(np.abs(others - different[place]).min()) > _far(others)


def _far(values: Floats) -> float:
    low, high = np.quantile(values, _CENTRE)
    return float(high - low) / 2
