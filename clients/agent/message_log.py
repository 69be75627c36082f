"""Audit entry for each message: the request and the answer, written before the reply is sent.

Only a limited number per minute get an entry of their own, so that a remote party cannot fill this
site's disk. The rest are counted, and their number is entered.
"""

from __future__ import annotations

from flo.audit.rate_limit import PerMinuteLimiter
from flo.clients.home.site_home import SiteHome
from flo.documents import canonical
from flo.protocol.messages import RequestHeader, decode_reply, divided

_MOST_A_MINUTE = {"answered": 3000, "refused": 120, "malformed": 120}


class MessageLog:
    """Audit log of messages; those above the limit per minute are only counted."""

    def __init__(self, home: SiteHome) -> None:
        self.log, self._shares = home.open_audit_log(), PerMinuteLimiter()

    def close(self) -> None:
        """Enter the number of messages that were only counted, and close the log."""
        self._enter_counted(now=True)
        self.log.close()

    def malformed(self, size: int) -> None:
        """Enter a message of ``size`` bytes that is not a request."""
        if self._within_rate("malformed"):
            self.log.append("malformed-message", bytes=size)

    def answered(self, asked: RequestHeader, reply: bytes) -> None:
        """Enter a request and the reply that is about to be sent.

        The entry has the digest of the reply's header; the ledger row has that of its values.
        """
        header = decode_reply(reply).header
        if not self._within_rate("refused" if header.kind == "refused" else "answered"):
            return
        self.log.append(
            "message",
            asked.study,
            asked=asked.kind,
            run=asked.run,
            purpose=asked.purpose,
            round=asked.round,
            attempt=asked.attempt,
            answered=header.code or header.kind,
            reply=canonical.digest(divided(reply)[0]),
            row=header.head.sequence,
        )

    def _within_rate(self, what: str) -> bool:
        self._enter_counted()
        return self._shares.allow(what, _MOST_A_MINUTE[what])

    def _enter_counted(self, *, now: bool = False) -> None:
        for what, count in self._shares.drain_suppressed(now=now).items():
            self.log.append("messages-more", what=str(what), count=count)
