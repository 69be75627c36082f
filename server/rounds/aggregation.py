"""Sum of the replies to one attempt, as they arrive: steps 7 and 14 of
``flo.privacy.secure_sum.masking``.

Only the running sum is stored. Each hospital's own vector is stored only where masking is off and
the study compares vectors (``flo.server.rounds.robust``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from flo.arrays import Floats, Integers
from flo.privacy.accounting.plan import PlannedPurpose, ring_of
from flo.privacy.secure_sum.ring import from_ring
from flo.protocol.messages import Values
from flo.study.document import Study
from flo.study.parameters import Vector

_BLOCK = 1 << 16  # numbers per block, so that intermediate results fit in the cache


class StreamingSum:
    """Running sum for one part of a study and a cohort of ``hospitals`` hospitals."""

    def __init__(self, study: Study, part: PlannedPurpose, hospitals: int) -> None:
        self._part, self._ring = part, ring_of(study, part, hospitals)
        self._compared = not study.masked and study.mechanism.aggregation != "sum"
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
        if hospital in self.hospitals:
            raise ValueError(f"{hospital} has answered this attempt already")
        self.hospitals.add(hospital)
        if self._compared:
            self.each[hospital] = values.copy()
        if self._total is None:
            self._total = values if values.flags.writeable else values.copy()
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
        length = self._part.mechanism.length
        return (slice(start, start + _BLOCK) for start in range(0, length, _BLOCK))

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
        return float(np.sqrt(sum(np.dot(real, real) for real in map(self.to_real, self.blocks))))

    def exceeds(self, reach: int) -> bool:
        """Return whether a coordinate of the sum exceeds ±``reach`` grid steps."""
        parts = map(self.grid_values, self.blocks)
        return any(int(part.max()) > reach or int(part.min()) < -reach for part in parts)
