"""The ledger on disk: SQLite tables, flushed on every commit. Stores and finds; makes no decision.

``synchronous=FULL`` on a write-ahead log: committed data survive a crash of the machine. Rows are
only inserted, never changed. Rules are in ``flo.privacy.ledger.rows``, decisions in
``flo.privacy.ledger.ledger``.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from flo.documents import canonical
from flo.errors import TrustError
from flo.keys.claims import LedgerHead, RunKey
from flo.privacy.ledger.balance import number_after
from flo.privacy.ledger.rows import LedgerRow
from flo.storage.database import open_database, writing

SCHEMA_VERSION = 1
WITH_GENERATIONS = 2  # once a patient is of a numbered one, versions that know none refuse the file
_TABLES = """
CREATE TABLE IF NOT EXISTS rows (
  sequence INTEGER PRIMARY KEY, public TEXT NOT NULL, private TEXT NOT NULL, salt TEXT NOT NULL,
  commitment TEXT NOT NULL, hash TEXT NOT NULL, signature TEXT NOT NULL,
  request TEXT UNIQUE) STRICT;
CREATE TABLE IF NOT EXISTS patients (
  hash TEXT NOT NULL, population TEXT NOT NULL, PRIMARY KEY (hash, population)) STRICT;
CREATE TABLE IF NOT EXISTS generations (
  row INTEGER NOT NULL, hash TEXT NOT NULL, population TEXT NOT NULL, generation INTEGER NOT NULL,
  PRIMARY KEY (row, hash), UNIQUE (population, hash)) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS salts (row INTEGER PRIMARY KEY, salt TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS present (
  hash TEXT NOT NULL, population TEXT NOT NULL, PRIMARY KEY (hash, population)) STRICT;
CREATE TABLE IF NOT EXISTS witnessed (
  hospital TEXT PRIMARY KEY, sequence INTEGER NOT NULL, hash TEXT NOT NULL,
  signature TEXT NOT NULL, public TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS run_keys (
  study TEXT NOT NULL, run TEXT NOT NULL, hospital TEXT NOT NULL, epoch INTEGER NOT NULL,
  key TEXT NOT NULL, PRIMARY KEY (study, run, hospital)) STRICT;
"""


class LedgerFile:
    """One open ledger file. Several processes may share it; writers take turns."""

    def __init__(self, path: Path) -> None:
        """Open or create. Raises UsageError for a ledger of a later version."""
        self._db = open_database(
            path, _TABLES, schema=SCHEMA_VERSION, latest=WITH_GENERATIONS, what="ledger"
        )

    def close(self) -> None:
        """Close this connection; other processes keep theirs."""
        self._db.close()

    def writing(self) -> AbstractContextManager[None]:
        """Open an exclusive write transaction, which is committed whole or rolled back."""
        return writing(self._db)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Let all that is read within be of one moment."""
        self._db.execute("BEGIN")
        try:
            yield
        finally:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")  # nothing was written

    def rows(self, after: int, previous: str) -> Iterator[LedgerRow]:
        """Yield the rows after ``after``, each checked to follow the one before.

        ``previous``: hash of row ``after``.

        Raises:
            TrustError: a row was edited, removed or reordered.
        """
        for sequence, public, private, request, *rest in self._db.execute(
            "SELECT sequence, public, private, request, salt, commitment, hash, signature"
            " FROM rows WHERE sequence > ? ORDER BY sequence",
            (after,),
        ):
            said = _parsed(public, after + 1)
            after = number_after(after, said)
            row = LedgerRow(sequence, said, _parsed(private, after), *rest)
            row.check_bytes(previous, after, public.encode(), private.encode())
            if row.private is None or row.private.get("request") != _request_digest(request):
                raise TrustError(f"ledger row {after} was edited (the request that it answers)")
            previous = row.hash
            yield row

    def insert(self, row: LedgerRow, request: str | None) -> None:
        """Insert a row. Raises TrustError if ``request`` was answered before."""
        parts = (canonical.encode(part).decode() for part in (row.public, row.private))
        chained = (row.salt, row.commitment, row.hash, row.signature)
        try:
            self._db.execute(
                "INSERT INTO rows VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (row.sequence, *parts, *chained, request),
            )
        except sqlite3.IntegrityError as error:
            raise TrustError(
                "this request was answered before, and no request is computed twice"
            ) from error

    def hash_at(self, sequence: int) -> str | None:
        """Return the hash of the row of that number; None if it is not written yet, or was lost."""
        found = self._db.execute("SELECT hash FROM rows WHERE sequence = ?", (sequence,)).fetchone()
        return found[0] if found else None

    def answered(self, request: str) -> tuple[int, dict[str, Any]] | None:
        """Return number and private part of the row that answered this request, or None."""
        found = self._db.execute(
            "SELECT sequence, private FROM rows WHERE request = ?", (request,)
        ).fetchone()
        return (found[0], json.loads(found[1])) if found else None

    def add_patients(self, population: str, hashes: Collection[str]) -> int:
        """Store keyed hashes of patients. Returns how many of them are in another population."""
        self._db.execute("CREATE TEMP TABLE IF NOT EXISTS incoming (hash TEXT PRIMARY KEY)")
        self._db.execute("DELETE FROM incoming")
        self._db.executemany("INSERT INTO incoming VALUES (?)", [(h,) for h in hashes])
        others = {
            patient
            for (patient,) in self._db.execute(
                "SELECT hash FROM incoming JOIN patients USING (hash) WHERE population != ?",
                (population,),
            )
        }
        for _, _, members in self.generations():
            others.update(who for where, who, _ in members if where != population)
        overlap = len(others.intersection(hashes))
        self._db.execute(
            "INSERT OR IGNORE INTO patients SELECT hash, ? FROM incoming", (population,)
        )
        return overlap

    def patients(self, population: str) -> dict[str, int | None]:
        """Return each known patient's generation; None if no row gave them one."""
        known: dict[str, int | None] = dict(
            self._db.execute("SELECT hash, NULL FROM patients WHERE population = ?", (population,))
        )
        for _, _, members in self.generations():  # what the digests cover; an index could differ
            known.update((who, number) for where, who, number in members if where == population)
        return known

    def add_generation(
        self, row: int, population: str, salt: str, patients: Collection[tuple[str, int]]
    ) -> None:
        """Store patients to whom a row gives a generation, for ever."""
        self._db.execute("INSERT INTO salts VALUES (?, ?)", (row, salt))
        self._db.executemany(
            "INSERT INTO generations VALUES (?, ?, ?, ?)",
            [(row, patient, population, generation) for patient, generation in patients],
        )

    def refuse_older_versions(self) -> None:
        """Mark the file as one of ``WITH_GENERATIONS``."""
        self._db.execute(
            "UPDATE meta SET value = ? WHERE name = 'schema'", (str(WITH_GENERATIONS),)
        )

    def generations(self) -> Iterator[tuple[int, str, list[tuple[str, str, int]]]]:
        """Yield row, salt ("" if missing) and (population, patient, generation) by patient."""
        salts = dict(self._db.execute("SELECT row, salt FROM salts"))
        members = self._db.execute(
            "SELECT row, population, hash, generation FROM generations ORDER BY row, hash"
        )
        for row, group in groupby(members, key=itemgetter(0)):
            yield row, salts.pop(row, ""), [(where, who, number) for _, where, who, number in group]
        for row, salt in salts.items():  # of rows that gave nobody a generation
            yield row, salt, []

    def keep_present(self, population: str, hashes: Collection[str]) -> None:
        """Replace the patients who were in the data at the last approval."""
        self._db.execute("DELETE FROM present WHERE population = ?", (population,))
        self._db.executemany(
            "INSERT INTO present VALUES (?, ?)", [(patient, population) for patient in hashes]
        )

    def present(self, population: str) -> set[str]:
        """Return the patients who were in the data at the last approval; empty if not kept."""
        found = self._db.execute("SELECT hash FROM present WHERE population = ?", (population,))
        return {patient for (patient,) in found}

    def last_answer(self, prefix: str) -> tuple[int, str] | None:
        """Return number and request of the last row whose request starts with ``prefix``/."""
        found: tuple[int, str] | None = self._db.execute(
            "SELECT sequence, request FROM rows WHERE request > ? AND request < ?"
            " ORDER BY sequence DESC LIMIT 1",
            (f"{prefix}/", f"{prefix}0"),  # 0 follows / in ASCII
        ).fetchone()
        return found

    def witness(self, head: LedgerHead) -> None:
        """Store the highest head seen of its signer.

        The key is the signer's fingerprint, as two studies may name different keys for one hospital
        id; FLO 0.1 wrote the id in that column.
        """
        self._db.execute(
            "INSERT INTO witnessed VALUES (?, ?, ?, ?, ?) ON CONFLICT (hospital) DO UPDATE SET"
            " sequence = excluded.sequence, hash = excluded.hash, signature = excluded.signature,"
            " public = excluded.public WHERE excluded.sequence > witnessed.sequence",
            (head.fingerprint, head.sequence, head.hash, head.signature, head.public),
        )

    def witnessed(self) -> dict[str, LedgerHead]:
        """Return fingerprint -> the highest head seen of it."""
        heads = [
            LedgerHead(sequence=sequence, hash=hash_, signature=signature, public=public)
            for sequence, hash_, signature, public in self._db.execute(
                "SELECT sequence, hash, signature, public FROM witnessed ORDER BY sequence"
            )
        ]
        return {head.fingerprint: head for head in heads}

    def latest_run_key(self, study: str, run: str, hospital: str) -> tuple[int, str] | None:
        """Return epoch and key, or None if this partner has shown none for this run."""
        found: tuple[int, str] | None = self._db.execute(
            "SELECT epoch, key FROM run_keys WHERE study = ? AND run = ? AND hospital = ?",
            (study, run, hospital),
        ).fetchone()
        return found

    def keep_run_key(self, study: str, run: str, hospital: str, key: RunKey) -> None:
        """Replace a partner's stored run key; the caller compares epochs."""
        self._db.execute(
            "INSERT OR REPLACE INTO run_keys VALUES (?, ?, ?, ?, ?)",
            (study, run, hospital, key.epoch, key.key),
        )


def request_fields(request: str | None) -> dict[str, str]:
    """Return the fields of a row's private part that identify the request."""
    digest = _request_digest(request)
    return {} if digest is None else {"request": digest}


def _request_digest(request: str | None) -> str | None:
    return None if request is None else canonical.digest(request.encode())


def _parsed(text: str, sequence: int) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:  # a damaged page may hold a number
        raise TrustError(f"ledger row {sequence} was edited") from error
    if not isinstance(document, dict):
        raise TrustError(f"ledger row {sequence} was edited")
    return document
