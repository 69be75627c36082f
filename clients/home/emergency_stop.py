"""Emergency stop: no release leaves this hospital until a person here resumes.

Any user of the site's folder can trigger it at any time. From then on no release is computed,
charged or sent: the agent checks the stop before it acts on a request, again when it charges a
release, and before it sends each part of one. Data already sent cannot be recalled. Approvals,
reservations and snapshots stay, so resuming costs no budget; studies under way may end meanwhile
without this hospital. The coordinator sees only the code "not-ready", or an offline hospital.

The first step puts one file in place, which alone stops everything, even if a later step fails. The
file is prepared in advance under another name and only renamed, which needs no disk space, inode or
file descriptor. If the file cannot be put in place, the command reports that it did not stop.
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
    """``halted.json``: time of the stop (UTC)."""

    schema_version: Literal[1] = 1
    time: Annotated[str, StringConstraints(max_length=40)]


def halted(home: SiteHome) -> EmergencyStop | None:
    """Return the stop in force, with its time; None if there is none.

    The existence of the file stops everything; its content does not matter.
    """
    path = home.directory / _FILE
    if not path.exists():
        return None
    try:
        return read_json(EmergencyStop, path, limit=_LIMIT)
    except (FloError, OSError):
        return EmergencyStop(time="an unknown time")


def halt(home: SiteHome) -> tuple[EmergencyStop, str]:
    """Stop. Return the stop in force and a warning; the warning is empty if all steps worked.

    No release is charged after this has returned without a warning.

    Raises:
        RefusedError: NOT STOPPED, because the folder cannot be changed.
    """
    found, said = halted(home), ""
    if found is None:
        found = EmergencyStop(time=datetime.now(UTC).isoformat(timespec="seconds"))
        _press(home, found)
        try:
            home.record("all-stopped")
        except Exception as error:  # of any kind: the stop is in force
            log.exception("stopped, but the stop could not be entered in the audit log")
            said = f"the stop could not be entered in the audit log ({type(error).__name__}). "
    try:
        with home.snapshot_lock():  # a charge under way has ended by now
            return found, said
    except (RefusedError, OSError):
        return found, said + "a release that was being charged just then may be in the ledger."


def be_ready(home: SiteHome) -> None:
    """Prepare the file that the emergency stop renames, while there is disk space."""
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
                "sent cannot be recalled. Then make room on the disk or mount it, and stop again",
            ) from error
        return
    with suppress(OSError):  # stopped; only the time is unknown
        write_private(path, found.to_bytes())


def resume(home: SiteHome) -> None:
    """End the stop. Raises RefusedError if there is none."""
    with home.snapshot_lock():
        if halted(home) is None:
            raise RefusedError("there is nothing to resume: the emergency stop is not on")
        home.record("all-resumed")
        (home.directory / _FILE).rename(home.directory / _READY)


def refuse_halted(home: SiteHome) -> None:
    """Check the emergency stop. Raises RefusedError while it is on."""
    found = halted(home)
    if found is not None:
        raise RefusedError(f"everything is stopped here since {found.time}", hint="flo site resume")
