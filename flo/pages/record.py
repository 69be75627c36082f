"""What a page says of an audit log: how far it was checked, and who has countersigned it."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from flo.audit_chain import ZERO_HASH
from flo.audit_log import AuditLog
from flo.errors import TrustError

_MOST_AT_ONCE = 2000


@dataclass(frozen=True)
class Checked:
    """``number``: the last entry that was found to hold. ``broken``: what does not, if anything."""

    number: int
    broken: str | None


class ChainCheck:
    """Checks a log's hashes and signatures, each entry once, a part at every call."""

    def __init__(self, log: AuditLog) -> None:
        self._log, self._lock = log, threading.Lock()
        self._number, self._hash = 0, ZERO_HASH

    def go_on(self) -> Checked:
        with self._lock:
            try:
                self._number, self._hash = self._log.checked(
                    self._number, self._hash, most=_MOST_AT_ONCE
                )
            except TrustError as error:
                return Checked(self._number, str(error))
            return Checked(self._number, None)


def countersigned(log: AuditLog) -> list[tuple[str, int]]:
    """(fingerprint, entry): up to where each other party has signed this log."""
    return sorted((receipt.fingerprint, receipt.number) for receipt in log.receipts())
