"""Table one from its noisy block: counts, proportions, means, deviations and quartiles by group."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from flo.arrays import Floats
from flo.privacy.releases.statistics import MOMENT, Block, ColumnBlock
from flo.statistics.estimates import (
    LEAST_SIGNAL,
    NOTHING,
    Estimate,
    Linear,
    Z,
    counted,
    interval,
    of_patients,
    proportion,
    share_variance,
)
from flo.study.columns import NumberColumn

QUARTILES = (0.25, 0.5, 0.75)
_WIDEST_CDF = 0.2
_LEAST_KURTOSIS = 1.5  # of a number; its noisy histogram may show less


@dataclass(frozen=True)
class ColumnRead:
    """One column in one group. ``counts``, ``shares``: by code, of those with a value.

    ``missing``: how many have none; None if the column is never missing. ``mean``, ``deviation``,
    ``quartiles``: of a number, in its unit.
    """

    name: str
    counts: dict[str, Estimate]
    shares: dict[str, Estimate]
    missing: Estimate | None
    mean: Estimate | None = None
    deviation: Estimate | None = None
    quartiles: tuple[Estimate, ...] = ()


@dataclass(frozen=True)
class GroupRead:
    """One group of a table. ``patients``: how many it has."""

    name: str
    patients: Estimate
    columns: tuple[ColumnRead, ...]


@dataclass(frozen=True)
class TableRead:
    """A whole table, by group."""

    name: str
    by: str | None
    groups: tuple[GroupRead, ...] = field(default_factory=tuple)


def read_table(
    block: Block, values: Floats, variance: float, numbers: dict[str, NumberColumn]
) -> TableRead:
    """Read a table's block, (groups, width). ``variance``: of the noise of a coordinate.

    ``numbers``: the study's number columns by name.
    """
    sizes = [_size(block, row) for row in values]
    everyone = sum(size.value for size in sizes)
    groups = []
    for name, row, size in zip(block.groups, values, sizes, strict=True):
        columns = tuple(
            _column(block, column, row, size, everyone, variance, numbers.get(column.name))
            for column in block.columns
        )
        if len(block.groups) > 1:
            patients = counted(size, everyone, variance)
        else:  # nobody is outside
            patients = of_patients(size.value, size.noise(variance))
        groups.append(GroupRead(name, patients, columns))
    return TableRead(block.part.name, block.part.by, tuple(groups))


def _size(block: Block, row: Floats) -> Linear:
    """Return a group's number of patients: the mean of its columns' totals by their noise."""
    gradient = np.zeros(block.width)
    for column in block.columns:
        gradient[column.start : column.start + len(column.cells)] = 1 / len(column.cells)
    gradient /= sum(1 / len(column.cells) for column in block.columns)
    return Linear(float(gradient @ row), gradient)


def _column(
    block: Block,
    column: ColumnBlock,
    row: Floats,
    size: Linear,
    everyone: float,
    variance: float,
    number: NumberColumn | None,
) -> ColumnRead:
    places = range(column.start, column.start + len(column.cells))
    cells = [_coordinate(block, row, place) for place in places]
    missing = cells.pop() if column.missing else None
    there = size.plus(missing, -1.0) if missing else size
    names = column.cells[: len(cells)]
    without = None if missing is None else counted(missing, everyone, variance)
    if number is not None:
        return _number(block, column, row, cells, there, variance, number, without)
    counts, shares = dict[str, Estimate](), dict[str, Estimate]()
    for name, cell in zip(names, cells, strict=True):
        counts[name] = counted(cell, everyone, variance)
        shares[name] = proportion(cell, there, variance)
    return ColumnRead(column.name, counts, shares, without)


def _coordinate(block: Block, row: Floats, place: int) -> Linear:
    gradient = np.zeros(block.width)
    gradient[place] = 1.0
    return Linear(float(row[place]), gradient)


def _number(
    block: Block,
    column: ColumnBlock,
    row: Floats,
    cells: Sequence[Linear],
    there: Linear,
    variance: float,
    number: NumberColumn,
    missing: Estimate | None,
) -> ColumnRead:
    if not there.is_signal(variance):
        return ColumnRead(column.name, {}, {}, missing, NOTHING, NOTHING, (NOTHING,) * 3)
    first, second = (_coordinate(block, row, column.end - 2 + k) for k in (0, 1))
    zero = Linear(0.0, np.zeros(block.width))
    mean = zero.plus(first, 1 / MOMENT).over(there)
    spread = zero.plus(second, 1 / MOMENT).over(there).plus(mean.squared(), -1.0)
    half = (number.maximum - number.minimum) / 2
    middle = (number.maximum + number.minimum) / 2
    squared = max(spread.value, 0.0)
    of_mean = mean.noise(variance) + squared / there.value
    shown = interval(
        middle + half * mean.value,
        half**2 * of_mean,
        number.minimum,
        number.maximum,
        half,
    )
    deviation = NOTHING
    # Whether it is shown is decided by the histogram, whose noise is not that of the moments.
    seen = _spread_of(cells, there.value)
    if spread.value > 0 and seen > LEAST_SIGNAL * math.sqrt(spread.noise(variance)):
        fourth = _kurtosis(cells, mean.value, spread.value) * spread.value**2
        sampled = max(fourth - spread.value**2, 0.0) / there.value
        root = math.sqrt(spread.value)
        of_root = (spread.noise(variance) + sampled) / (4 * spread.value)
        deviation = interval(half * root, half**2 * of_root, 0.0, 2 * half, 2 * half * root)
    quartiles = tuple(_quantile(cells, there, variance, number, q) for q in QUARTILES)
    return ColumnRead(column.name, {}, {}, missing, shown, deviation, quartiles)


def _kurtosis(cells: Sequence[Linear], mean: float, squared: float) -> float:
    """Return E(x - mean)⁴ / squared² at most, from the far ends of a noisy histogram's bins."""
    weights = np.maximum([cell.value for cell in cells], 0.0)
    edges = np.linspace(-1.0, 1.0, len(cells) + 1)
    far = np.maximum(np.abs(edges[:-1] - mean), np.abs(edges[1:] - mean))
    fourth = float(weights @ far**4) / max(float(weights.sum()), 1e-9)
    return max(fourth / squared**2, _LEAST_KURTOSIS)


