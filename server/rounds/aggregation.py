"""Sum of the replies to one attempt, as they arrive: steps 7 and 14 of
``flo.privacy.secure_sum.masking``.

Only the running sum is stored. Each hospital's own vector is stored only where masking is off and
the study compares vectors (``flo.server.rounds.robust``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator

import numpy as np

from flo.arrays import Floats, Integers
from flo.privacy.accounting.plan import PlannedPurpose, ring_of
from flo.privacy.secure_sum.ring import from_ring
from flo.protocol.messages import Values
from flo.study.document import Study
from flo.study.parameters import Vector

_BLOCK = 1 << 16  # numbers per block, so that intermediate results fit in the cache


def compares_hospitals(study: Study) -> bool:
    """Return whether the study combines hospitals' own vectors by a robust mean."""
    return not study.masked and study.mechanism.aggregation != "sum"


def blocks_of(length: int) -> Iterator[slice]:
    """Return slices that cover a vector, each small enough for the cache."""
    return (slice(start, start + _BLOCK) for start in range(0, length, _BLOCK))


def norm_of(blocks: Iterable[Floats]) -> float:
    """Return the L2 norm of a vector that comes in blocks."""
    return math.sqrt(sum(float(np.dot(block, block)) for block in blocks))


class StreamingSum:
    """Running sum for one part of a study and a cohort of ``hospitals`` hospitals."""

    def __init__(self, study: Study, part: PlannedPurpose, hospitals: int) -> None:
        self._part, self._ring = part, ring_of(study, part, hospitals)
        self._compared = compares_hospitals(study)
        self._total: Values | None = None
        self.is_open = study.tolerance is None
        self.hospitals: set[str] = set()
        self.each: dict[str, Values] = {}

    def __bool__(self) -> bool:
        return bool(self.hospitals)

    def add(self, hospital: str, values: Values) -> None:
        """Add a hospital's release, at most once: on the grid, or masked in the ring.

        Masks cancel in the sum of the whole cohort. The first vector is mutated if it is writeable.
        """
        self.add_sum((hospital,), values)

    def add_sum(self, hospitals: Collection[str], values: Values) -> None:
        """Add the sum of several hospitals' releases; only of one if the study compares them."""
        if again := self.hospitals.intersection(hospitals):
            raise ValueError(f"{', '.join(sorted(again))} answered this attempt already")
        self.hospitals.update(hospitals)
        if self._compared:
            (hospital,) = hospitals
            self.each[hospital] = values.copy()
        if self._total is None:
            wide = values.astype(np.int64) if values.dtype == np.int32 else values
            self._total = wide if wide.flags.writeable else wide.copy()
        else:
            np.add(self._total, values, out=self._total)

    def open(self, remove: Callable[[Values], None]) -> None:
        """Let ``remove`` take from the sum, in place, what else the survivors' uploads contain."""
        if self._total is None or self.is_open:
            raise ValueError("no hospital has answered, or the sum is open")
        remove(self._total)
        self.is_open = True

    def scratch_buffer(self, like: Vector) -> Vector:
        """Return a buffer for a vector like this one: the sum's own memory, if the sizes match.

        Writing to a block overwrites the sum there, so read each block first.
        """
        if self._ring == 8 * like.itemsize and self._total is not None:
            return self._total.view(like.dtype)
        return np.empty_like(like)

    @property
    def blocks(self) -> Iterator[slice]:
        """Slices that cover the sum."""
        return blocks_of(self._part.mechanism.length)

    def grid_values(self, block: slice) -> Integers:
        """Return a block of the sum, in grid steps."""
        if self._total is None:
            raise ValueError("no hospital has answered")
        total = self._total[block]
        return from_ring(total, self._ring) if self._ring else total

    def to_real(self, block: slice) -> Floats:
        """Return a block of the sum, in the unit of the summed values."""
        return self._part.mechanism.to_real(self.grid_values(block))

    def all_values(self) -> Floats:
        """Return the whole sum, in the unit of the summed values. Only for small sums."""
        return np.concatenate([self.to_real(block) for block in self.blocks])

    @property
    def norm(self) -> float:
        """L2 norm of the sum, in the unit of the summed values."""
        return norm_of(map(self.to_real, self.blocks))

    def exceeds(self, reach: int) -> bool:
        """Return whether a coordinate of the sum exceeds ±``reach`` grid steps."""
        parts = map(self.grid_values, self.blocks)
        return any(int(part.max()) > reach or int(part.min()) < -reach for part in parts)
