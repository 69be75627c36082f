"""When each hospital was heard of last: in memory only, since this process began."""

from __future__ import annotations

import time


class LastSeen:
    """Told by the gateway on its event loop; read from any thread."""

    def __init__(self) -> None:
        self._last = dict[str, float]()

    def touch(self, hospital: str) -> None:
        """This hospital was heard of just now."""
        self._last[hospital] = time.monotonic()

    def seconds_since(self, hospital: str) -> float | None:
        """Seconds; None if not since this process began."""
        last = self._last.get(hospital)
        return None if last is None else time.monotonic() - last
