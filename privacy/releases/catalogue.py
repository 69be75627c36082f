"""Counts by every column and every pair of columns: orthogonal components, weighted for cells.

A column with a cells has the one-hot vector e of a patient's cell and the contrasts C·e, C the
Helmert matrix, (a - 1, a), whose rows are orthonormal and orthogonal to (1, ..., 1). A patient
contributes, times √u of the component,

- for all patients: 1,
- for each column: C·e, of squared norm exactly 1 - 1/a,
- for each pair of columns: (C·e) ⊗ (C'·e'), of squared norm (1 - 1/a)·(1 - 1/a').

The squared norm of the whole is Σ u·(these) = 1 for each patient: u is scaled so. A patient's
records share a weight of 1, and a mean of vectors of norm 1 has norm at most 1. Because components
are orthogonal, no count is asked for twice, and all tables that follow agree with each other. The
u minimise the mean variance of a cell, over all columns and pairs, at this norm: u ∝ √(v/q), q
the squared norm and v what one unit of a component's variance adds to the cells (Xiao, He, Zhang,
Kifer: ResidualPlanner, NeurIPS 2023).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np

from flo.arrays import Floats, Integers
from flo.privacy.patients.patients import Patients
from flo.privacy.releases.histograms import weighted_counts
from flo.study.columns import Column, NumberColumn
from flo.study.document import Study
from flo.study.features import cell_of, cells, scale, scaled_number
from flo.study.statistics import Catalogue

_LABEL = ("0", "1")
Places = tuple[int, ...]  # of the columns of a component or table: none, one, or two


@dataclass(frozen=True)
class CountedColumn:
    """``cells``: names. ``edges``: of a number, where its ranges meet, and both bounds.

    ``missing``: whether the last cell is of those without a value.
    """

    name: str
    cells: tuple[str, ...]
    edges: tuple[float, ...]
    missing: bool

    @property
    def size(self) -> int:
        """The number of cells."""
        return len(self.cells)


@dataclass(frozen=True)
class Component:
    """Where a component lies in the block, and √u, by which it is multiplied."""

    start: int
    end: int
    weight: float


@dataclass(frozen=True)
class CatalogueBlock:
    """Where a catalogue lies in the vector; ``scale`` is √s of its share s of the budget."""

    part: Catalogue
    start: int
    columns: tuple[CountedColumn, ...]
    components: Mapping[Places, Component]
    scale: float
    share: float

    @property
    def end(self) -> int:
        """The first place after the block."""
        return self.start + max(one.end for one in self.components.values())

    @property
    def pairs(self) -> list[Places]:
        """Places of the columns of each pair."""
        return [places for places in self.components if len(places) == 2]

    def deviation(self, places: Places, variance: float) -> float:
        """Return the standard deviation of a mean cell of the table of these columns, in patients.

        ``variance``: of the noise in each coordinate of the vector.
        """
        sizes = [column.size for column in self.columns]
        whole = sum(
            _added(of, places, sizes) / self.components[of].weight ** 2 for of in inside(places)
        )
        return math.sqrt(variance * whole) / self.scale


def block_of(study: Study, part: Catalogue, start: int, share: float) -> CatalogueBlock:
    """Lay out a catalogue from the place ``start`` of the vector."""
    columns = tuple(_counted(study, part, name) for name in part.of(study.data))
    places = {column.name: place for place, column in enumerate(columns)}
    pairs = [(places[one], places[other]) for one, other in part.pairs_of(study.data)]
    weights = _weights(tuple(column.size for column in columns), tuple(pairs))
    components, place = dict[Places, Component](), 0
    for of, weight in weights.items():
        end = place + math.prod(columns[n].size - 1 for n in of)
        components[of] = Component(place, end, weight)
        place = end
    return CatalogueBlock(part, start, columns, components, math.sqrt(share), share)


def exact(study: Study, block: CatalogueBlock, patients: Patients) -> Floats:
    """Return the block's exact sum over patients, not multiplied by its ``scale``."""
    cell = [_cell_of(study, column, patients) for column in block.columns]
    found = np.zeros(block.end - block.start)
    for places, component in block.components.items():
        sizes = [block.columns[n].size for n in places]
        at = np.zeros(len(patients.labels), dtype=np.int64)
        for n, size in zip(places, sizes, strict=True):
            at = at * size + cell[n]
        counts = weighted_counts(at, patients.patient, patients.count, math.prod(sizes))
        contrasts = contrasted(counts.reshape(sizes))
        found[component.start : component.end] = component.weight * contrasts.ravel()
    return found


