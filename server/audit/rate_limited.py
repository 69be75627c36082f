"""Rate limit on audit entries that remote parties cause, so that they cannot fill the disk.

The first entries of a kind in each minute are written one by one. Further ones are counted, and
``record`` or ``flush`` writes the count as one entry after that minute. Each kind and hospital has
its own limit, so that a flood of one cannot hide another. Connections without a certificate have
the lowest limit.
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
    """Thread-safe. ``store`` holds the entries until they are signed."""

    def __init__(self, store: Store, clock: Callable[[], float] = time.monotonic) -> None:
        self._store, self._lock, self._shares = store, threading.Lock(), PerMinuteLimiter(clock)

    def record(self, kind: str, study: str | None = None, **facts: Any) -> None:
        """Write one entry, or count it above the limit. Long texts are truncated."""
        anonymous = kind == "refused-connection" and "hospital" not in facts
        most = MOST_CONNECTIONS_A_MINUTE if anonymous else MOST_A_MINUTE
        with self._lock:
            self._enter(self._shares.drain_suppressed())
            if not self._shares.allow((kind, str(facts.get("hospital", ""))), most):
                return
        self._store.add_event(study, kind, **{name: _short(v) for name, v in facts.items()})

    def flush(self, *, now: bool = False) -> None:
        """Write the counts of entries above the limit: after their minute, or ``now``."""
        with self._lock:
            self._enter(self._shares.drain_suppressed(now=now))

    def _enter(self, counted: Counter[Any]) -> None:
        for (kind, hospital), count in counted.items():
            whose = {"hospital": hospital} if hospital else {}
            self._store.add_event(None, "refused-more", what=kind, count=count, **whose)


def _short(value: Any) -> Any:
    return value[:_LONGEST_VALUE] if isinstance(value, str) else value
