"""Numbers that a record system writes where it knows none: a missing code, a default, a constant.

What tells them from measurements was tried on the 17,887 numeric columns of 1,257 public tables: a
code such as 999 stands in a crowd at the edge, and a default inside a quantity that is otherwise
finely measured. Many zeros are no default: counts and doses have them.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from flo.arrays import Floats
from flo.clients.quality.findings import DataFinding, rows
from flo.study.schema import CategoryColumn, NumberColumn

CONSTANT, DEFAULT, MISSING_CODE = "constant column", "default value", "missing code"
_FEWEST = 20  # known values
_MEASURED = 20  # different values beside the default, or beside zeros
_GRADED = 5  # different values beside a code
_FEWEST_CODES = 3  # records
_MOST = 0.5  # of the records
_CENTRE = (0.05, 0.95)  # quantiles of the other values
_NEAR, _TIMES = 0.1, 4  # of the distance between these, and as many values


def placeholders(column: NumberColumn, values: Floats) -> list[DataFinding]:
    """What stands for "not known" in (n,) values, NaN for missing; fewer than 20 tell nothing."""
    known = values[~np.isnan(values)]
    if len(known) < _FEWEST:
        return []
    different, counts = np.unique(known, return_counts=True)
    if len(different) == 1:
        rule = "is the same in every record that has it: is it measured, or filled in?"
        return [DataFinding(column.name, rule, level="to accept", kind=CONSTANT)]
    # Only these can be: a million different values are not looked at one by one.
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
            "holds a number that often means 'not known' (such as 999, 9.99, -1, 0), apart from "
            "the other values: if it does, name it under `missing` in mapping.toml"
        )
        return rows(column.name, rule, np.isin(values, codes), level="to accept", kind=MISSING_CODE)
    place = int(counts.argmax())
    if counts[place] > _MOST * len(known) and _is_default(place, different, known):
        rule = (
            f"has one value in {counts[place] / len(known):.0%} of the records, though it is "
            "finely measured in the others: is that one filled in?"
        )
        return [DataFinding(column.name, rule, level="to accept", kind=DEFAULT)]
    return []


def constant_codes(column: CategoryColumn, cells: pd.Series) -> list[DataFinding]:
    """A note, and no question: a clinic for men has one sex, one for cancer that diagnosis."""
    if cells.nunique() != 1 or cells.notna().sum() < _FEWEST:
        return []
    return [DataFinding(column.name, "is the same code in every record that has one", level="note")]


def _is_code(value: float, count: int, known: Floats) -> bool:
    """Whether a value is spelt like a missing code, and stands apart from the others.

    A zero is far from them. Any other lies at their edge, and there are more than four times as
    many as values near it: those above 99 years thin out, and 2,552 of 99 are no people's ages.
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
    """Whether the value at ``place`` lies within the others, or beside them and far away."""
    others = known[known != different[place]]
    if len(different) <= _MEASURED:
        return False
    within = 0 < place < len(different) - 1
    return within or float(np.abs(others - different[place]).min()) > _far(others)


def _far(values: Floats) -> float:
    low, high = np.quantile(values, _CENTRE)
    return float(high - low) / 2
