"""What a site enters of every message: what was asked, how it was answered, before that leaves.

Only so many a minute are entered one by one, or whoever asks could fill this site's disk; of the
rest the number is.
"""

from __future__ import annotations

from flo.audit.rate_limit import PerMinuteLimiter
from flo.clients.home.site_home import SiteHome
from flo.documents import canonical
from flo.protocol.messages import RequestHeader, decode_reply, divided

_MOST_A_MINUTE = {"answered": 3000, "refused": 120, "malformed": 120}


class MessageLog:
    """The audit log as it is written while messages come; too many in a minute are only counted."""

    def __init__(self, home: SiteHome) -> None:
        self.log, self._shares = home.open_audit_log(), PerMinuteLimiter()

    def close(self) -> None:
        """Enter the numbers of what was only counted so far, and close the log."""
        self._enter_counted(now=True)
        self.log.close()

    def malformed(self, size: int) -> None:
        """Something of so many bytes that is no request."""
        if self._within_rate("malformed"):
            self.log.append("malformed-message", bytes=size)

    def answered(self, asked: RequestHeader, reply: bytes) -> None:
        """A request and the reply that is about to leave.

        Of its numbers the ledger row has the digest; of what stands before them it is taken here.
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
