"""The red button: nothing leaves this hospital until somebody here lets it go on.

Pressed at any time, by whoever uses the site's folder. Once it is pressed nothing more is computed,
charged or sent: it is looked at before a request is acted on, again in the moment in which a
release would be charged, and before each part of one is sent. What had gone out is gone. Approvals,
reservations and patients' frozen copies stay, so that going on costs nothing; studies under way may
end meanwhile without this hospital. The coordinator sees the one code "not ready", or nobody there.

The button makes one file, before anything else, and that file stops everything, whatever fails
afterwards. The file exists from the beginning under another name and is only renamed, which takes
no room, no inode and no file descriptor. If even that fails, the command says that it did not stop.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import StringConstraints

from flo.clients.home.site_home import SiteHome
from flo.documents.document import Document, read_json
from flo.errors import FloError, RefusedError
from flo.storage.files import write_private

log = logging.getLogger("flo.clients.home.emergency_stop")

_FILE, _READY, _LIMIT = "halted.json", "ready-to-halt.json", 4096


class EmergencyStop(Document):
    """``halted.json``: since when (UTC)."""

    schema_version: Literal[1] = 1
    time: Annotated[str, StringConstraints(max_length=40)]


def halted(home: SiteHome) -> EmergencyStop | None:
    """Since when everything is stopped here; None if it is not.

    The file stops everything by being there, whatever stands in it.
    """
    path = home.directory / _FILE
    if not path.exists():
        return None
    try:
        return read_json(EmergencyStop, path, limit=_LIMIT)
    except (FloError, OSError):
        return EmergencyStop(time="an unknown time")


def halt(home: SiteHome) -> tuple[EmergencyStop, str]:
    """Stop. Returns what holds now, and what could not be made sure of, if anything.

    No release is charged after this has returned with nothing to say.

    Raises:
        RefusedError: NOT STOPPED, as the folder can be changed in no way.
    """
    found, said = halted(home), ""
    if found is None:
        found = EmergencyStop(time=datetime.now(UTC).isoformat(timespec="seconds"))
        _press(home, found)
        try:
            home.record("all-stopped")
        except Exception as error:  # of whatever kind: it is stopped
            log.exception("stopped, and it could not be entered in the audit log")
            said = f"it could not be entered in the audit log ({type(error).__name__}). "
    try:
        with home.snapshot_lock():  # what was being charged just then is over
            return found, said
    except (RefusedError, OSError):
        return found, said + "a release that was being charged just then may be in the ledger."


def be_ready(home: SiteHome) -> None:
    """Have the file there that the red button renames, while there is room for it."""
    if halted(home) is None and not (home.directory / _READY).exists():
        write_private(home.directory / _READY, EmergencyStop(time="an unknown time").to_bytes())


def _press(home: SiteHome, found: EmergencyStop) -> None:
    path = home.directory / _FILE
    try:
        (home.directory / _READY).rename(path)
    except OSError:
        try:
            write_private(path, found.to_bytes())
        except OSError as error:
            raise RefusedError(
                f"NOT STOPPED: {home.directory} CANNOT BE CHANGED ({error.strerror})",
                hint="END THE AGENT: systemctl stop flo-site, or kill its process; what it has "
                "released is out. Then free or mount the disk, and stop again",
            ) from error
        return
    with suppress(OSError):  # it is stopped; only since when is not known
        write_private(path, found.to_bytes())


def resume(home: SiteHome) -> None:
    """Raises RefusedError if nothing is stopped."""
    with home.snapshot_lock():
        if halted(home) is None:
            raise RefusedError("nothing is stopped here")
        home.record("all-resumed")
        (home.directory / _FILE).rename(home.directory / _READY)


def refuse_halted(home: SiteHome) -> None:
    """Raises RefusedError while everything is stopped."""
    found = halted(home)
    if found is not None:
        raise RefusedError(f"everything is stopped here since {found.time}", hint="flo site resume")
