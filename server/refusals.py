"""Refusals into the audit log, without letting whoever is refused fill the disk with them.

The first of a kind in a minute are entered one by one; of what follows in that minute only the
number, in one entry, by whoever calls ``flush``. Each kind has its own share, so that nobody hides
one by a flood of another; whoever shows no certificate gets the smallest.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable

from flo.server.store import Store

MOST_A_MINUTE = 120
MOST_CONNECTIONS_A_MINUTE = 20
_LONGEST_VALUE = 120


class Refusals:
    """Thread-safe; ``store`` is where entries wait to be signed."""

    def __init__(self, store: Store, clock: Callable[[], float] = time.monotonic) -> None:
        self._store, self._clock, self._lock = store, clock, threading.Lock()
        self._minute = 0
        self._entered: Counter[str] = Counter()
        self._more: Counter[str] = Counter()

    def note(self, kind: str, **facts: str) -> None:
        """Enter one refusal, or count it."""
        with self._lock:
            self._turn()
            anonymous = kind == "refused-connection"
            if self._entered[kind] >= (MOST_CONNECTIONS_A_MINUTE if anonymous else MOST_A_MINUTE):
                self._more[kind] += 1
                return
            self._entered[kind] += 1
        short = {name: value[:_LONGEST_VALUE] for name, value in facts.items()}
        self._store.add_event(None, kind, **short)

    def flush(self) -> None:
        """Enter what was only counted, once its minute is over."""
        with self._lock:
            self._turn()

    def end(self) -> None:
        """Enter what was only counted, now."""
        with self._lock:
            self._enter_counted()

    def _turn(self) -> None:
        minute = int(self._clock() // 60)
        if minute != self._minute:
            self._minute, self._entered = minute, Counter()
            self._enter_counted()

    def _enter_counted(self) -> None:
        more, self._more = self._more, Counter()
        for kind, count in more.items():
            self._store.add_event(None, "refused-more", what=kind, count=count)
