"""One noisy sum that answers a statistics study: counts and moments of all patients.

The vector has a block for each part of the study. A patient contributes to a block

- of a table: for each of its columns 1 in one cell (a code or range, of the patient's group), and
  for each number that is there also (x, x²)/√2 of the value x scaled to [-1, 1]. With k columns, m
  of them numbers, the norm is at most √(k + m), because x² + x⁴ <= 2.
- of a survival curve: 1 in the cell of group, time interval, and event or not; norm 1.
- of a catalogue: as ``flo.privacy.releases.catalogue`` says; norm 1.

A patient's records share a weight of 1, and a weighted mean of vectors of norm at most N has norm
at most N. Block i, of norm N_i and share s_i of the budget (Σ s_i = 1), is multiplied by √s_i/N_i,
so a patient's whole vector has norm at most √(Σ s_i) = 1, the sensitivity under adding or removing
one patient. In the unit of the block, noise of standard deviation σ has σ·N_i/√s_i: as if the block
had been released alone, by a Gaussian mechanism of the fraction s_i of the Rényi cost.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from flo.arrays import Floats, Integers
from flo.errors import StudyError
from flo.privacy.patients.patients import Patients
from flo.privacy.releases import catalogue
from flo.privacy.releases.catalogue import CatalogueBlock
from flo.privacy.releases.histograms import record_weights, weighted_counts
from flo.study.columns import NumberColumn
from flo.study.document import Study
from flo.study.features import Codes, cell_of, cells, scale, scaled_number
from flo.study.statistics import (
    MOST_CELLS,
    Catalogue,
    Regression,
    Statistics,
    Survival,
    TableOne,
)

NORM = 1.0  # of a patient's whole vector
MOMENT = math.sqrt(0.5)  # weight of x and x²
_LABEL = ("0", "1")


@dataclass(frozen=True)
class ColumnBlock:
    """Where a table's column lies within a group.

    ``cells``: names; ``missing``: whether the last is of those without a value. ``moments``: of a
    number.
    """

    name: str
    start: int
    cells: tuple[str, ...]
    moments: bool
    missing: bool

    @property
    def end(self) -> int:
        """The first place after the column."""
        return self.start + len(self.cells) + 2 * self.moments


@dataclass(frozen=True)
class Block:
    """Where a part lies in the vector. ``groups``: names, one if the part is not grouped.

    ``width``: coordinates of a group. ``norm``: N_i. ``scale``: √s_i/N_i. ``columns``: of a table.
    """

    part: TableOne | Survival
    start: int
    groups: tuple[str, ...]
    width: int
    norm: float
    scale: float
    share: float
    columns: tuple[ColumnBlock, ...] = ()

    @property
    def end(self) -> int:
        """The first place after the block."""
        return self.start + len(self.groups) * self.width


def length(study: Study) -> int:
    """Return the number of coordinates of the release; 0 if the study has regressions only."""
    blocks = layout(study)
    return blocks[-1].end if blocks else 0


@lru_cache(maxsize=32)
def layout(study: Study) -> tuple[Block | CatalogueBlock, ...]:
    """Return the blocks of a study's tables, curves and catalogues in order.

    Raises StudyError: it is none, or has more than ``MOST_CELLS`` numbers.
    """
    parts = [part for part in _statistics(study).parts if not isinstance(part, Regression)]
    whole, blocks, start = sum(part.share for part in parts), list[Block | CatalogueBlock](), 0
    for part in parts:
        share = part.share / whole
        block = (
            catalogue.block_of(study, part, start, share)
            if isinstance(part, Catalogue)
            else _block(study, part, start, share)
        )
        blocks.append(block)
        start = block.end
    if start > MOST_CELLS:
        raise StudyError(
            f"the statistics have {start} numbers, limit {MOST_CELLS}",
            hint="use fewer columns, bins, groups or intervals",
        )
    return tuple(blocks)


def exact(study: Study, patients: Patients) -> Floats:
    """Return the exact sum over patients, shape (length,); each patient's norm is at most 1."""
    found = np.zeros(length(study))
    for block in layout(study):
        found[block.start : block.end] = block.scale * _values(study, block, patients)
    return found


