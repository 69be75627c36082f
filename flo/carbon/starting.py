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

WORTH_WAITING = 0.01  # share


@dataclass(frozen=True)
class Start:
    """``hour``: since 1970. ``saves``: expected share of what starting now would emit."""

    hour: int
    saves: float


def best_start(grids: Collection[Grid], now: int, latest: int, hours: float = 1.0) -> Start:
    """Return the best hour from ``now`` to ``latest``, both since 1970; the first of equals.

    ``grids``: of each hospital. ``hours``: how long the run takes. A grid of which some hour is not
    known does not count: hours are compared over the same grids. If none is known, or waiting saves
    less than ``WORTH_WAITING``, the run starts now.
    """
    hours_of_run = max(1, math.ceil(hours))
    begins = range(now, max(now, latest) + 1)
    needed = range(begins[0], begins[-1] + hours_of_run)
    foreseen = [[grid.expected(hour, now) for hour in needed] for grid in grids]
    known = [[one for one in grams if one is not None] for grams in foreseen]
    means = [sum(hour) / len(hour) for hour in zip(*_whole(known, len(needed)), strict=True)]
    costs = [sum(means[at : at + hours_of_run]) for at in range(len(begins))] if means else [0.0]
    least = min(costs)
    saves = 1 - least / costs[0] if costs[0] else 0.0
    if saves < WORTH_WAITING:
        return Start(now, 0.0)
    return Start(begins[costs.index(least)], saves)


def _whole(several: list[list[float]], length: int) -> list[list[float]]:
    return [one for one in several if len(one) == length]
