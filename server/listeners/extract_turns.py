"""Limit on ledger extracts: one at a time per hospital, and a wait after an invalid one.

Reading an extract takes ten times its size in memory, and a CPU core.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from flo.http.asgi import Refused

WAIT_SECONDS = 10.0


class ExtractTurns:
    """Extracts that are being read, and hospitals that must wait. Used by one thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._reading, self._until = set[str](), dict[str, float]()

    def refuse_early(self, hospital: str) -> None:
        """Raise Refused (429) if this hospital's next extract has to wait."""
        if hospital in self._reading:
            raise Refused(429, f"{hospital}: another extract is being read")
        if self._clock() < self._until.get(hospital, 0.0):
            raise Refused(429, f"{hospital}: wait {WAIT_SECONDS:g} s after an invalid extract")

    @contextmanager
    def of(self, hospital: str) -> Iterator[None]:
        """Hold the hospital's turn to have an extract read. Raises as ``refuse_early``."""
        self.refuse_early(hospital)
        self._reading.add(hospital)
        try:
            yield
        finally:
            self._reading.discard(hospital)

    def wasted(self, hospital: str) -> None:
        """Record an invalid extract: the hospital's next one must wait ``WAIT_SECONDS``."""
        self._until[hospital] = self._clock() + WAIT_SECONDS
