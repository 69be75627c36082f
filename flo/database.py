"""SQLite as FLO uses it: one private file, flushed at every commit, its schema stated."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from flo.errors import TrustError, UsageError

_META = "CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;"


def open_database(path: Path, tables: str, *, schema: int, what: str) -> sqlite3.Connection:
    """Open, or create for its owner only (0600), with these tables. Threads may share it.

    Raises:
        UsageError: a file of another schema; ``what`` names it. TrustError: it is damaged.
    """
    with suppress(FileExistsError):
        # Only a file that nobody has open yet: closing one ends this process's locks on it.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    db = sqlite3.connect(path, isolation_level=None, timeout=30, check_same_thread=False)
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.executescript(_META + tables)
        db.execute("INSERT OR IGNORE INTO meta VALUES ('schema', ?)", (str(schema),))
        (found,) = db.execute("SELECT value FROM meta WHERE name = 'schema'").fetchone()
    except sqlite3.DatabaseError as error:
        db.close()
        if isinstance(error, sqlite3.OperationalError):  # locked, full, read-only: no damage
            raise
        raise damaged(path, error) from error
    if found != str(schema):
        db.close()
        raise UsageError(f"{path} has {what} schema {found}; this version reads {schema}")
    return db


def damaged(path: Path, error: sqlite3.DatabaseError) -> TrustError:
    """What to say of a file that SQLite cannot read."""
    return TrustError(
        f"{path} is damaged: {error}",
        hint="restore the folder from its newest backup: flo site restore, flo coordinator restore",
    )


@contextmanager
def writing(db: sqlite3.Connection) -> Iterator[None]:
    """All or nothing, and nobody else writes meanwhile."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:  # when interrupted, too: a transaction must not stay open
        db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")
