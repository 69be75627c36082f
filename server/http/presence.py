"""Which hospitals have a connection open, so that a crashed agent is noticed within seconds.

An agent beats on a connection of its own, so as long as it lives one is open. When a process dies
its kernel closes them all; Flower alone would wait for two missed heartbeats.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

_GRACE_SECONDS = 1.0  # an agent that only reconnects is back by then


class ConnectionTracker:
    """Counts open connections by client certificate (DER). Lives on the event loop.

    ``on_gone`` is called with the certificate of a client whose last connection closed.
    """

    def __init__(self, on_gone: Callable[[bytes], None]) -> None:
        self._on_gone = on_gone
        self._open: Counter[bytes] = Counter()
        self._looking: dict[bytes, asyncio.TimerHandle] = {}

    def count(self, certificate: bytes) -> int:
        """How many connections it has open."""
        return self._open[certificate]

    def opened(self, certificate: bytes) -> None:
        """One connection more; a client that is back in time is not reported as gone."""
        self._open[certificate] += 1
        if timer := self._looking.pop(certificate, None):
            timer.cancel()

    def closed(self, certificate: bytes) -> None:
        """One connection less; after the last one ``on_gone`` waits a second for another."""
        self._open[certificate] -= 1
        if self._open[certificate] <= 0:
            del self._open[certificate]
            loop = asyncio.get_running_loop()
            self._looking[certificate] = loop.call_later(_GRACE_SECONDS, self._gone, certificate)

    def _gone(self, certificate: bytes) -> None:
        del self._looking[certificate]
        self._on_gone(certificate)
