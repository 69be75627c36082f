"""When a run is best started: the hour within its window whose electricity is expected to be the
cleanest, over all its hospitals. The whole run is shifted: another cohort would change masks and
accounting.

It is asked again each hour, with what is known then, so a forecast that was wrong costs little.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

from flo.carbon.intensity import Grid


@dataclass(frozen=True)
class Start:
    """``hour``: since 1970. ``saves``: expected share of what starting now would emit."""

    hour: int
    saves: float


def best_start(grids: Collection[Grid], now: int, latest: int, hours: float = 1.0) -> Start:
    """Return the best hour from ``now`` to ``latest``, both since 1970; the first of equals.

    ``grids``: of each hospital. ``hours``: how long the run takes. A grid of which nothing is known
    does not count; if none is known, the run starts now.
    """
    length = max(1, math.ceil(hours))
    costs = [_cost(grids, hour, now, length) for hour in range(now, max(now, latest) + 1)]
    if costs[0] is None:
        return Start(now, 0.0)
    known = [(cost, now + at) for at, cost in enumerate(costs) if cost is not None]
    least, hour = min(known)
    return Start(hour, 1 - least / costs[0] if costs[0] else 0.0)


def _cost(grids: Collection[Grid], begin: int, now: int, length: int) -> float | None:
    """Return the mean intensity of a run that begins in an hour; None if nothing is known."""
    found = [
        expected
        for grid in grids
        for hour in range(begin, begin + length)
        if (expected := grid.expected(hour, now)) is not None
    ]
    return sum(found) / len(found) if found else None
