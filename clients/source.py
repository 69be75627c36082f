"""Read a hospital's file, CSV or Parquet, as a table of text cells; decide nothing.

Every cell becomes text or missing (None). Missing is an empty cell, NA, N/A, NaN, null or None,
in any case. What a cell must be is the business of ``flo.clients.checks``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from flo.errors import DataError
from flo.schema import MISSING


def read_table(path: Path, wanted: Callable[[str], bool] = lambda name: True) -> pd.DataFrame:
    """The columns whose names are wanted, as text with None for missing; others are dropped.

    Raises:
        DataError: names the file and the rule.
    """
    if not path.is_file():
        raise DataError(f"data file {path} does not exist", hint="set `file` in site.toml")
    try:
        if path.suffix.lower() == ".csv":
            # With usecols pandas would read over records that have too many cells.
            table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
            if not isinstance(table.index, pd.RangeIndex):
                raise DataError(f"{path.name}: records have more cells than the header has names")
        elif path.suffix.lower() in (".parquet", ".pq"):
            table = pd.read_parquet(path).astype(object)
        else:
            raise DataError(f"{path.name}: only .csv and .parquet files are read")
    except (ValueError, OSError) as error:
        # pandas quotes cells in some messages, so only its kind of complaint is passed on.
        raise DataError(
            f"{path.name} cannot be read as {path.suffix[1:]} ({type(error).__name__})"
        ) from None
    if table.columns.duplicated().any():
        raise DataError(f"{path.name}: the same column name stands twice")
    return as_text(table.loc[:, [name for name in table.columns if wanted(name)]])


def as_text(table: pd.DataFrame) -> pd.DataFrame:
    """A table whose cells are text, or None where missing."""
    return table.apply(_column_as_text)


def _column_as_text(column: pd.Series) -> pd.Series:
    cells = [_cell(value) for value in column.tolist()]
    return pd.Series(cells, index=column.index, dtype=object)


def _cell(value: object) -> str | None:
    if value is None or value is pd.NA or value is pd.NaT:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = str(value).strip()
    return None if text.casefold() in MISSING else text
