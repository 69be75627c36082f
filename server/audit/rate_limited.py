"""What others make the coordinator enter in its audit log, without letting them fill the disk.

The first of a kind in a minute are entered one by one; of what follows in that minute only the
number, in one entry, by whoever calls ``flush``. Each kind, and in it each hospital, has its own
share, so that nobody hides one by a flood of another; whoever shows no certificate gets the
smallest.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from flo.audit.rate_limit import PerMinuteLimiter
from flo.server.store.store import Store

MOST_A_MINUTE = 120
MOST_CONNECTIONS_A_MINUTE = 20
_LONGEST_VALUE = 120


class RateLimitedAudit:
    """Thread-safe; ``store`` is where entries wait to be signed."""

    def __init__(self, store: Store, clock: Callable[[], float] = time.monotonic) -> None:
        self._store, self._lock, self._shares = store, threading.Lock(), PerMinuteLimiter(clock)

    def record(self, kind: str, study: str | None = None, **facts: Any) -> None:
        """Enter one, or count it. Long texts are cut."""
        anonymous = kind == "refused-connection" and "hospital" not in facts
        most = MOST_CONNECTIONS_A_MINUTE if anonymous else MOST_A_MINUTE
        with self._lock:
            self._enter(self._shares.drain_suppressed())
            if not self._shares.allow((kind, str(facts.get("hospital", ""))), most):
                return
        self._store.add_event(study, kind, **{name: _short(v) for name, v in facts.items()})

    def flush(self, *, now: bool = False) -> None:
        """Enter what was only counted, once its minute is over or at once."""
        with self._lock:
            self._enter(self._shares.drain_suppressed(now=now))

    def _enter(self, counted: Counter[Any]) -> None:
        for (kind, hospital), count in counted.items():
            whose = {"hospital": hospital} if hospital else {}
            self._store.add_event(None, "refused-more", what=kind, count=count, **whose)


def _short(value: Any) -> Any:
    return value[:_LONGEST_VALUE] if isinstance(value, str) else value
