"""Layout of plots: converts numbers to coordinates, which ``plots.html.j2`` draws.

Each plot has one message. A table or sentence next to it gives the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

WIDTH, HEIGHT = 720.0, 260.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 52.0, 84.0, 14.0, 40.0
_ROW, _NAMES, _LABEL, _LETTERS = 34.0, 236.0, 15.0, 32
_SHORTEST = 4  # letters of a name that is cut
Point = tuple[float, float]


@dataclass(frozen=True)
class Tick:
    """Labelled tick of an axis. ``at``: its coordinate."""

    at: float
    label: str


@dataclass(frozen=True)
class PlotLine:
    """Line of a plot. ``points``: in SVG syntax. ``end``: the last point, next to the label."""

    points: str
    end: Point
    label: str
    label_y: float


@dataclass(frozen=True)
class Plane:
    """Lines over two axes. ``limit``: height of a horizontal line, if there is one."""

    width: float
    height: float
    left: float
    right: float
    top: float
    bottom: float
    across: list[Tick]
    up: list[Tick]
    lines: list[PlotLine]
    marks: list[Point]
    limit: float | None


@dataclass(frozen=True)
class Interval:
    """Row of ``Intervals``. ``y``: of the row; ``low``, ``middle``, ``high``: x coordinates.

    ``middle``: None where no point is drawn.
    """

    name: str
    y: float
    low: float
    middle: float | None
    high: float


@dataclass(frozen=True)
class Intervals:
    """Plot of intervals, one per row: its frame, the ticks of the x axis, and the rows."""

    width: float
    height: float
    left: float
    right: float
    bottom: float
    across: list[Tick]
    rows: list[Interval]
    limit: float | None = None


@dataclass(frozen=True)
class Bars:
    """Bar chart. ``bars``: (x, top, height, top of the dark part, height of the dark part)."""

    width: float
    height: float
    bottom: float
    bar: float
    bars: list[tuple[float, float, float, float, float]]
    across: list[Tick]


def plane(
    lines: Sequence[tuple[str, Sequence[Point]]],
    *,
    most_across: float,
    least_top: float,
    marks: Sequence[Point] = (),
    limit: float | None = None,
    steps: bool = False,
    across: Sequence[tuple[float, str]] | None = None,
    base: float = 0.0,
) -> Plane:
    """Lay out lines on axes from 0 to ``most_across`` and from ``base`` to a round number above it.

    The top is at or above ``least_top``, ``limit`` and every point. ``steps``: draw a step
    function, where each value holds until the next. ``across``: ticks, if not plain numbers.
    """
    highest = max([least_top, limit or 0.0, *(y for _, points in lines for _, y in points)])
    top_tick, ticks = _ticks(highest - base)
    right, bottom = WIDTH - _RIGHT, HEIGHT - _BOTTOM
    wide = max(most_across, 1e-9)

    def place(point: Point) -> Point:
        x = _LEFT + (right - _LEFT) * min(point[0] / wide, 1.0)
        return round(x, 1), round(bottom - (bottom - _TOP) * (point[1] - base) / top_tick, 1)

    named = across if across is not None else [(n, f"{n:g}") for n in _whole(most_across)]
    return Plane(
        WIDTH,
        HEIGHT,
        _LEFT,
        right,
        _TOP,
        bottom,
        [Tick(place((n, base))[0], label) for n, label in named],
        [Tick(place((0, base + n))[1], f"{base + n:g}") for n in ticks],
        _apart(
            [_line(label, [place(p) for p in points], steps) for label, points in lines if points]
        ),
        [place(mark) for mark in marks],
        None if limit is None else place((0, limit))[1],
    )


def agreement(lines: Sequence[tuple[str, Sequence[Point]]]) -> Plane:
    """Lay out (predicted, observed) values on one round axis for both, with the ideal line."""
    every = [value for _, points in lines for point in points for value in point]
    least, most = min(every), max(every)
    _, ticks = _ticks(max(most - least, 1e-6 * max(abs(most), 1.0)))
    base = math.floor(least / ticks[1]) * ticks[1]
    wide, ticks = _ticks(max(most - base, ticks[1]))
    shifted = [(label, [(x - base, y) for x, y in points]) for label, points in lines]
    return plane(
        [*shifted, ("ideal", [(0.0, base), (wide, base + wide)])],
        most_across=wide,
        least_top=base + wide,
        across=[(tick, f"{base + tick:g}") for tick in ticks],
        base=base,
    )


def intervals(
    rows: Sequence[tuple[str, float, float | None, float]],
    low: float,
    high: float,
    *,
    step: float | None = None,
    limit: float | None = None,
    label: Callable[[float], str] | None = None,
) -> Intervals:
    """Lay out (name, low, middle, high) rows on one axis from at most ``low`` to ``high``.

    ``middle``: None where no point is drawn.

    Ticks are at whole steps below ``high``; the axis begins at a tick. Long names are truncated.
    ``limit``: where a line across all rows is drawn. ``label``: of a tick; its value if left out.
    """
    left, right = _NAMES, WIDTH - 24.0
    step = step or (0.1 if high - low <= 0.6 else 0.2)
    digits = max(1, -math.floor(math.log10(step) + 1e-9))
    count = math.ceil((high - low) / step - 1e-9)
    low = high - count * step

    def place(value: float) -> float:
        share = (min(max(value, low), high) - low) / (high - low)
        return round(left + (right - left) * share, 1)

    bottom, said = _ROW * len(rows) + 6, label or f"{{:.{digits}f}}".format
    return Intervals(
        WIDTH,
        bottom + 34,
        left,
        right,
        bottom,
        [Tick(place(low + n * step), said(low + n * step)) for n in range(count + 1)],
        [
            Interval(
                cut(name),
                _ROW * (number + 0.5),
                place(below),
                None if middle is None else place(middle),
                place(above),
            )
            for number, (name, below, middle, above) in enumerate(rows)
        ],
        None if limit is None else place(limit),
    )


def bars(counts: Sequence[int], dark: Sequence[int], names: Sequence[str]) -> Bars:
    """Lay out a small bar chart of ``counts``, with the ``dark`` part of each.

    ``names``: one per bar; otherwise spread evenly from the left end to the right end.
    """
    width, bottom, longest = 260.0, 56.0, max([1, *counts])
    each = width / max(1, len(counts))

    def extent(count: int) -> tuple[float, float]:
        """Return top and height of a bar."""
        height = round((bottom - 4) * count / longest, 1)
        return round(bottom - height, 1), height

    drawn = [
        (round(n * each, 1), *extent(all_), *extent(d))
        for n, (all_, d) in enumerate(zip(counts, dark, strict=True))
    ]
    if len(names) == len(counts):
        fits = max(3, int(each / 7.5))  # letters that fit under a bar
        across = [
            Tick(round((n + 0.5) * each, 1), name if len(name) <= fits else f"{name[: fits - 1]}…")
            for n, name in enumerate(names)
        ]
    else:
        across = [Tick(round(width * n / (len(names) - 1), 1), n_) for n, n_ in enumerate(names)]
    return Bars(width, bottom + 18, bottom, round(each * 0.86, 1), drawn, across)


def bar(share: float) -> float:
    """Return ``share``, limited to 0 to 1, as a percentage with one decimal."""
    return round(100 * min(1.0, max(0.0, share)), 1)


def _line(label: str, points: Sequence[Point], steps: bool) -> PlotLine:
    drawn = []
    for n, (x, y) in enumerate(points):
        if steps and n:
            drawn.append(f"{x},{points[n - 1][1]}")
        drawn.append(f"{x},{y}")
    return PlotLine(" ".join(drawn), points[-1], label, points[-1][1])


def cut(name: str) -> str:
    """Return a name that fits beside a plot."""
    return name if len(name) <= _LETTERS else f"{name[: _LETTERS - 1]}…"


def cut_before(name: str, end: str) -> str:
    """Return name and end, the name cut so that both fit beside a plot.

    An end that is too long itself is cut in its middle, as its last letters tell it apart.
    """
    left, whole = _LETTERS - len(end) - 1, f"{name} {end}"
    if len(whole) <= _LETTERS:
        return whole
    if left >= _SHORTEST:
        return f"{name[: left - 1]}… {end}"
    return f"{whole[: _LETTERS // 2 - 1]}…{whole[-_LETTERS // 2 :]}"


def _apart(lines: list[PlotLine]) -> list[PlotLine]:
    """Move labels down so that they do not overlap."""
    moved, lowest = {}, -math.inf
    for line in sorted(lines, key=lambda line: line.end[1]):
        lowest = max(line.end[1], lowest + _LABEL)
        moved[line.label] = replace(line, label_y=lowest)
    return [moved[line.label] for line in lines]


def _ticks(highest: float) -> tuple[float, list[float]]:
    """Return a round number at or above ``highest``, and the four or five ticks from 0 to it."""
    rough = max(highest, 1e-9) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * n for n in (1, 2, 2.5, 5, 10) if power * n >= rough)
    count = math.ceil(highest / step - 1e-9)
    return step * count, [round(step * n, 12) for n in range(count + 1)]


def _whole(most: float) -> list[int]:
    step = next(s for n in range(9) for s in (10**n, 2 * 10**n, 5 * 10**n) if most / s <= 8)
    return list(range(0, int(most) + 1, step))
