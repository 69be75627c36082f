"""The coordinator's SQLite file: its tables, and how they are read and written.

Several processes use it: the coordinator, the ServerApps of local runs, and commands.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flo.storage.database import open_database, writing

_TABLES = """
CREATE TABLE IF NOT EXISTS invitations (
  serial TEXT PRIMARY KEY, hospital TEXT NOT NULL, used INTEGER NOT NULL DEFAULT 0) STRICT;
CREATE TABLE IF NOT EXISTS hospitals (
  id TEXT PRIMARY KEY, public BLOB NOT NULL, fingerprint TEXT NOT NULL, serial TEXT NOT NULL,
  revoked INTEGER NOT NULL DEFAULT 0, node INTEGER, connections INTEGER NOT NULL DEFAULT 0,
  enrolled TEXT NOT NULL, earlier TEXT, certified TEXT) STRICT;
CREATE TABLE IF NOT EXISTS roster (number INTEGER PRIMARY KEY, entry BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS roster_statements (
  hospital TEXT PRIMARY KEY, statement BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS studies (
  digest TEXT PRIMARY KEY, document BLOB NOT NULL, signature TEXT NOT NULL,
  status TEXT NOT NULL, created TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS drafts (
  id TEXT PRIMARY KEY, document TEXT NOT NULL, person TEXT NOT NULL, time TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS approvals (
  study TEXT NOT NULL, hospital TEXT NOT NULL, document TEXT NOT NULL, signature TEXT NOT NULL,
  PRIMARY KEY (study, hospital)) STRICT;
CREATE TABLE IF NOT EXISTS given (
  study TEXT NOT NULL, hospital TEXT NOT NULL, document TEXT NOT NULL, signature TEXT NOT NULL,
  PRIMARY KEY (study, hospital)) STRICT;
CREATE TABLE IF NOT EXISTS declined (
  study TEXT NOT NULL, hospital TEXT NOT NULL, sequence INTEGER NOT NULL,
  PRIMARY KEY (study, hospital)) STRICT;
CREATE TABLE IF NOT EXISTS runs (
  id TEXT PRIMARY KEY, study TEXT NOT NULL, status TEXT NOT NULL, state BLOB, started TEXT NOT NULL,
  stop INTEGER NOT NULL DEFAULT 0, result TEXT, launch INTEGER NOT NULL DEFAULT 0) STRICT;
CREATE TABLE IF NOT EXISTS jobs (
  name TEXT PRIMARY KEY, run TEXT NOT NULL, number INTEGER NOT NULL, created TEXT NOT NULL,
  opened INTEGER NOT NULL DEFAULT 0) STRICT;
CREATE TABLE IF NOT EXISTS model_states (name TEXT PRIMARY KEY, document BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS salts (study TEXT PRIMARY KEY, salt BLOB) STRICT;
CREATE TABLE IF NOT EXISTS events (
  number INTEGER PRIMARY KEY, study TEXT, time TEXT NOT NULL, kind TEXT NOT NULL,
  facts TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS heads (
  hospital TEXT PRIMARY KEY, sequence INTEGER NOT NULL, hash TEXT NOT NULL,
  signature TEXT NOT NULL, public TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS study_heads (
  study TEXT NOT NULL, hospital TEXT NOT NULL, sequence INTEGER NOT NULL, hash TEXT NOT NULL,
  signature TEXT NOT NULL, public TEXT NOT NULL, PRIMARY KEY (study, hospital)) STRICT;
CREATE UNIQUE INDEX IF NOT EXISTS one_run_a_study ON runs (study) WHERE status = 'running';
CREATE TABLE IF NOT EXISTS extracts (
  study TEXT NOT NULL, hospital TEXT NOT NULL, document BLOB NOT NULL,
  PRIMARY KEY (study, hospital)) STRICT;
"""


class Tables:
    """One SQLite file. A lock makes it thread-safe, SQLite makes it process-safe."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.RLock()
        self._db = open_database(path, _TABLES, schema=1, what="coordinator")
        self._db.execute("PRAGMA secure_delete = ON")  # deleted content is overwritten
        self._add_column("hospitals", "earlier TEXT")  # since FLO 0.2
        self._add_column("hospitals", "certified TEXT")  # since FLO 0.5
        self._add_column("runs", "launch INTEGER NOT NULL DEFAULT 0")  # since FLO 0.3
        self._add_column("studies", "place TEXT NOT NULL DEFAULT 'here'")  # since FLO 0.4
        self._db.execute("INSERT OR IGNORE INTO given SELECT * FROM approvals")  # from FLO 0.2

    def close(self) -> None:
        """Close this connection; all writes are on disk already."""
        self._db.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock, writing(self._db):
            yield

    def _add_column(self, table: str, column: str) -> None:
        """Add a column that files of earlier versions lack."""
        there = {row[1] for row in self._db.execute(f"PRAGMA table_info({table})")}
        if column.split()[0] not in there:
            self._db.execute(f"ALTER TABLE {table} ADD COLUMN {column}")

    def _write(self, statement: str, *values: object) -> None:
        with self._lock:
            self._db.execute(statement, values)

    def _one(self, statement: str, *values: object) -> tuple[Any, ...] | None:
        with self._lock:
            found: tuple[Any, ...] | None = self._db.execute(statement, values).fetchone()
            return found

    def _all(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._db.execute(statement, values).fetchall()


def now() -> str:
    """Return the time in UTC to the millisecond, ISO 8601; its text sorts by time."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
