"""A forest plot of a regression: ratios on a logarithmic axis, or coefficients.

A number's coefficient is of a round step, about a fifth of the column's bounds, so that it can be
compared with those of codes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from flo.pages.plots import WIDTH, Interval, Tick, cut
from flo.statistics.regression import Coefficient, RegressionRead
from flo.study.columns import NumberColumn
from flo.study.schema import Schema

_NAMES, _ROW = 230.0, 34.0
_STEPS = 5  # of a number's bounds
_NICE, _TICKS = (1, 2, 5), 8
_ROOM = 0.06  # beyond the widest interval


@dataclass(frozen=True)
class Forest:
    """``none``: the x coordinate of no effect. ``what``: the axis' title."""

    width: float
    height: float
    left: float
    right: float
    bottom: float
    none: float
    across: list[Tick]
    rows: list[Interval]
    what: str


def forest(part: RegressionRead, data: Schema) -> Forest | None:
    """Lay out all coefficients but the intercept; None if nothing is known."""
    if part.unknown or len(part.coefficients) < 2:
        return None
    numbers = {column.name: column for column in data.columns if isinstance(column, NumberColumn)}
    found = [_scaled(one, numbers.get(one.name)) for one in part.coefficients[1:]]
    low = min(0.0, *(one.value.low for one in found))
    high = max(0.0, *(one.value.high for one in found))
    room = _ROOM * (high - low)
    low, high = low - room, high + room
    left, right, bottom = _NAMES, WIDTH - 24.0, _ROW * len(found) + 6

    def place(value: float) -> float:
        return round(left + (right - left) * (value - low) / (high - low), 1)

    ratios = part.family != "linear"
    ticks = _of_ratios(low, high) if ratios else _of_values(low, high)
    rows = [
        Interval(
            cut(one.name),
            _ROW * (number + 0.5),
            place(one.value.low),
            place(one.value.value),
            place(one.value.high),
        )
        for number, one in enumerate(found)
    ]
    what = {
        "logistic": "Odds ratios",
        "poisson": "Rate ratios",
        "linear": f"Coefficients, in units of {part.outcome}",
    }[part.family]
    return Forest(
        WIDTH,
        bottom + 38,
        left,
        right,
        bottom,
        place(0.0),
        [Tick(place(at), label) for at, label in ticks],
        rows,
        what,
    )


def _scaled(one: Coefficient, number: NumberColumn | None) -> Coefficient:
    if number is None:
        return one
    step = _nice((number.maximum - number.minimum) / _STEPS)
    ends = (one.value.value * step, one.value.low * step, one.value.high * step)
    value = replace(one.value, value=ends[0], low=ends[1], high=ends[2])
    unit = f" {number.unit}" if number.unit != "1" else ""
    return replace(one, name=f"{one.name}, per {step:g}{unit}", value=value)


def _nice(size: float) -> float:
    """Return the largest of 1, 2 or 5 times a power of ten that is at most ``size``."""
    power = 10.0 ** math.floor(math.log10(size))
    return max(one * power for one in _NICE if one * power <= size * (1 + 1e-9))


def _of_ratios(low: float, high: float) -> list[tuple[float, str]]:
    """Return at most about ten ticks (logarithm, label), at 1, 2 or 5 times powers of ten."""
    first, last = math.floor(low / math.log(10)), math.ceil(high / math.log(10))
    apart = max(1, math.ceil((last - first) / _TICKS))
    powers = [10.0**power for power in range(max(first, -300), min(last, 300) + 1, apart)]
    dense = [one * power for power in powers for one in (_NICE if last - first <= 3 else (1,))]
    if high - low < 1.0:
        dense = [n / 10 for n in range(4, 28, 2 if high - low > 0.5 else 1)]
    inside = [one for one in dense if low <= math.log(one) <= high]
    return [(math.log(one), f"{one:g}") for one in inside]


def _of_values(low: float, high: float) -> list[tuple[float, str]]:
    step = _nice((high - low) / 4)
    count = range(math.ceil(low / step), math.floor(high / step) + 1)
    return [(n * step, f"{n * step:g}") for n in count]
