"""Per-minute limit on audit entries that a remote party can cause."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Hashable


class PerMinuteLimiter:
    """Counts by key and minute. Not thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._minute = clock, 0
        self._taken: Counter[Hashable] = Counter()
        self._more: Counter[Hashable] = Counter()

    def allow(self, key: Hashable, most: int) -> bool:
        """Return whether ``key`` may cause one more entry in this minute; if not, count it."""
        if self._taken[key] < most:
            self._taken[key] += 1
            return True
        self._more[key] += 1
        return False

    def drain_suppressed(self, *, now: bool = False) -> Counter[Hashable]:
        """Return and reset the counts of suppressed entries, if their minute is over or ``now``."""
        minute = int(self._clock() // 60)
        if minute != self._minute:
            self._minute, self._taken = minute, Counter()
        elif not now:
            return Counter()
        more, self._more = self._more, Counter()
        return more
