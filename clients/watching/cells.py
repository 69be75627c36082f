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
from flo.study.features import is_missing, names_of
from flo.study.schema import CategoryColumn, NumberColumn, Schema
from flo.study.wording import titles

Cells = npt.NDArray[np.uint16]
_WITHIN, _OCTAVES = 40, 11
_STEPS_WITHIN, _STEPS_BEYOND = 4, 16  # of an octave


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

    def of_inputs(self, part: Floats) -> Cells:
        """Return the cells (n,) of records from the column's inputs (n, inputs)."""
        column = self.column
        if column.kind == "category":
            two = len(column.codes) == 2
            found = part[:, 0] == 1 if two else np.argmax(part[:, : len(column.codes)], axis=1)
        else:
            width = column.maximum - column.minimum
            found = self.of_values((part[:, 0] + 1) / 2 * width + column.minimum)
        return np.where(is_missing(column, part), self.missing, found).astype(np.uint16)

    def of_values(self, values: Floats) -> Cells:
        """Return the cells (n,) of a number's values, which may be beyond its bounds."""
        return np.searchsorted(self.edges, values, side="right").astype(np.uint16)


class StudyCells:
    """The cells of all columns of a study but images, in the study's order."""

    def __init__(self, schema: Schema) -> None:
        self.columns, self._parts, start = list[ColumnCells](), list[slice](), 0
        words = titles(schema)
        for column in schema.columns:
            width = len(names_of(column))
            if column.kind != "image":
                edges = _edges(column) if column.kind == "number" else np.array([])
                self.columns.append(ColumnCells(column, words.get(column.name, column.name), edges))
                self._parts.append(slice(start, start + width))
            start += width
        self._numbers = {one.column.name: number for number, one in enumerate(self.columns)}

    def of_inputs(self, inputs: Floats) -> Cells:
        """Return the cells (n, columns) of records from a model's inputs (n, d)."""
        found = [
            cells.of_inputs(inputs[:, part])
            for cells, part in zip(self.columns, self._parts, strict=True)
        ]
        return np.stack(found, axis=1) if found else np.zeros((len(inputs), 0), dtype=np.uint16)

    def of_rules(self, broken: Iterable[tuple[str, str]]) -> list[tuple[int, int | None]]:
        """Return the number of each column whose rule is broken, and the cell of a number that is
        beyond its bounds. Rules of no column, such as of the patient, are left out."""
        found = dict[int, int | None]()
        for name, rule in broken:
            number = self._numbers.get(name)
            if number is not None:
                cell = None
                if isinstance(rule, Beyond):
                    cell = int(self.columns[number].of_values(np.array([rule.value]))[0])
                found[number] = cell
        return list(found.items())


def _edges(column: NumberColumn) -> Floats:
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
    return edges[apart]