def _values(study: Study, block: Block | CatalogueBlock, patients: Patients) -> Floats:
    """Return a block's exact values, not scaled."""
    if isinstance(block, CatalogueBlock):
        return catalogue.exact(study, block, patients)
    return (_table if isinstance(block.part, TableOne) else _survival)(study, block, patients)


def in_units(study: Study, block: Block, noisy: Floats) -> Floats:
    """Return a block of a release in units of patients, shape (groups, width)."""
    values = noisy[block.start : block.end] / block.scale
    return np.asarray(values.reshape(len(block.groups), block.width))


def _block(study: Study, part: TableOne | Survival, start: int, share: float) -> Block:
    groups = tuple(_cells(study, part.by, 1)) if part.by else ("all",)
    if isinstance(part, Survival):
        return Block(part, start, groups, 2 * len(part.edges) + 1, 1.0, math.sqrt(share), share)
    columns, place, squared = list[ColumnBlock](), 0, 0
    numbers = {c.name for c in study.data.columns if isinstance(c, NumberColumn)}
    missing = {c.name for c in study.data.columns if c.missing == "indicator"}
    for name in part.columns:
        moments = name in numbers
        cells_ = tuple(_cells(study, name, part.bins))
        column = ColumnBlock(name, place, cells_, moments, name in missing)
        columns.append(column)
        place, squared = column.end, squared + 1 + moments
    norm = math.sqrt(squared)
    return Block(part, start, groups, place, norm, math.sqrt(share) / norm, share, tuple(columns))


def _cells(study: Study, name: str, bins: int) -> Sequence[str]:
    if name == study.data.label:
        return _LABEL
    return cells(next(c for c in study.data.columns if c.name == name), bins)


def _cell_of(study: Study, name: str, bins: int, patients: Patients) -> Codes:
    if name == study.data.label:
        return np.where(patients.labels == 1, 1, 0)
    return cell_of(study.data, name, patients.inputs, bins)


def _group_of(study: Study, part: TableOne | Survival, patients: Patients) -> Codes:
    if part.by is None:
        return np.zeros(len(patients.labels), dtype=np.int64)
    return _cell_of(study, part.by, 1, patients)


def _table(study: Study, block: Block, patients: Patients) -> Floats:
    """Return a table's exact block, shape (groups · width,), not scaled."""
    part, found = block.part, np.zeros((len(block.groups), block.width))
    assert isinstance(part, TableOne)
    group = _group_of(study, part, patients)
    weight = record_weights(patients.patient, patients.count)
    for column in block.columns:
        cell = _cell_of(study, column.name, part.bins, patients)
        size = len(column.cells)
        found[:, column.start : column.start + size] = _counted(block, group, cell, size, patients)
        if column.moments:
            value, there = scaled_number(study.data, column.name, patients.inputs)
            for power, place in ((1, column.end - 2), (2, column.end - 1)):
                amount = np.where(there, weight * MOMENT * value**power, 0.0)
                found[:, place] = np.bincount(group, weights=amount, minlength=len(block.groups))
    return found.ravel()


def _survival(study: Study, block: Block, patients: Patients) -> Floats:
    """Return a curve's exact block: events of each interval, censored ones, and those beyond."""
    part = block.part
    assert isinstance(part, Survival)
    (time,) = [c for c in study.data.columns if c.name == part.time]
    assert isinstance(time, NumberColumn)
    value, _ = scaled_number(study.data, part.time, patients.inputs)
    edges = scale(time, np.array(part.edges))
    event = _cell_of(study, part.event, 1, patients) == 1
    last = len(part.edges)
    # An event at an edge belongs to the interval before it; who was last seen there lived until it.
    happened = np.searchsorted(edges, value, side="left")
    left = np.searchsorted(edges, value, side="right")
    cell = np.where(event, np.where(happened == last, 2 * last, happened), last + left)
    group = _group_of(study, part, patients)
    return _counted(block, group, cell, block.width, patients).ravel()


def _counted(
    block: Block, group: Integers, cell: Integers, size: int, patients: Patients
) -> Floats:
    """Count patients by group and cell, shape (groups, size)."""
    place = group * size + cell
    total = len(block.groups) * size
    counts = weighted_counts(place, patients.patient, patients.count, total)
    return counts.reshape(len(block.groups), size)


def _statistics(study: Study) -> Statistics:
    if study.statistics is None:
        raise StudyError(f"study {study.name} is not a statistics study")
    return study.statistics
