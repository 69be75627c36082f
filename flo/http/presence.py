"""Tracking of open connections per hospital, so that a crashed agent is noticed within seconds.

An agent sends heartbeats on a dedicated connection, so a live agent has at least one open. When the
process dies, its kernel closes all of them; Flower alone would wait for two missed heartbeats.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

_GRACE_SECONDS = 1.0  # an agent that only reconnects does so sooner


class ConnectionTracker:
    """Counter of open connections per client certificate (DER). Use on the event loop only.

    ``on_gone`` is called with the certificate of a client whose last connection closed.
    """

    def __init__(self, on_gone: Callable[[bytes], None]) -> None:
        self._on_gone = on_gone
        self._open: Counter[bytes] = Counter()
        self._looking: dict[bytes, asyncio.TimerHandle] = {}

    def count(self, certificate: bytes) -> int:
        """Return the number of open connections with this certificate."""
        return self._open[certificate]

    def opened(self, certificate: bytes) -> None:
        """Count an opened connection; a client that is back in time is not reported as gone."""
        self._open[certificate] += 1
        if timer := self._looking.pop(certificate, None):
            timer.cancel()

    def closed(self, certificate: bytes) -> None:
        """Count a closed connection; after the last one, wait a second before ``on_gone``."""
        self._open[certificate] -= 1
        if self._open[certificate] <= 0:
            del self._open[certificate]
            loop = asyncio.get_running_loop()
            self._looking[certificate] = loop.call_later(_GRACE_SECONDS, self._gone, certificate)

    def _gone(self, certificate: bytes) -> None:
        del self._looking[certificate]
        self._on_gone(certificate)
