"""The last answer to each run's question for replies, until it asks the next question.

Flower's store forgets replies when they are sent. A ServerApp that lost an answer repeats its
question under the same name, and gets the same answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from flo.errors import MessageError


@dataclass
class LastAnswer:
    """A run's last question and its answer. ``turn``: held during each call of the run."""

    question: str = ""
    answer: bytes = b""
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    def is_new(self, question: str) -> bool:
        """Return whether this is not the last question again; names of questions rise.

        Raises:
            MessageError: a later one was answered, so nobody waits for this one.
        """
        if question < self.question:
            raise MessageError("a later question was answered")
        return question > self.question


class LastAnswers:
    """Answers by Flower's run id."""

    def __init__(self) -> None:
        self._of: dict[int, LastAnswer] = {}

    def of(self, run: int) -> LastAnswer:
        """Return the run's last answer, which the caller may replace in its turn."""
        return self._of.setdefault(run, LastAnswer())

    def forget(self, is_over: Callable[[int], bool]) -> None:
        """Delete the answers of runs that are over."""
        for run in [run for run in self._of if is_over(run)]:
            del self._of[run]
