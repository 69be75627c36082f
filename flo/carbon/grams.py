"""What a run emits: energy of the hospitals' machines while its rounds are under way.

An estimate: power is a setting, and what a machine uses at rest is not in it. The coordinator's own
machine is left out; it works for other studies, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from flo.carbon.intensity import WORLD, Grid

WATTS = 60.0  # of a hospital's machine at work, above rest
SECONDS = 3.0  # of a round, where none was measured


@dataclass(frozen=True)
class Emission:
    """``kwh``: of all hospitals. ``grams``: of CO2 equivalent."""

    kwh: float
    grams: float


def planned(
    rounds: int, hospitals: int, watts: float = WATTS, seconds: float = SECONDS
) -> Emission:
    """Return what a run is expected to emit on the world's mean electricity."""
    kwh = rounds * seconds / 3600 * hospitals * watts / 1000
    return Emission(kwh, kwh * WORLD)


def emitted(
    rounds: Iterable[tuple[datetime, float, Iterable[str]]],
    grids: Mapping[str, Grid],
    watts: float = WATTS,
) -> Emission:
    """Return what rounds emitted.

    ``rounds``: when each ended, its seconds, its hospitals. ``grids``: of hospitals; one without a
    grid counts with the world's mean.
    """
    kwh = grams = 0.0
    for ended, seconds, hospitals in rounds:
        hour = int((ended.timestamp() - seconds / 2) // 3600)
        for hospital in hospitals:
            energy = seconds / 3600 * watts / 1000
            known = grids[hospital].actual(hour) if hospital in grids else None
            kwh += energy
            grams += energy * (WORLD if known is None else known)
    return Emission(kwh, grams)
