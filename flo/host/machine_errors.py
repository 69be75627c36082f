"""Errors of the machine itself, such as a full disk or a damaged file, with hints for people.

Any line that reads or writes can raise such an error, and FLO is not its cause.
"""

from __future__ import annotations

import errno
import re
import sqlite3

from flo.errors import FloError, TrustError, UsageError

_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
# An undamaged file has all of FLO's tables, and all its text can be decoded.
_DAMAGE = re.compile("no such (table|column|index)|malformed|file format|decode to UTF-8")
RESTORE = (
    "move the folder away and restore its newest backup: flo site restore, flo coordinator "
    "restore; if there is none, create the folder again"
)
_WAYS_OUT = {
    errno.ENOSPC: "free space on that disk (df -h, df -i), and try again",
    errno.EDQUOT: "free space within this user's quota, and try again",
    errno.EFBIG: "raise the limit on file size (ulimit -f), and try again",
    errno.EROFS: "mount that disk writable, and try again; the kernel's log has the reason",
    errno.EMFILE: "raise the limit on open files (ulimit -n, LimitNOFILE= in the unit)",
    errno.ENFILE: "raise the machine's limit on open files (fs.file-max), or end what holds them",
    errno.EIO: "the disk fails: read the kernel's log before you write anything else to it",
    errno.ENOMEM: "free memory on this machine, and try again",
}
_SQLITE_WAYS_OUT = {
    sqlite3.SQLITE_FULL: _WAYS_OUT[errno.ENOSPC],
    sqlite3.SQLITE_READONLY: "give the folder back to its owner (chown), or mount it writable",
    sqlite3.SQLITE_CANTOPEN: "check that the file exists, belongs to this user and can be opened",
    sqlite3.SQLITE_IOERR: _WAYS_OUT[errno.EIO],
    sqlite3.SQLITE_NOMEM: _WAYS_OUT[errno.ENOMEM],
    sqlite3.SQLITE_BUSY: "another process has locked the file: end it or wait, and try again",
    sqlite3.SQLITE_LOCKED: "another process has locked the file: end it or wait, and try again",
}


def is_damage(error: BaseException) -> bool:
    """Return whether SQLite reports that a file is damaged."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the other bits name the operation
    return code in _DAMAGED or _DAMAGE.search(str(error)) is not None


def of_the_machine(error: BaseException) -> FloError | None:
    """Return the error with a hint; None if the machine did not cause it."""
    if isinstance(error, sqlite3.Error):
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if is_damage(error):
            return TrustError(
                f"a database is damaged: {error}", hint=f"flo doctor names the file; {RESTORE}"
            )
        if code in _SQLITE_WAYS_OUT:
            return UsageError(f"a database cannot be used: {error}", hint=_SQLITE_WAYS_OUT[code])
    if isinstance(error, OSError) and error.errno in _WAYS_OUT:
        place = f"{error.filename}: " if error.filename else ""
        return UsageError(f"{place}{error.strerror}", hint=_WAYS_OUT[error.errno])
    if isinstance(error, MemoryError):
        return UsageError("no memory is left", hint=_WAYS_OUT[errno.ENOMEM])
    return None
