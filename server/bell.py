"""Wakes whoever waits for something to arrive."""

from __future__ import annotations

import asyncio
import contextlib


class Bell:
    """Wakes every waiting request at once; rung whenever something may have arrived."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def ring(self) -> None:
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._event.wait(), seconds)
