"""Which faults strike whom, and when: a function of the seed, without IO."""

from __future__ import annotations

import random
from collections.abc import Collection
from dataclasses import dataclass

COORDINATOR, DISK_FULL = "coordinator", "disk full"
CLOCK_STEP, CLOCK_DRIFT = "clock step of", "clock drift of"
CLOCKS_OFF = (2.0, 60.0, 3600.0, 86_400.0)  # seconds, ahead or behind
_FIRST, _LAST = 0.2, 5.0  # seconds after the launch within which faults begin


@dataclass(frozen=True)
class Fault:
    """``at``: seconds after the launch. ``seconds``: how long it lasts; 0 for what strikes once.

    ``ahead``: seconds by which a clock is ahead meanwhile; of one that drifts only the sign counts.
    """

    at: float
    kind: str
    whom: str
    seconds: float
    ahead: float = 0.0

    def __str__(self) -> str:
        lasts = f" for {self.seconds:.1f} s" if self.seconds else ""
        by = f" by {self.ahead:+.0f} s" if self.kind == CLOCK_STEP else ""
        return f"{self.at:4.1f} s  {self.kind} {self.whom}{by}{lasts}"


# kind -> whom it can strike, and the shortest and longest time it lasts
KINDS: dict[str, tuple[str, float, float]] = {
    "kill": ("anyone", 0, 0),
    "kill the data process of": ("a site", 0, 0),
    "kill the launcher of": (COORDINATOR, 0, 0),
    "pause": ("anyone", 0.5, 3),
    "pause the data process of": ("a site", 0.5, 3),
    "pause the launcher of": (COORDINATOR, 0.5, 3),
    "partition": ("a site", 0.5, 4),
    "stall": ("a site", 0.5, 3),
    "delay": ("a site", 1, 4),
    "slow link": ("a site", 1, 4),
    "cut connections of": ("a site", 0, 0),
    "corrupt bytes of": ("a site", 0, 0),
    "duplicate": ("a site", 0, 0),
    "replay": ("a site", 0, 0),
    "reorder": ("a site", 0, 0),
    "late answer": ("a site", 0, 0),
    CLOCK_STEP: ("anyone", 0.5, 4),
    CLOCK_DRIFT: ("anyone", 1, 4),
    DISK_FULL: ("anyone", 0.5, 3),
}


def schedule(
    seed: int, sites: Collection[str], kinds: Collection[str] = tuple(KINDS)
) -> list[Fault]:
    """Two to five faults, in order of time."""
    chosen, names, faults = random.Random(seed), sorted(sites), []
    for _ in range(chosen.randint(2, 5)):
        kind = chosen.choice(sorted(kinds))
        whom, shortest, longest = KINDS[kind]
        able = {"anyone": [COORDINATOR, *names], "a site": names, COORDINATOR: [COORDINATOR]}[whom]
        struck = chosen.choice(able)
        at, seconds = chosen.uniform(_FIRST, _LAST), chosen.uniform(shortest, longest)
        ahead = clock_off(chosen) if kind in (CLOCK_STEP, CLOCK_DRIFT) else 0.0
        faults.append(Fault(at, kind, struck, seconds, ahead))
    return sorted(faults, key=lambda fault: fault.at)


def clock_off(chosen: random.Random) -> float:
    """Seconds by which a clock may be off, from 2 s to a day, ahead or behind."""
    return chosen.choice(CLOCKS_OFF) * chosen.choice((-1, 1))