def _spread_of(cells: Sequence[Linear], there: float) -> float:
    """Return the variance of a scaled number, from the middles of its noisy histogram's bins."""
    weights = np.array([cell.value for cell in cells]) / there
    middles = -1 + (2 * np.arange(len(cells)) + 1) / len(cells)
    return float(weights @ middles**2 - (weights @ middles) ** 2)


def _quantile(
    cells: Sequence[Linear], there: Linear, variance: float, number: NumberColumn, q: float
) -> Estimate:
    """Return a quantile, with an interval of whole bins: those that the band of the CDF allows.

    Whether it is shown follows from the noise of the CDF in the middle of the bins, which hardly
    depends on the values drawn; an interval's width would.
    """
    edges = np.linspace(number.minimum, number.maximum, len(cells) + 1)
    total, values, ends = Linear(0.0, np.zeros_like(there.gradient)), [0.0], [(0.0, 0.0)]
    for cell in cells:
        total = total.plus(cell)
        below = total.over(there)
        sampled = share_variance(total.value, there.value)
        half = Z * math.sqrt(below.noise(variance) + sampled)
        values.append(below.value)
        ends.append((below.value - half, below.value + half))
    values[-1], ends[-1] = 1.0, (1.0, 1.0)
    rising = np.maximum.accumulate(np.clip(values, 0.0, 1.0))
    value = float(np.interp(q, rising, edges))
    low = next(k for k, (_, upper) in enumerate(ends) if upper >= q)
    high = len(ends) - 1 - next(k for k, (lower, _) in enumerate(reversed(ends)) if lower <= q)
    least, most = float(edges[max(low - 1, 0)]), float(edges[min(high + 1, len(cells))])
    middle = sum((one.gradient for one in cells[: len(cells) // 2]), np.zeros_like(there.gradient))
    half = Z * math.sqrt(variance * float(middle @ middle)) / there.value
    readable = 2 * half <= _WIDEST_CDF
    return Estimate(min(max(value, least), most), least, most, readable)
