"""Wakes whoever waits for something to arrive."""

from __future__ import annotations

import asyncio
import contextlib


class Notifier:
    """Wakes every waiting request at once; rung whenever something may have arrived."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def notify_all(self) -> None:
        """Wake all who wait now, and nobody who waits later. On the event loop only."""
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self, seconds: float) -> None:
        """Until the next ring, or for so many seconds; the caller looks which it was."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._event.wait(), seconds)
