"""What a page says of an audit log: how far it was checked, and who has countersigned it."""

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
    """``number``: the last entry that was found to hold. ``broken``: what does not, if anything."""

    number: int
    broken: str | None


class IncrementalVerifier:
    """Checks a log's hashes and signatures from its first entry on, a fifth of a second a look.

    A long log is gone through over several looks; then it begins anew, so that nothing that was
    found to hold once is taken for that for good.
    """

    def __init__(self, log: AuditLog) -> None:
        self._log, self._lock = log, threading.Lock()
        self._number, self._hash = 0, ZERO_HASH

    def verify_next(self) -> VerifiedUpTo:
        """Check on from where the last look stopped; after the log's end it begins anew.

        What does not hold is in the answer, never raised.
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
    """(fingerprint, entry): up to where each other party has signed this log."""
    return sorted((receipt.fingerprint, receipt.number) for receipt in log.receipts())
