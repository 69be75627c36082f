"""The coordinator's time, read from its replies; agents sign with it and not with their own."""

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


class CoordinatorClock:
    """This machine's clock, corrected by the ``Date`` header of the coordinator's last reply.

    ``Date`` has whole seconds, so this clock is up to 1 s behind the coordinator's and never ahead
    of it. Until the first reply it shows this machine's time.
    """

    def __init__(self, own: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._own = own
        self._ahead = self._told = timedelta(0)  # of this machine's clock, over the coordinator's

    def now(self) -> datetime:
        """Return the coordinator's time (UTC)."""
        return self._own() - self._ahead

    def hear(self, response: httpx.Response) -> None:
        """Correct the clock by this reply; ignore a missing or impossible ``Date``."""
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
            log.info("this machine's clock agrees with the coordinator's again")
            return
        if clock_alone(kernel_clock_state()).state == "ok":
            log.warning(f"{found.message}; ours follows a time server: notify the coordinator")
        else:
            log.warning(f"{found.message}, and ours follows no time server: {found.fix}")
