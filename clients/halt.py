"""The red button: nothing leaves this hospital until somebody here lets it go on.

Pressed at any time, by whoever uses the site's folder. Once it is pressed nothing more is computed,
charged or sent: it is looked at before a request is acted on, again in the moment in which a
release would be charged, and before each part of one is sent. What had gone out is gone. Approvals,
reservations and patients' frozen copies stay, so that going on costs nothing; studies under way may
end meanwhile without this hospital. The coordinator sees the one code "not ready", or nobody there.

The file comes first and alone: whatever else fails or takes its time, it stops everything.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import StringConstraints

from flo.clients.home import SiteHome
from flo.errors import FloError, RefusedError
from flo.files import write_private
from flo.settings import Document, read_json

log = logging.getLogger("flo.clients.halt")

_FILE, _LIMIT = "halted.json", 4096


class Halt(Document):
    """``halted.json``: since when (UTC)."""

    schema_version: Literal[1] = 1
    time: Annotated[str, StringConstraints(max_length=40)]


def halted(home: SiteHome) -> Halt | None:
    """Since when everything is stopped here; None if it is not.

    The file stops everything by being there, whatever stands in it.
    """
    path = home.directory / _FILE
    if not path.exists():
        return None
    try:
        return read_json(Halt, path, limit=_LIMIT)
    except (FloError, OSError):
        return Halt(time="an unknown time")


def halt(home: SiteHome) -> tuple[Halt, str]:
    """Stop. Returns what holds now, and what could not be made sure of, if anything.

    No release is charged after this has returned with nothing to say.
    """
    found, said = halted(home), ""
    if found is None:
        found = Halt(time=datetime.now(UTC).isoformat(timespec="seconds"))
        write_private(home.directory / _FILE, found.to_bytes())
        try:
            home.record("all-stopped")
        except Exception as error:  # of whatever kind: it is stopped
            log.exception("stopped, and it could not be entered in the audit log")
            said = f"it could not be entered in the audit log ({type(error).__name__}). "
    try:
        with home.swapping():  # what was being charged just then is over
            return found, said
    except RefusedError:
        return found, said + "a release that was being charged just then may be in the ledger."


def go_on(home: SiteHome) -> None:
    """Raises RefusedError if nothing is stopped."""
    with home.swapping():
        if halted(home) is None:
            raise RefusedError("nothing is stopped here")
        home.record("all-resumed")
        (home.directory / _FILE).unlink()


def refuse_halted(home: SiteHome) -> None:
    """Raises RefusedError while everything is stopped."""
    found = halted(home)
    if found is not None:
        raise RefusedError(f"everything is stopped here since {found.time}", hint="flo site resume")
