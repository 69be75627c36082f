"""The coordinator's clock, as its replies tell it: an agent signs by it and not by its own."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

import httpx

from flo.host.diagnostics import (
    CLOCK_WORTH_TELLING_SECONDS,
    clock_alone,
    clock_beside,
    kernel_clock_state,
)

log = logging.getLogger("flo.clients.connection.coordinator_clock")

_WORTH_TELLING = timedelta(seconds=CLOCK_WORTH_TELLING_SECONDS)
_IMPOSSIBLE = timedelta(days=3650)


def _own_clock() -> datetime:
    return datetime.now(UTC)


class CoordinatorClock:
    """This machine's clock, set by the ``Date`` of the coordinator's last reply.

    A ``Date`` has whole seconds, so this clock is up to 1 s behind the coordinator's and never
    ahead of it. Until the first reply it shows this machine's time.
    """

    def __init__(self, own: Callable[[], datetime] = _own_clock) -> None:
        self._own = own
        self._ahead = self._told = timedelta(0)  # of our clock, beside theirs

    def now(self) -> datetime:
        """The coordinator's time (UTC)."""
        return self._own() - self._ahead

    def hear(self, response: httpx.Response) -> None:
        """Set the clock by this reply. A missing or impossible ``Date`` changes nothing."""
        try:
            theirs = parsedate_to_datetime(response.headers["date"]).astimezone(UTC)
        except (KeyError, ValueError, OverflowError):
            return
        ahead = self._own() - theirs
        if abs(ahead) > _IMPOSSIBLE:
            return
        self._ahead = ahead
        if abs(self._ahead - self._told) > _WORTH_TELLING:
            self._told = self._ahead
            self._tell()

    def _tell(self) -> None:
        found = clock_beside(self._ahead.total_seconds())
        if found.state == "ok":
            log.info("this machine's clock is as the coordinator's again")
            return
        if clock_alone(kernel_clock_state()).state == "ok":
            log.warning(f"{found.says}; ours follows a time server, so tell the coordinator")
        else:
            log.warning(f"{found.says}, and ours follows no time server; {found.mend}")
