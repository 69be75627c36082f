"""Notification of requests that wait for something to arrive."""

from __future__ import annotations

import asyncio
import contextlib


class Notifier:
    """Event that wakes all waiting requests whenever something may have arrived."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def notify_all(self) -> None:
        """Wake all current waiters, but no later ones. Call on the event loop only."""
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self, seconds: float) -> None:
        """Wait until the next notification, at most ``seconds``. Callers check their condition."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._event.wait(), seconds)