def contrasted(table: Floats) -> Floats:
    """Return the contrasts of a table of no, one or two columns: C·t, or C·T·C'ᵀ."""
    for axis in range(table.ndim):
        matrix = contrasts_of(table.shape[axis])
        table = np.moveaxis(np.tensordot(matrix, table, axes=(1, axis)), 0, axis)
    return table


@lru_cache(maxsize=256)
def contrasts_of(size: int) -> Floats:
    """Return the Helmert matrix C, (size - 1, size)."""
    found = np.tril(np.ones((size, size)), -1) - np.diag(np.arange(size))
    places = np.arange(1, size)
    return np.asarray(found[1:] / np.sqrt(places * (places + 1))[:, None])


def _counted(study: Study, part: Catalogue, name: str) -> CountedColumn:
    if name == study.data.label:
        return CountedColumn(name, _LABEL, (), missing=False)
    column: Column = next(one for one in study.data.columns if one.name == name)
    missing = column.missing == "indicator"
    if not isinstance(column, NumberColumn):
        return CountedColumn(name, tuple(cells(column, 1)), (), missing)
    at = next((one.at for one in part.ranges if one.column == name), None)
    if at is None:
        at = _equal(column, part.bins)
    edges = (column.minimum, *at, column.maximum)
    named = [f"{in_words(low)} to {in_words(high)}" for low, high in pairwise(edges)]
    return CountedColumn(name, (*named, *(["missing"] if missing else [])), edges, missing)


def _equal(column: NumberColumn, bins: int) -> tuple[float, ...]:
    """Return where equal ranges meet, rounded to what a person types, if that leaves them apart."""
    exact = np.linspace(column.minimum, column.maximum, bins + 1).tolist()
    short = [column.minimum, *(float(f"{end:.4g}") for end in exact[1:-1]), column.maximum]
    rising = all(low < high for low, high in pairwise(short))
    return tuple((short if rising else exact)[1:-1])


def in_words(end: float) -> str:
    """Return an end of a range as a person types it: read again, it is the same number."""
    short = f"{end:g}"
    return short if float(short) == end else repr(end)


def _cell_of(study: Study, column: CountedColumn, patients: Patients) -> Integers:
    if column.name == study.data.label:
        return np.where(patients.labels == 1, 1, 0)
    if not column.edges:
        return cell_of(study.data, column.name, patients.inputs, 1)
    value, there = scaled_number(study.data, column.name, patients.inputs)
    number = next(one for one in study.data.columns if one.name == column.name)
    assert isinstance(number, NumberColumn)
    inner = scale(number, np.array(column.edges[1:-1]))
    without = column.size - 1 if column.missing else 0  # no finite number: the first, if not stated
    return np.where(there, np.searchsorted(inner, value, side="right"), without)


@lru_cache(maxsize=32)
def _weights(sizes: tuple[int, ...], pairs: tuple[tuple[int, int], ...]) -> dict[Places, float]:
    """Return √u of each component: all patients, columns, pairs."""
    tables: Sequence[Places] = [*((n,) for n in range(len(sizes))), *pairs]
    adds = dict.fromkeys([(), *tables], 0.0)
    for table in tables:
        for of in inside(table):
            adds[of] += _added(of, table, sizes)
    squared = {of: math.prod(1 - 1 / sizes[n] for n in of) for of in adds}
    raw = {of: math.sqrt(adds[of] / squared[of]) for of in adds}
    whole = sum(raw[of] * squared[of] for of in adds)
    return {of: math.sqrt(raw[of] / whole) for of in adds}


def inside(table: Places) -> list[Places]:
    """Return the components that a table of no, one or two columns consists of."""
    return [(), *((n,) for n in table), *([table] if len(table) == 2 else [])]


def _added(of: Places, table: Places, sizes: Sequence[int]) -> float:
    """Return what a component of variance 1 adds to the variance of a table's mean cell."""
    own = math.prod((sizes[n] - 1) / sizes[n] for n in of)
    return own / math.prod(sizes[n] ** 2 for n in set(table) - set(of))
