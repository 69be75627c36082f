"""Hourly carbon intensity of a grid: grams of CO2 equivalent for a kWh.

Hours are counted since 1970, UTC. A forecast of hours to come is what is known of them, by a
day-ahead file, or the mean of the same hour of the seven days before.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass

MOST_GRAMS = 5_000.0  # of a kWh: twice the dirtiest plant
_DAYS = 7
WORLD = 480.0  # mean of the world's electricity in 2023 (Ember, Global Electricity Review 2024)


@dataclass(frozen=True)
class Intensity:
    """``grams``: of a kWh, by hour since 1970."""

    grams: dict[int, float]

    @staticmethod
    def of(values: Iterable[tuple[float, float]]) -> Intensity:
        """Return the means of each hour. ``values``: seconds since 1970, and grams."""
        found = dict[int, list[float]]()
        for seconds, grams in values:
            found.setdefault(int(seconds // 3600), []).append(grams)
        return Intensity({hour: statistics.fmean(several) for hour, several in found.items()})

    def expected(self, hour: int, now: int) -> float | None:
        """Return the forecast of an hour by the seven days before ``now``; None if none is known.

        Nothing of ``now`` or later is used.
        """
        first = hour - 24 * ((hour - now) // 24 + 1)  # the latest such hour before now
        days = [self.grams[at] for day in range(_DAYS) if (at := first - 24 * day) in self.grams]
        return statistics.fmean(days) if days else None


@dataclass(frozen=True)
class Grid:
    """Intensity until now, and what a day-ahead file says of the hours to come."""

    past: Intensity
    ahead: Intensity = Intensity({})

    def expected(self, hour: int, now: int) -> float | None:
        """Return what is known of an hour at ``now``; None if nothing is."""
        if hour in self.ahead.grams:
            return self.ahead.grams[hour]
        return self.past.expected(hour, now)

    def actual(self, hour: int) -> float | None:
        """Return the intensity of an hour that is over: measured, else as it was foreseen."""
        found = self.past.grams.get(hour, self.ahead.grams.get(hour))
        return self.past.expected(hour, hour) if found is None else found
