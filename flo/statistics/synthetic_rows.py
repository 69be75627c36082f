"""Synthetic rows that agree with a catalogue: for trying software, not for research.

The columns form a tree, the maximum spanning tree by mutual information of the catalogue's pairs
(Chow, Liu 1968; as the MST mechanism of McKenna, Miklau, Sheldon 2021). A row is drawn from the
root on, each column by its pair with the column before it. So each column and each pair of the tree
agrees with the catalogue, and other pairs as far as the tree carries them. Nothing but the released
counts is used: the rows cost no further ε.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order, minimum_spanning_tree

from flo.arrays import Floats, Integers
from flo.privacy.mechanisms.entropy import SystemStream
from flo.privacy.releases.catalogue import CountedColumn, Places
from flo.statistics.catalogue import CatalogueRead

Draw = Callable[[int], Floats]
MOST_ROWS = 1_000_000
ID = "patient_id"
_DIGITS = 3


def from_the_system() -> Draw:
    """Return draws from a stream that the operating system keys."""
    stream = SystemStream()
    return lambda count: np.asarray((stream.words(count) >> np.uint64(11)) * 2.0**-53)


def synthetic_rows(read: CatalogueRead, rows: int, draw: Draw) -> pd.DataFrame:
    """Return rows with the catalogue's columns; the patient id says that they are synthetic.

    ``draw``: returns so many numbers, uniform in [0, 1), (n,).
    """
    columns = read.block.columns
    tables = {pair: read.table(pair) for pair in read.block.pairs}
    tables |= {pair[::-1]: table.T for pair, table in tables.items()}
    cells = dict[int, Integers]()
    for place, before in _order(read, tables):
        if before is None:
            alone = read.column(place)[None, :]
            cells[place] = _given(alone, np.zeros(rows, dtype=np.int64), draw)
        else:
            cells[place] = _given(tables[before, place], cells[before], draw)
    found: dict[str, object] = {ID: [f"synthetic-{number:06d}" for number in range(rows)]}
    for place, column in enumerate(columns):
        found[column.name] = _values(column, cells[place], draw)
    return pd.DataFrame(found)


def _order(read: CatalogueRead, tables: dict[Places, Floats]) -> list[tuple[int, int | None]]:
    """Return the columns, each after the one on which it depends; None: on no other."""
    count = len(read.block.columns)
    weights = np.zeros((count, count))
    for pair in read.block.pairs:
        weights[pair] = -_information(tables[pair]) - 1e-9  # 0 would be no edge
    tree = minimum_spanning_tree(csr_array(weights))
    found, seen = list[tuple[int, int | None]](), set[int]()
    for root in range(count):
        if root not in seen:
            order, before = breadth_first_order(tree, root, directed=False)
            found += [(int(n), int(before[n]) if before[n] >= 0 else None) for n in order]
            seen |= {int(n) for n in order}
    return found


def _information(table: Floats) -> float:
    """Return the mutual information of a table of counts, in nats."""
    p = table / table.sum()
    expected = np.outer(p.sum(axis=1), p.sum(axis=0))
    there = p > 0
    return float((p[there] * np.log(p[there] / expected[there])).sum())


def _given(table: Floats, before: Integers, draw: Draw) -> Integers:
    """Draw cells of the second column of a table, given those of the first."""
    shares = table / np.maximum(table.sum(axis=1, keepdims=True), 1e-300)
    reached = np.cumsum(shares, axis=1)
    reached[:, -1] = 1.0
    return np.asarray((draw(len(before))[:, None] >= reached[before]).sum(axis=1))


def _values(column: CountedColumn, cells: Integers, draw: Draw) -> Floats | list[str]:
    """Return values of a column: codes, or numbers anywhere in their range; empty if missing."""
    if not column.edges:
        names = [*column.cells[: column.size - column.missing], *([""] if column.missing else [])]
        return [names[cell] for cell in cells]
    lower, upper = (np.array([*ends, np.nan]) for ends in (column.edges[:-1], column.edges[1:]))
    values = lower[cells] + (upper[cells] - lower[cells]) * draw(len(cells))
    narrowest = float(np.min(np.diff(column.edges)))
    digits = _DIGITS - 1 - int(np.floor(np.log10(narrowest)))
    below = np.nextafter(upper, -np.inf)
    return np.asarray(np.clip(np.round(values, digits), lower[cells], below[cells]))
