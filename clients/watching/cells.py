"""Into which cell a patient's value falls: all that a monitor keeps of it.

The cells of a column follow from the study alone. A number has 40 equal cells within its bounds,
cut again at quarters of an octave if its bounds are not negative, and others beyond the bounds, so
that a value in another unit is seen although it is refused. The last cell of a column is for
missing values. Images have no cells.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from flo.arrays import Floats
from flo.scoring.record import Beyond
from flo.study.columns import CategoryColumn, NumberColumn
from flo.study.features import names_of
from flo.study.schema import Schema
from flo.study.wording import titles

Cells = npt.NDArray[np.uint16]
_WITHIN, _OCTAVES = 40, 11
_STEPS_WITHIN, _STEPS_BEYOND = 4, 16  # of an octave
_APART, _ROUNDING = 8.0, 1e-9  # of scaled numbers


@dataclass(frozen=True)
class ColumnCells:
    """The cells of a column. ``edges`` (cells - 2,) rise and are between them; none of a category,
    whose cells are its codes. ``title``: the column in words."""

    column: NumberColumn | CategoryColumn
    title: str
    edges: Floats

    @property
    def count(self) -> int:
        """Number of cells, that of missing values among them."""
        codes = self.column.codes if self.column.kind == "category" else (*self.edges, None)
        return len(codes) + 1

    @property
    def missing(self) -> int:
        """The cell of missing values."""
        return self.count - 1

    def of_values(self, values: Floats) -> Cells:
        """Return the cells (n,) of a number's values, which may be beyond its bounds."""
        return np.searchsorted(self.edges, values, side="right").astype(np.uint16)


class StudyCells:
    """The cells of all columns of a study but images and notes, in the study's order."""

    def __init__(self, schema: Schema) -> None:
        self.columns, start = list[ColumnCells](), 0
        words = titles(schema)
        numbers, edges, gone = list[list[int]](), list[Floats](), list[list[int]]()
        self._codes = list[tuple[int, slice]]()  # of categories with more than two codes
        two = list[list[int]]()
        for column in schema.columns:
            width, place = len(names_of(column)), len(self.columns)
            if column.kind == "number":
                cells = ColumnCells(column, words.get(column.name, column.name), _edges(column))
                self.columns.append(cells)
                numbers.append([place, start])
                edges.append(_scaled(column, cells.edges))
            elif column.kind == "category":
                cells = ColumnCells(column, words.get(column.name, column.name), np.array([]))
                self.columns.append(cells)
                if len(column.codes) == 2:
                    two.append([place, start])
                else:
                    self._codes.append((place, slice(start, start + len(column.codes))))
            if column.kind in ("number", "category") and column.missing == "indicator":
                gone.append([place, start + width - 1, cells.missing])
            start += width
        self._numbers = np.array(numbers, dtype=np.int64).reshape(-1, 2)
        lines = [_APART * n + one for n, one in enumerate(edges)]
        self._lines = np.concatenate([*lines, np.array([])])
        self._before = np.cumsum([0, *map(len, edges)])[:-1]
        self._two = np.array(two, dtype=np.int64).reshape(-1, 2)
        self._gone = np.array(gone, dtype=np.int64).reshape(-1, 3)
        self._by_name = {one.column.name: number for number, one in enumerate(self.columns)}

    def of_inputs(self, inputs: Floats) -> Cells:
        """Return the cells (n, columns) of records from a model's inputs (n, d).

        All numbers are looked up at once: those of the n-th number column lie around n ``_APART``.
        """
        found = np.zeros((len(inputs), len(self.columns)), dtype=np.int64)
        places, of = self._numbers.T
        values = inputs[:, of] + _APART * np.arange(len(of))
        found[:, places] = np.searchsorted(self._lines, values, side="right") - self._before
        places, of = self._two.T
        found[:, places] = inputs[:, of] == 1
        for place, part in self._codes:
            found[:, place] = inputs[:, part].argmax(axis=1)
        places, of, missing = self._gone.T
        found[:, places] = np.where(inputs[:, of] == 1, missing, found[:, places])
        return found.astype(np.uint16)

    def of_rules(self, broken: Iterable[tuple[str, str]]) -> list[tuple[int, int | None]]:
        """Return the number of each column whose rule is broken, and the cell of a number that is
        beyond its bounds. Rules of no column, such as of the patient, are left out."""
        found = dict[int, int | None]()
        for name, rule in broken:
            number = self._by_name.get(name)
            if number is not None:
                cell = None
                if isinstance(rule, Beyond):
                    cell = int(self.columns[number].of_values(np.array([rule.value]))[0])
                found[number] = cell
        return list(found.items())


def _scaled(column: NumberColumn, edges: Floats) -> Floats:
    """Return edges as the inputs have them, bounds at -1 and 1; those far beyond are not met."""
    scaled = 2 * (edges - column.minimum) / (column.maximum - column.minimum) - 1
    return np.asarray(np.clip(scaled, -_APART / 3, _APART / 3))


def _edges(column: NumberColumn) -> Floats:
    """Return the edges, each a little below its value, so that rounding puts no value beside it."""
    low, high = column.minimum, column.maximum
    within = np.linspace(low, high, _WITHIN + 1)
    beyond = 2.0 ** (np.arange(1, _OCTAVES * _STEPS_BEYOND + 1) / _STEPS_BEYOND)
    if low < 0:
        several = [within, high + (high - low) * (beyond - 1), low - (high - low) * (beyond - 1)]
    else:
        octaves = high / 2.0 ** (np.arange(1, _OCTAVES * _STEPS_WITHIN + 1) / _STEPS_WITHIN)
        several = [within, high * beyond, octaves[octaves > low]]
        several += [low / beyond] if low > 0 else []
    edges: Floats = np.unique(np.concatenate(several))
    apart = np.diff(edges, prepend=-np.inf) > 1e-9 * max(abs(low), abs(high))
    return edges[apart] - _ROUNDING * (high - low)
