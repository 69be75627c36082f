"""The coordinator's durable state in SQLite: hospitals, studies, approvals, runs, heads, extracts.

Flower's own state lives in memory and is rebuilt from here after a restart. This module stores and
finds; it decides nothing. Two processes use it: the coordinator and the ServerApp of a run.
"""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flo import canonical
from flo.claims import Head
from flo.database import open_database, writing
from flo.errors import RefusedError, TrustError
from flo.study import Study, from_canonical

_TABLES = """
CREATE TABLE IF NOT EXISTS invitations (
  serial TEXT PRIMARY KEY, hospital TEXT NOT NULL, used INTEGER NOT NULL DEFAULT 0) STRICT;
CREATE TABLE IF NOT EXISTS hospitals (
  id TEXT PRIMARY KEY, public BLOB NOT NULL, fingerprint TEXT NOT NULL, serial TEXT NOT NULL,
  revoked INTEGER NOT NULL DEFAULT 0, node INTEGER, connections INTEGER NOT NULL DEFAULT 0,
  enrolled TEXT NOT NULL, earlier TEXT) STRICT;
CREATE TABLE IF NOT EXISTS studies (
  digest TEXT PRIMARY KEY, document BLOB NOT NULL, signature TEXT NOT NULL,
  status TEXT NOT NULL, created TEXT NOT NULL) STRICT;
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
CREATE TABLE IF NOT EXISTS events (
  number INTEGER PRIMARY KEY, study TEXT, time TEXT NOT NULL, kind TEXT NOT NULL,
  facts TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS heads (
  hospital TEXT PRIMARY KEY, sequence INTEGER NOT NULL, hash TEXT NOT NULL,
  signature TEXT NOT NULL, public TEXT NOT NULL) STRICT;
CREATE UNIQUE INDEX IF NOT EXISTS one_run_a_study ON runs (study) WHERE status = 'running';
CREATE TABLE IF NOT EXISTS extracts (
  study TEXT NOT NULL, hospital TEXT NOT NULL, document BLOB NOT NULL,
  PRIMARY KEY (study, hospital)) STRICT;
"""


_SELECT_MEMBER = "SELECT id, public, fingerprint, serial, revoked, node, earlier FROM hospitals"


@dataclass(frozen=True)
class Member:
    """An enrolled hospital. ``earlier``: serial of the certificate before a renewal, until the new
    one is shown."""

    id: str
    public: bytes
    fingerprint: str
    serial: str
    revoked: bool
    node: int | None
    earlier: str | None = None


@dataclass(frozen=True)
class Offer:
    """A signed study and how far it is: offered, running, paused, done, stopped or ended."""

    study: Study
    signature: str
    status: str


@dataclass(frozen=True)
class RunRecord:
    id: str
    study: str
    status: str
    state: bytes | None
    result: dict[str, Any] | None


