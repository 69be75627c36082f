"""One approval in a ledger: what it reserved, for which generations, and what it released."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from flo.privacy.accounting.life_budget import CHARGES
from flo.privacy.ledger.rows import MOST_ROWS
from flo.privacy.mechanisms.mechanisms import Mechanism


@dataclass(frozen=True)
class Reserved:
    """One purpose of a reservation. ``document``: the mechanism, in the form that rows name it."""

    mechanism: Mechanism
    document: dict[str, Any]
    releases: int


@dataclass
class Reservation:
    """The reserved and released amounts of one approval.

    ``generations``: sub-ledger -> the generations that it is charged to. ``time``: of its row.
    ``unseen``: releases that are counted without a row, because their rows may be among the lost
    ones.
    """

    population: str
    parts: dict[str, Reserved]
    generations: dict[str, frozenset[int]]
    time: str
    released: Counter[str] = field(default_factory=Counter)
    unseen: Counter[str] = field(default_factory=Counter)
    replies: dict[int, tuple[str, str]] = field(default_factory=dict)
    settled: bool = False

    @property
    def size(self) -> int:
        """Reserved releases of all purposes."""
        return sum(part.releases for part in self.parts.values())

    def remaining(self, purpose: str) -> int:
        """Return the releases that may still be made for ``purpose``; 0 if it was not reserved."""
        if self.settled or purpose not in self.parts:
            return 0
        return self.parts[purpose].releases - self.released[purpose]

    @property
    def most_rows(self) -> int:
        """The most rows that it can have caused: its own, its end's, and its releases'."""
        return 2 + MOST_ROWS * self.size

    def take_all(self) -> None:
        """Count every release that is left as made, and end it."""
        for purpose in self.parts:
            left = self.remaining(purpose)
            self.unseen[purpose] += left
            self.released[purpose] += left
        self.settled = True

    def mechanisms(self, sub_ledger: str, how_many: Callable[[str], int]) -> Counter[Mechanism]:
        """Return how many releases of each mechanism a sub-ledger has."""
        found: Counter[Mechanism] = Counter()
        for purpose, part in self.parts.items():
            if sub_ledger in CHARGES[purpose]:
                found[part.mechanism] += how_many(purpose)
        return found

    def unused(self, purpose: str) -> int:
        """Return the reserved releases that were not made."""
        return max(0, self.parts[purpose].releases - self.released[purpose])

    def made(self, purpose: str) -> int:
        """Return the releases that count as made."""
        return self.released[purpose]

    def counted(self, purpose: str) -> int:
        """Return the releases that count against the life budget: all reserved until settled."""
        reserved, released = self.parts[purpose].releases, self.released[purpose]
        return released if self.settled else max(reserved, released)

    def cost(self, sub_ledger: str, order: int) -> float:
        """Return the Rényi cost at ``order`` that counts against a sub-ledger."""
        return math.fsum(
            self.counted(purpose) * part.mechanism.rdp(order)
            for purpose, part in self.parts.items()
            if sub_ledger in CHARGES[purpose]
        )
