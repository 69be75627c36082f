"""SQLite as FLO uses it: one private file, flushed at every commit, with its schema version."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from flo.errors import TrustError, UsageError
from flo.host.machine_errors import RESTORE, is_damage

_META = "CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;"


def open_database(
    path: Path, tables: str, *, schema: int, what: str, latest: int | None = None
) -> sqlite3.Connection:
    """Open a database with these tables, or create it for its owner only (0600). Threads may share
    it.

    ``schema``: of a new file. ``latest``: the last that is read, if that is a later one.

    Raises:
        UsageError: it has another schema (``what`` names the file's kind), is not writable by us,
        or the disk is full. TrustError: it is damaged.
    """
    try:
        with suppress(FileExistsError):
            # Only for a new file: closing an open database would end this process's locks on it.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        db = sqlite3.connect(path, isolation_level=None, timeout=30, check_same_thread=False)
    except (OSError, sqlite3.Error) as error:
        raise unusable(path, error) from error
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.executescript(_META + tables)
        db.execute("INSERT OR IGNORE INTO meta VALUES ('schema', ?)", (str(schema),))
        (found,) = db.execute("SELECT value FROM meta WHERE name = 'schema'").fetchone()
    except sqlite3.Error as error:
        db.close()
        raise unusable(path, error) from error
    if not str(found).isdecimal():
        db.close()
        raise TrustError(f"{path} is damaged: it has no schema", hint=RESTORE)
    if not schema <= int(found) <= (latest or schema):
        db.close()
        read = f"{schema} to {latest}" if latest else str(schema)
        raise UsageError(f"{path} has {what} schema {found}; this version reads {read}")
    return db


def unusable(path: Path, error: OSError | sqlite3.Error) -> UsageError | TrustError:
    """Return the error for a file that SQLite cannot use: damaged, or intact but inaccessible."""
    if isinstance(error, sqlite3.Error) and is_damage(error):
        return TrustError(f"{path} is damaged: {error}", hint=RESTORE)
    why = error.strerror if isinstance(error, OSError) else str(error)
    return UsageError(
        f"{path} cannot be used: {why}",
        hint="it is not damaged: chown it to this user, free disk space, or mount it writable",
    )


def refuse_damaged(path: Path) -> None:
    """Read every page of an existing database. Raises TrustError or UsageError."""
    try:
        place = f"{path.resolve().as_uri()}?mode=ro"
        with closing(sqlite3.connect(place, uri=True, timeout=30)) as db:
            found = [str(row[0]) for row in db.execute("PRAGMA quick_check(1)")]
    except sqlite3.Error as error:
        raise unusable(path, error) from error
    if found != ["ok"]:
        raise TrustError(f"{path} is damaged: {found[0][:200]}", hint=RESTORE)


@contextmanager
def writing(db: sqlite3.Connection) -> Iterator[None]:
    """Run a transaction: all of it is written or none, and other writers wait."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:  # also on interrupts: a transaction must not stay open
        db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")
