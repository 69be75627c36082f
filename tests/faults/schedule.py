"""Which faults strike whom, and when: a function of the seed, without IO."""

from __future__ import annotations

import random
from collections.abc import Collection
from dataclasses import dataclass

COORDINATOR, DISK_FULL = "coordinator", "disk full"
_FIRST, _LAST = 0.2, 5.0  # seconds after the launch within which faults begin


@dataclass(frozen=True)
class Fault:
    """``at``: seconds after the launch. ``seconds``: how long it lasts; 0 for what strikes once."""

    at: float
    kind: str
    whom: str
    seconds: float

    def __str__(self) -> str:
        lasts = f" for {self.seconds:.1f} s" if self.seconds else ""
        return f"{self.at:4.1f} s  {self.kind} {self.whom}{lasts}"


# kind -> whom it can strike, and the shortest and longest time it lasts
KINDS: dict[str, tuple[str, float, float]] = {
    "kill": ("anyone", 0, 0),
    "kill the data process of": ("a site", 0, 0),
    "pause": ("anyone", 0.5, 3),
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
    "clock jump": ("a site", 0, 0),
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
        struck = chosen.choice([COORDINATOR, *names] if whom == "anyone" else names)
        at, seconds = chosen.uniform(_FIRST, _LAST), chosen.uniform(shortest, longest)
        faults.append(Fault(at, kind, struck, seconds))
    return sorted(faults, key=lambda fault: fault.at)
