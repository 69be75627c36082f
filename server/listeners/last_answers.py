"""The last answer to each run's question for replies, until it asks the next question.

Flower's store forgets replies when they are sent. A ServerApp that lost an answer repeats its
question under the same name, and gets the same answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field


@dataclass
class _Last:
    name: str = ""
    answer: bytes = b""
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


class LastAnswers:
    """Answers by Flower's run id. Each run has one question at a time."""

    def __init__(self) -> None:
        self._of: dict[int, _Last] = {}

    async def answer(self, run: int, name: str, make: Callable[[], Awaitable[bytes]]) -> bytes:
        """Return what ``make`` returns, or what it returned to the question of this name."""
        last = self._of.setdefault(run, _Last())
        async with last.turn:
            if last.name != name:
                last.answer = await make()
                last.name = name
            return last.answer

    def forget(self, is_over: Callable[[int], bool]) -> None:
        """Delete the answers of runs that are over."""
        for run in [run for run in self._of if is_over(run)]:
            del self._of[run]
