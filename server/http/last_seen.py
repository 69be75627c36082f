"""Time of each hospital's last request, in memory only, since this process began."""

from __future__ import annotations

import time


class LastSeen:
    """Times of last requests. Written by the gateway on its event loop; read from any thread."""

    def __init__(self) -> None:
        self._last = dict[str, float]()

    def touch(self, hospital: str) -> None:
        """Record a request of this hospital."""
        self._last[hospital] = time.monotonic()

    def seconds_since(self, hospital: str) -> float | None:
        """Return the seconds since its last request; None if there was none in this process."""
        last = self._last.get(hospital)
        return None if last is None else time.monotonic() - last
