"""Facts that a page shows about an audit log: verification progress, and countersignatures."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from flo.audit.chain import ZERO_HASH
from flo.audit.log import AuditLog
from flo.errors import TrustError

_AT_ONCE, _SECONDS = 50, 0.2


@dataclass(frozen=True)
class VerifiedUpTo:
    """``number``: the last valid entry. ``broken``: the first error, if any."""

    number: int
    broken: str | None


class IncrementalVerifier:
    """Checks a log's hashes and signatures from the first entry on, 0.2 seconds per call.

    A long log takes several calls. After its end the check starts again at the first entry, so that
    later changes to checked entries are found too.
    """

    def __init__(self, log: AuditLog) -> None:
        self._log, self._lock = log, threading.Lock()
        self._number, self._hash = 0, ZERO_HASH

    def verify_next(self) -> VerifiedUpTo:
        """Continue after the last checked entry; after the log's end, start at the first one.

        An invalid entry is reported in the result and raises no error.
        """
        with self._lock:
            end = time.monotonic() + _SECONDS
            try:
                while time.monotonic() < end:
                    before = self._number
                    self._number, self._hash = self._log.checked(
                        self._number, self._hash, most=_AT_ONCE
                    )
                    if self._number == before:
                        self._number, self._hash = 0, ZERO_HASH
                        return VerifiedUpTo(before, None)
            except TrustError as error:
                found = VerifiedUpTo(self._number, str(error))
                self._number, self._hash = 0, ZERO_HASH
                return found
            return VerifiedUpTo(self._number, None)


def countersigned(log: AuditLog) -> list[tuple[str, int]]:
    """Return (fingerprint, entry): the last entry that each other party has countersigned."""
    return sorted((receipt.fingerprint, receipt.number) for receipt in log.receipts())
