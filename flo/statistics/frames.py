"""Estimates as a table for pandas."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from flo.statistics.reading import PartRead
from flo.statistics.words import rows

COLUMNS = ("part", "group", "column", "statistic", "item", "value", "low", "high")


def frame(parts: Sequence[PartRead]) -> pd.DataFrame:
    """Return one row for each estimate, with the ends of its 95 % interval.

    What is too few to say has NaN. Select with ``frame[frame.statistic == "mean"]``.
    """
    found = []
    for *names, estimate in rows(list(parts)):
        ends = (estimate.value, estimate.low, estimate.high)
        found.append((*names, *(ends if estimate.readable else (math.nan,) * 3)))
    return pd.DataFrame(found, columns=list(COLUMNS))
