"""Whose turn it is: what each hospital's agent is at, as the hospital listener sees it.

In memory only, since this process began: when a hospital was heard of last, and since when it has
had a message that it has not answered. Who is late in a round is seen here before the deadline is.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Turn:
    """Seconds: since it was heard of, and since it was asked what it has not answered."""

    heard: float | None = None
    working: float | None = None


class Turns:
    """Told by the gateway on its event loop; read from any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._heard: dict[str, float] = {}
        self._asked: dict[str, float] = {}

    def heard(self, hospital: str) -> None:
        self._heard[hospital] = self._clock()

    def asked(self, hospital: str) -> None:
        """A message is handed out to it."""
        self._asked[hospital] = self._clock()

    def answered(self, hospital: str) -> None:
        self._asked.pop(hospital, None)

    def gone(self, hospital: str) -> None:
        """Its agent is no longer connected: what it was asked, it will not answer."""
        self._asked.pop(hospital, None)

    def of(self, hospital: str) -> Turn:
        now, heard, asked = self._clock(), self._heard.get(hospital), self._asked.get(hospital)
        return Turn(None if heard is None else now - heard, None if asked is None else now - asked)
