"""The red button: nothing leaves this hospital until somebody here lets it go on.

Pressed at any time, by whoever uses the site's folder. Once it is pressed nothing more is computed,
charged or sent: it is looked at before a request is acted on, again in the moment in which a
release would be charged, and once more before one is sent. What had gone out is gone. Approvals,
reservations and patients' frozen copies stay, so that going on costs nothing; studies under way may
end meanwhile without this hospital. The coordinator sees the one code "not ready".
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import StringConstraints

from flo import canonical
from flo.clients.home import SiteHome
from flo.errors import FloError, RefusedError
from flo.files import write_private
from flo.settings import Document, parse

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
        return parse(Halt, canonical.decode(path.read_bytes(), limit=_LIMIT, what=_FILE), _FILE)
    except (FloError, OSError):
        return Halt(time="an unknown time")


def halt(home: SiteHome) -> Halt:
    """Stop. No release is charged after this has returned."""
    with home.swapping():
        found = halted(home)
        if found is None:
            found = Halt(time=datetime.now(UTC).isoformat(timespec="seconds"))
            write_private(home.directory / _FILE, canonical.encode(found.model_dump(mode="json")))
            home.record("all-stopped")
    return found


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