class Store:
    """One SQLite file; thread-safe by one lock, process-safe by SQLite."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.RLock()
        self._db = open_database(path, _TABLES, schema=1, what="coordinator")
        self._add_column("hospitals", "earlier TEXT")  # since FLO 0.2
        self._add_column("runs", "launch INTEGER NOT NULL DEFAULT 0")  # since FLO 0.3
        self._db.execute("INSERT OR IGNORE INTO given SELECT * FROM approvals")  # of FLO 0.2

    def close(self) -> None:
        self._db.close()

    # -- hospitals -------------------------------------------------------------------------------

    def add_invitation(self, serial: str, hospital: str) -> None:
        self._write("INSERT INTO invitations (serial, hospital) VALUES (?, ?)", serial, hospital)

    def invited(self, serial: str, hospital: str) -> bool:
        """Whether this invitation is still good for this hospital."""
        found = self._one(
            "SELECT used FROM invitations WHERE serial = ? AND hospital = ?", serial, hospital
        )
        return found is not None and not found[0]

    def enrol(self, invitation: str, member: Member) -> bool:
        """Use up the invitation and keep the hospital, in one step. False if it was used.

        All other invitations of the hospital end with it.

        Raises:
            TrustError: the key is enrolled for another hospital.
        """
        with self._transaction():
            if self._db.execute(
                "SELECT 1 FROM hospitals WHERE fingerprint = ? AND id != ?",
                (member.fingerprint, member.id),
            ).fetchone():
                raise TrustError("this key is enrolled for another hospital")
            used = self._db.execute(
                "UPDATE invitations SET used = 1 WHERE serial = ? AND hospital = ? AND used = 0",
                (invitation, member.id),
            )
            if used.rowcount != 1:
                return False
            self._end_invitations(member.id)
            self._db.execute(
                "INSERT INTO hospitals VALUES (?, ?, ?, ?, 0, NULL, 0, ?, NULL) ON CONFLICT (id) DO"
                " UPDATE SET public = excluded.public, fingerprint = excluded.fingerprint,"
                " serial = excluded.serial, revoked = 0, node = NULL, enrolled = excluded.enrolled,"
                " earlier = NULL",
                (member.id, member.public, member.fingerprint, member.serial, _now()),
            )
            self._db.execute(  # of an earlier key
                "DELETE FROM heads WHERE hospital = ? AND public != ?",
                (member.id, member.public.hex()),
            )
        return True

    def renew(self, hospital: str, serial: str) -> None:
        """A new certificate for the enrolled key; the earlier one is good until it is shown."""
        self._write(
            "UPDATE hospitals SET earlier = coalesce(earlier, serial), serial = ? WHERE id = ?",
            serial,
            hospital,
        )

    def drop_earlier(self, hospital: str) -> None:
        """The renewed certificate was shown: the one before it opens nothing any more."""
        self._write("UPDATE hospitals SET earlier = NULL WHERE id = ?", hospital)

    def members(self) -> list[Member]:
        rows = self._all(_SELECT_MEMBER + " ORDER BY id")
        return [_member(row) for row in rows]

    def member(self, hospital: str) -> Member | None:
        row = self._one(_SELECT_MEMBER + " WHERE id = ?", hospital)
        return _member(row) if row else None

    def revoke(self, hospital: str) -> bool:
        """Refuse this hospital from its next request on. False if it is not enrolled.

        What it was invited with before opens nothing either; only a new invitation does.
        """
        with self._transaction():
            self._end_invitations(hospital)
            changed = self._db.execute("UPDATE hospitals SET revoked = 1 WHERE id = ?", (hospital,))
            return changed.rowcount == 1

    def end_all_invitations(self) -> None:
        """No invitation that is out opens anything any more."""
        self._write("UPDATE invitations SET used = 1")

    def _end_invitations(self, hospital: str) -> None:
        self._db.execute("UPDATE invitations SET used = 1 WHERE hospital = ?", (hospital,))

    def set_node(self, public: bytes, node: int) -> None:
        """Keep Flower's node id of this key, if a hospital is enrolled with it (still)."""
        # Flower's node ids are unsigned 64-bit numbers; SQLite's integers are signed.
        self._write("UPDATE hospitals SET node = ? WHERE public = ?", node - (1 << 63), public)

    def nodes(self) -> dict[str, int]:
        """Hospital id -> Flower's node id of this start, for hospitals that are not revoked."""
        return {
            member.id: member.node + (1 << 63)
            for member in self.members()
            if member.node is not None and not member.revoked
        }

    def add_connection(self, hospital: str) -> None:
        """Take note that this hospital's agent connected."""
        self._write("UPDATE hospitals SET connections = connections + 1 WHERE id = ?", hospital)

    def connections(self) -> dict[str, int]:
        """Hospital id -> how often its agent has connected."""
        return dict(self._all("SELECT id, connections FROM hospitals"))

    # -- studies and approvals -------------------------------------------------------------------

    def add_study(self, study: Study, signature: str) -> None:
        self._write(
            "INSERT OR IGNORE INTO studies VALUES (?, ?, ?, 'offered', ?)",
            study.digest,
            study.canonical_bytes,
            signature,
            _now(),
        )

    def offers(self) -> list[Offer]:
        rows = self._all("SELECT document, signature, status FROM studies ORDER BY created")
        return [Offer(from_canonical(bytes(r[0])), r[1], r[2]) for r in rows]

    def offer(self, digest: str) -> Offer | None:
        return next((offer for offer in self.offers() if offer.study.digest == digest), None)

    def set_status(self, digest: str, status: str) -> None:
        self._write("UPDATE studies SET status = ? WHERE digest = ?", status, digest)

    def add_approval(
        self, study: str, hospital: str, document: bytes, signature: str, sequence: int
    ) -> bool:
        """``sequence``: of the ledger head in it. False if it is no newer than a no of theirs."""
        with self._transaction():
            said_no = self._db.execute(
                "SELECT 1 FROM declined WHERE study = ? AND hospital = ? AND sequence >= ?",
                (study, hospital, sequence),
            ).fetchone()
            if said_no:
                return False
            row = (study, hospital, document.decode(), signature)
            self._db.execute("INSERT OR REPLACE INTO approvals VALUES (?, ?, ?, ?)", row)
            self._db.execute("INSERT OR REPLACE INTO given VALUES (?, ?, ?, ?)", row)
        return True

    def drop_approval(self, study: str, hospital: str, sequence: int) -> None:
        """The hospital said no, or no longer, when its ledger's head was this one."""
        with self._transaction():
            self._db.execute(
                "DELETE FROM approvals WHERE study = ? AND hospital = ?", (study, hospital)
            )
            self._db.execute(
                "INSERT INTO declined VALUES (?, ?, ?) ON CONFLICT (study, hospital) DO UPDATE SET"
                " sequence = max(sequence, excluded.sequence)",
                (study, hospital, sequence),
            )

    def given(self, hospital: str, after: str, most: int) -> list[tuple[str, str, str]]:
        """Approvals that a hospital ever gave: study, decision and signature, by study digest.

        By whatever key it had then, and also those that it withdrew: a hospital that restores a
        backup has to know them.
        """
        return [
            (bytes(row[0]).decode(), row[1], row[2])
            for row in self._all(
                "SELECT studies.document, given.document, given.signature FROM given"
                " JOIN studies ON studies.digest = given.study"
                " WHERE hospital = ? AND study > ? ORDER BY study LIMIT ?",
                hospital,
                after,
                most,
            )
        ]

    def approvals(self, study: str) -> list[str]:
        """Hospitals that approve, as things stand."""
        rows = self._all("SELECT hospital FROM approvals WHERE study = ? ORDER BY hospital", study)
        return [row[0] for row in rows]

    # -- runs ------------------------------------------------------------------------------------

    def start_run(self, run: str, study: str) -> bool:
        """Turn an offered study into a running one with this run, or neither. False if it ran."""
        with self._transaction():
            changed = self._db.execute(
                "UPDATE studies SET status = 'running' WHERE digest = ? AND status = 'offered'",
                (study,),
            )
            if changed.rowcount != 1:
                return False
            self._db.execute(
                "INSERT INTO runs (id, study, status, started) VALUES (?, ?, 'running', ?)",
                (run, study, _now()),
            )
        return True

    def runs(self) -> list[RunRecord]:
        """All runs, the oldest first, without their states, which may be large."""
        rows = self._all("SELECT id, study, status, NULL, result FROM runs ORDER BY started")
        return [_run(row) for row in rows]

    def run(self, run: str) -> RunRecord | None:
        row = self._one("SELECT id, study, status, state, result FROM runs WHERE id = ?", run)
        return _run(row) if row else None

    def last_run(self, study: str) -> RunRecord | None:
        """The latest run of a study, without its state, which may be large."""
        return next((record for record in reversed(self.runs()) if record.study == study), None)

    def take_run(self, run: str) -> int:
        """The number of this launch of a run; whoever holds an earlier one writes no more.

        A process of an earlier launch may outlive the coordinator that started it.
        """
        with self._transaction():
            self._db.execute("UPDATE runs SET launch = launch + 1 WHERE id = ?", (run,))
            (launch,) = self._db.execute("SELECT launch FROM runs WHERE id = ?", (run,)).fetchone()
        return int(launch)

    def save_state(self, run: str, launch: int, state: bytes) -> None:
        """Raises RefusedError if the run goes on elsewhere."""
        self._write_as(run, launch, "state = ?", state)

    def pause_run(self, run: str, launch: int) -> None:
        """It can go on later, from its saved state. Raises RefusedError like ``save_state``."""
        self._write_as(run, launch, "status = 'paused'")

    def end_run(self, run: str, launch: int, status: str, result: dict[str, Any]) -> None:
        """It is over. Raises RefusedError like ``save_state``."""
        text = canonical.encode(result).decode()
        self._write_as(run, launch, "status = ?, result = ?", status, text)

    def _write_as(self, run: str, launch: int, what: str, *values: Any) -> None:
        with self._transaction():
            changed = self._db.execute(
                f"UPDATE runs SET {what} WHERE id = ? AND launch = ? AND status = 'running'",  # noqa: S608
                (*values, run, launch),
            )
            if changed.rowcount != 1:
                raise RefusedError(f"run {run} is over here, or goes on elsewhere")

    def resume_run(self, run: str) -> None:
        """A paused run and its study go on."""
        with self._transaction():
            self._db.execute("UPDATE runs SET status = 'running' WHERE id = ?", (run,))
            self._db.execute(
                "UPDATE studies SET status = 'running' WHERE digest ="
                " (SELECT study FROM runs WHERE id = ?)",
                (run,),
            )

    def request_stop(self, study: str) -> bool:
        """False if no run of the study is under way."""
        with self._transaction():
            changed = self._db.execute(
                "UPDATE runs SET stop = 1 WHERE study = ? AND status IN ('running', 'paused')",
                (study,),
            )
            return changed.rowcount > 0

    def stop_requested(self, run: str) -> bool:
        found = self._one("SELECT stop FROM runs WHERE id = ?", run)
        return bool(found and found[0])

    # -- events, heads, extracts -----------------------------------------------------------------

    def add_event(self, study: str | None, kind: str, **facts: object) -> None:
        self._write(
            "INSERT INTO events (study, time, kind, facts) VALUES (?, ?, ?, ?)",
            study,
            _now(),
            kind,
            canonical.encode(facts).decode(),
        )

    def events(self, study: str, after: int = 0) -> list[dict[str, Any]]:
        rows = self._all(
            "SELECT number, time, kind, facts FROM events WHERE study = ? AND number > ?"
            " ORDER BY number LIMIT 1000",
            study,
            after,
        )
        return [
            {"number": row[0], "time": row[1], "kind": row[2], "facts": json.loads(row[3])}
            for row in rows
        ]

    def events_after(self, number: int) -> list[tuple[int, str, str, str | None, dict[str, Any]]]:
        """Up to 1000 events behind ``number``: (number, time, kind, study, facts)."""
        rows = self._all(
            "SELECT number, time, kind, study, facts FROM events WHERE number > ?"
            " ORDER BY number LIMIT 1000",
            number,
        )
        return [(row[0], row[1], row[2], row[3], json.loads(row[4])) for row in rows]

    def keep_head(self, hospital: str, head: Head) -> None:
        self._write(
            "INSERT INTO heads VALUES (?, ?, ?, ?, ?) ON CONFLICT (hospital) DO UPDATE SET"
            " sequence = excluded.sequence, hash = excluded.hash, signature = excluded.signature,"
            " public = excluded.public WHERE excluded.sequence > heads.sequence",
            hospital,
            head.sequence,
            head.hash,
            head.signature,
            head.public,
        )

    def heads(self) -> dict[str, Head]:
        return {
            row[0]: Head(sequence=row[1], hash=row[2], signature=row[3], public=row[4])
            for row in self._all("SELECT hospital, sequence, hash, signature, public FROM heads")
        }

    def add_extract(self, study: str, hospital: str, document: bytes) -> None:
        self._write("INSERT OR REPLACE INTO extracts VALUES (?, ?, ?)", study, hospital, document)

    def extracts(self, study: str) -> dict[str, bytes]:
        rows = self._all("SELECT hospital, document FROM extracts WHERE study = ?", study)
        return {row[0]: bytes(row[1]) for row in rows}

    # -- inside ----------------------------------------------------------------------------------

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock, writing(self._db):
            yield

    def _add_column(self, table: str, column: str) -> None:
        """One that an earlier version did not have."""
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


def _member(row: tuple[Any, ...]) -> Member:
    return Member(row[0], row[1], row[2], row[3], bool(row[4]), row[5], row[6])


def _run(row: tuple[Any, ...]) -> RunRecord:
    return RunRecord(row[0], row[1], row[2], row[3], json.loads(row[4]) if row[4] else None)


def new_run_id() -> str:
    """FLO's own run id, durable over Flower relaunches: time in milliseconds and a random part."""
    return f"run-{time.time_ns() // 1_000_000:x}-{secrets.token_hex(3)}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
