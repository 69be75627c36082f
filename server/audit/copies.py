"""Copies of the audit log in a store that does not allow deletion, such as S3 with Object Lock.

A copy is made at the start and then every hour if the log has grown. Each is a full signed export,
which ``flo audit verify`` reads.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime

from flo.documents import canonical
from flo.errors import FloError
from flo.storage.artifacts import ArtifactStore

log = logging.getLogger("flo.server.audit")

_EVERY_SECONDS, _AGAIN_SECONDS = 3600.0, 60.0


class AuditCopies:
    """``export``: makes the signed export. ``grown``: returns a number that grows with the log."""

    def __init__(
        self, store: ArtifactStore, export: Callable[[], bytes], grown: Callable[[], int]
    ) -> None:
        self._store, self._export, self._grown = store, export, grown
        self._due, self._copied = 0.0, -1
        self.failed = 0  # failed copies since this process started

    def copy_if_due(self) -> None:
        """Copy the log if an hour has passed and it has grown; retry a failure after a minute."""
        if time.monotonic() < self._due:
            return
        length = self._grown()
        self._due = time.monotonic() + _EVERY_SECONDS
        if length == self._copied:
            return
        try:
            data = self._export()
            day = datetime.now(UTC).strftime("%Y-%m-%d")
            self._store.put(f"audit/{day}/{length:010}-{canonical.digest(data)[:16]}.json", data)
        except FloError as error:
            log.error("the audit log was not copied", extra={"fields": {"why": str(error)}})
            self._due = time.monotonic() + _AGAIN_SECONDS
            self.failed += 1
        else:
            self._copied = length
