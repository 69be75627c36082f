"""What is counted of a day's answers: one vector of whole numbers, with no patient's data.

asked      patients, by their first record, whether it was scored or did not fit
scored     patients, by their first record that was scored
answered   answers; slow: those that took longer than ``SLOW_SECONDS``
hours      hours with answers; slow hours: with more than ``SLOW_SHARE`` of them slow
risk       scored patients by stated risk
a column   scored patients by cell; patients whose first record did not fit because of it; and
           of these, by cell, those whose number was beyond its bounds
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from flo.arrays import Floats
from flo.clients.watching.cells import ColumnCells, StudyCells

Counts = npt.NDArray[np.int64]
SLOW_SECONDS, SLOW_SHARE = 1.0, 0.1
ASKED, SCORED, ANSWERED, SLOW, HOURS, SLOW_HOURS, _FIRST = range(7)
RISK_EDGES = np.concatenate([[0.001, 0.003], np.linspace(0.0, 1.0, 41)[1:-1]])
RISK_EDGES.sort()


@dataclass(frozen=True)
class ColumnPlaces:
    """Where a column's counts are. ``cells``, ``beyond``: first and after the last place."""

    of: ColumnCells
    cells: slice
    refused: int
    beyond: slice

    @property
    def missing(self) -> int:
        """Where missing values are counted."""
        return int(self.cells.start) + self.of.missing


class Layout:
    """Where each count of a study is in the vector."""

    def __init__(self, study: StudyCells) -> None:
        self.study = study
        self.risk = slice(_FIRST, _FIRST + len(RISK_EDGES) + 1)
        self.columns, at = list[ColumnPlaces](), self.risk.stop
        for column in study.columns:
            cells = slice(at, at + column.count)
            refused, beyond = cells.stop, slice(cells.stop + 1, cells.stop + 1 + column.count)
            self.columns.append(ColumnPlaces(column, cells, refused, beyond))
            at = beyond.stop
        self.length = at
        self._starts = np.array([one.cells.start for one in self.columns], dtype=np.int64)

    def empty(self) -> Counts:
        """Return counts of nothing."""
        return np.zeros(self.length, dtype=np.int64)

    def column(self, name: str) -> ColumnPlaces:
        """Return where the counts of a column are."""
        return next(one for one in self.columns if one.of.column.name == name)

    def add_scored(self, counts: Counts, cells: npt.NDArray[np.uint16], risks: Floats) -> None:
        """Count scored patients, by cells (n, columns) and stated risks (n,), NaN for none."""
        places = (cells.astype(np.int64) + self._starts).ravel()
        stated = risks[np.isfinite(risks)]
        of_risk = self.risk.start + np.searchsorted(RISK_EDGES, stated, side="right")
        np.add.at(counts, np.concatenate([places, of_risk]), 1)
        counts[SCORED] += len(cells)

    def add_refused(self, counts: Counts, broken: Sequence[tuple[int, int | None]]) -> None:
        """Count a patient whose first record did not fit.

        ``broken``: number of each column that was the cause, and the cell of a number that was
        beyond its bounds.
        """
        for number, cell in broken:
            places = self.columns[number]
            counts[places.refused] += 1
            if cell is not None:
                counts[places.beyond.start + cell] += 1
