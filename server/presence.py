"""Which hospitals have a connection open, so that a crashed agent is noticed within seconds.

An agent beats on a connection of its own, so as long as it lives one is open. When a process dies
its kernel closes them all; Flower alone would wait for two missed heartbeats.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

_GRACE_SECONDS = 1.0  # an agent that only reconnects is back by then


class Presence:
    """Counts open connections by client certificate (DER). Lives on the event loop.

    ``on_gone`` is called with the certificate of a client whose last connection closed.
    """

    def __init__(self, on_gone: Callable[[bytes], None]) -> None:
        self._on_gone = on_gone
        self._open: Counter[bytes] = Counter()

    def opened(self, certificate: bytes) -> None:
        self._open[certificate] += 1

    def closed(self, certificate: bytes) -> None:
        self._open[certificate] -= 1
        if not self._open[certificate]:
            asyncio.get_running_loop().call_later(_GRACE_SECONDS, self._look, certificate)

    def _look(self, certificate: bytes) -> None:
        if self._open[certificate] <= 0:
            del self._open[certificate]
            self._on_gone(certificate)
