"""A site's ledger: append-only, hash-chained, signed rows in SQLite, flushed before a byte leaves.

Write-ahead order (the caller keeps it): write and flush the encrypted reply; ``charge`` commits
the row that names its digest; only then may a byte leave. A row without a reply is burnt. Every
decision is taken inside one ``BEGIN IMMEDIATE`` transaction, so two studies in two processes cannot
both take the last of a budget. Refusals raise before anything is written.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flo import canonical
from flo.errors import BudgetError, DataError, TrustError, UsageError
from flo.identity import Identity, verify
from flo.messages import Head, row_statement
from flo.privacy.life import LifeBudget
from flo.privacy.plan import Plan
from flo.privacy.rows import PURPOSES, ZERO_HASH, Balance, Row
from flo.study import Study, largest_delta

SCHEMA_VERSION = 1
_TABLES = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS rows (
  sequence INTEGER PRIMARY KEY, public TEXT NOT NULL, private TEXT NOT NULL, salt TEXT NOT NULL,
  commitment TEXT NOT NULL, hash TEXT NOT NULL, signature TEXT NOT NULL,
  request TEXT UNIQUE) STRICT;
CREATE TABLE IF NOT EXISTS patients (
  hash TEXT NOT NULL, population TEXT NOT NULL, PRIMARY KEY (hash, population)) STRICT;
CREATE TABLE IF NOT EXISTS witnessed (
  hospital TEXT PRIMARY KEY, sequence INTEGER NOT NULL, hash TEXT NOT NULL,
  signature TEXT NOT NULL, public TEXT NOT NULL) STRICT;
"""


@dataclass(frozen=True)
class Released:
    """A release row found again: the request it answered and the reply it named."""

    sequence: int
    model: str
    cohort: str
    reply: str


class Ledger:
    """One site's ledger. Open it once per process; several processes may share the file."""

    def __init__(self, path: Path, identity: Identity) -> None:
        """Open (or create) the ledger at ``path`` and check its whole chain and last signature.

        The chain covers every row's content; each row's own signature is checked by the auditor.

        Raises:
            TrustError: a row was edited, removed or reordered, or another key signed the last one.
        """
        self._identity = identity
        self._path = path
        created = not path.exists()
        self._db = sqlite3.connect(path, isolation_level=None, timeout=30, check_same_thread=False)
        if created:
            path.chmod(0o600)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.executescript(_TABLES)
        self._db.execute("INSERT OR IGNORE INTO meta VALUES ('schema', ?)", (str(SCHEMA_VERSION),))
        (schema,) = self._db.execute("SELECT value FROM meta WHERE name = 'schema'").fetchone()
        if schema != str(SCHEMA_VERSION):
            raise UsageError(f"{path} has ledger schema {schema}; this version reads 1")
        self._balance = Balance()
        self._last: Row | None = None
        try:
            self._catch_up()
            self._check_last_signature()
        except BaseException:
            self._db.close()
            raise

    def close(self) -> None:
        self._db.close()

    # -- reading ---------------------------------------------------------------------------------

    def balance(self) -> Balance:
        """All rows added up, as of now."""
        self._catch_up()
        return self._balance

    def head(self) -> Head:
        """The signed last row. Raises UsageError for an empty ledger."""
        self._catch_up()
        if self._last is None:
            raise UsageError("the ledger is empty", hint="register a population first")
        return Head(
            sequence=self._last.sequence,
            hash=self._last.hash,
            signature=self._last.signature,
            public=self._identity.public.hex(),
        )

    def rows(self, after: int = 0) -> Iterator[Row]:
        for record in self._db.execute(
            "SELECT sequence, public, private, request, salt, commitment, hash, signature"
            " FROM rows WHERE sequence > ? ORDER BY sequence",
            (after,),
        ):
            try:
                public, private = json.loads(record[1]), json.loads(record[2])
            except ValueError as error:
                raise TrustError(f"ledger row {record[0]} was edited") from error
            if not isinstance(public, dict) or not isinstance(private, dict):
                raise TrustError(f"ledger row {record[0]} was edited")
            if private.get("request") != _request_digest(record[3]):
                raise TrustError(f"ledger row {record[0]} was edited (which request it answers)")
            yield Row(record[0], public, private, *record[4:])

    def hash_at(self, sequence: int) -> str | None:
        found = self._db.execute("SELECT hash FROM rows WHERE sequence = ?", (sequence,)).fetchone()
        return found[0] if found else None

    def find_release(self, request: str) -> Released | None:
        """The release or repeat that answered this request key, or None."""
        found = self._db.execute(
            "SELECT sequence, private FROM rows WHERE request = ?", (request,)
        ).fetchone()
        if not found:
            return None
        private = json.loads(found[1])
        return Released(found[0], private["model"], private["cohort"], private["reply"])

    # -- deciding and writing --------------------------------------------------------------------

    def register_population(
        self,
        name: str,
        *,
        epsilon: float,
        declared_size: int,
        hold_out: float,
        private: dict[str, Any],
    ) -> LifeBudget:
        """Birth of a population's budget: (ε, δ) by the rule for its public size, for good.

        ``private`` is what else is fixed at birth and never shown: id column, key commitments,
        the steward's statement.

        Raises:
            UsageError: the population exists already (its budget cannot be born twice).
        """
        life = LifeBudget.born(epsilon, largest_delta(declared_size))
        with self._transaction():
            if name in self._balance.lives:
                raise UsageError(f"population {name!r} is registered already")
            self._append(
                {
                    "kind": "birth",
                    "population": name,
                    "epsilon": life.epsilon,
                    "delta": life.delta,
                    "order": life.order,
                    "renyi": life.renyi,
                    "declared_size": declared_size,
                    "hold_out": hold_out,
                },
                private,
            )
        return life

    def reserve(self, study: Study, population: str, patients: Collection[str] = ()) -> int:
        """Set aside the whole study (steps and allowances). Returns the reservation's row number.

        A study whose reservation is still open keeps it: reserving twice is reserving once.
        ``patients`` are keyed hashes of the snapshot's patients, remembered for good. All or
        nothing: a refusal keeps neither.

        Raises:
            BudgetError: it does not fit; says what remains and the largest ε that would.
            DataError: a patient is also in another population of this site.
        """
        plan = Plan.of(study)
        with self._transaction():
            if population not in self._balance.lives:
                raise UsageError(f"population {population!r} is not registered in this ledger")
            self._remember_patients(population, patients)
            kept = self._open_reservation(study.digest)
            if kept is not None:
                return kept
            self._refuse_what_does_not_fit(plan, study, population)
            return self._append(
                {
                    "kind": "reserve",
                    "population": population,
                    "parts": {
                        purpose: {
                            "mechanism": plan.part(purpose).mechanism.as_document(),
                            "releases": plan.part(purpose).releases,
                        }
                        for purpose in PURPOSES
                    },
                },
                {"study": study.digest, "name": study.name, "version": study.version},
            )

    def charge(self, reservation: int, purpose: str, request: str, facts: dict[str, Any]) -> None:
        """Commit one release before it is sent.

        ``request`` is unique: the same one can never be charged twice. ``facts`` names study, run,
        round, attempt, model, cohort and reply digest.

        Raises:
            BudgetError: the reservation is settled or used up.
            TrustError: this request was answered before.
        """
        with self._transaction():
            held = self._balance.reservations.get(reservation)
            if held is None or held.settled:
                raise BudgetError("the study has no open reservation in this ledger")
            if held.remaining(purpose) < 1:
                raise BudgetError(
                    f"all {held.parts[purpose][1]} {purpose} releases of this study are used"
                )
            self._append(
                {
                    "kind": "release",
                    "population": held.population,
                    "reservation": reservation,
                    "purpose": purpose,
                    "mechanism": held.parts[purpose][0].as_document(),
                    "reply": facts["reply"],
                },
                facts,
                request,
            )

    def repeat(
        self, reservation: int, of: Released, purpose: str, request: str, facts: dict[str, Any]
    ) -> None:
        """Record that kept bits go out again under another attempt, at charge 0.

        Raises:
            BudgetError: the reservation is settled. TrustError: they are not the same bits.
        """
        with self._transaction():
            held = self._balance.reservations.get(reservation)
            if held is None or held.settled:
                raise BudgetError("the study has no open reservation in this ledger")
            self._append(
                {
                    "kind": "repeat",
                    "population": held.population,
                    "reservation": reservation,
                    "purpose": purpose,
                    "of": of.sequence,
                    "reply": facts["reply"],
                },
                facts,
                request,
            )

    def settle(self, reservation: int, reason: str) -> None:
        """End a reservation; what was not released is free again. Settling twice does nothing."""
        with self._transaction():
            held = self._balance.reservations.get(reservation)
            if held is not None and not held.settled:
                self._append(
                    {"kind": "settle", "reservation": reservation, "population": held.population},
                    {"reason": reason},
                )

    # -- witnesses ------------------------------------------------------------------------------

    def witness(self, hospital: str, head: Head) -> None:
        """Keep the highest head seen of a partner; the caller has checked its signature."""
        self._db.execute(
            "INSERT INTO witnessed VALUES (?, ?, ?, ?, ?) ON CONFLICT (hospital) DO UPDATE SET"
            " sequence = excluded.sequence, hash = excluded.hash, signature = excluded.signature,"
            " public = excluded.public WHERE excluded.sequence > witnessed.sequence",
            (hospital, head.sequence, head.hash, head.signature, head.public),
        )

    def witnessed(self) -> dict[str, Head]:
        return {
            name: Head(sequence=sequence, hash=hash_, signature=signature, public=public)
            for name, sequence, hash_, signature, public in self._db.execute(
                "SELECT hospital, sequence, hash, signature, public FROM witnessed"
                " ORDER BY hospital"
            )
        }

    def confirm(self, head: Head) -> None:
        """Compare with a head of ours that someone else kept.

        Raises:
            TrustError: they saw rows that this ledger does not have: it was rolled back.
        """
        if self.hash_at(head.sequence) != head.hash:
            raise TrustError(
                f"this ledger was rolled back or forked: others saw its row {head.sequence} "
                f"ending in {head.hash[:12]}, which is not in it",
                hint="restore the newest copy of the ledger; nothing is released until then",
            )

    # -- inside ----------------------------------------------------------------------------------

    def _remember_patients(self, population: str, hashes: Collection[str]) -> None:
        """Keep keyed hashes of a snapshot's patients. Raises DataError if another knows one."""
        self._db.execute("CREATE TEMP TABLE IF NOT EXISTS incoming (hash TEXT PRIMARY KEY)")
        self._db.execute("DELETE FROM incoming")
        self._db.executemany("INSERT INTO incoming VALUES (?)", [(h,) for h in hashes])
        (overlap,) = self._db.execute(
            "SELECT COUNT(*) FROM incoming JOIN patients USING (hash) WHERE population != ?",
            (population,),
        ).fetchone()
        if overlap:
            raise DataError(
                f"{overlap} patients of population {population!r} are also in another population "
                "of this site; a patient has one budget",
                hint="put all files that may hold the same patients into one population",
            )
        self._db.execute(
            "INSERT OR IGNORE INTO patients SELECT hash, ? FROM incoming", (population,)
        )

    def _open_reservation(self, study: str) -> int | None:
        for row in self.rows():
            if (
                row.public["kind"] == "reserve"
                and row.private is not None
                and row.private["study"] == study
                and not self._balance.reservations[row.sequence].settled
            ):
                return row.sequence
        return None

    def _refuse_what_does_not_fit(self, plan: Plan, study: Study, population: str) -> None:
        life = self._balance.lives[population]
        if study.mechanism.delta > life.delta:
            raise BudgetError(
                f"the study's delta {study.mechanism.delta:g} is larger than this ledger's "
                f"{life.delta:g}"
            )
        for purpose in PURPOSES:
            cost = plan.part(purpose).cost(life.order)
            remaining = self._balance.remaining(population, purpose)
            if cost > remaining:
                fits = life.largest_epsilon(remaining, study.mechanism.delta)
                raise BudgetError(
                    f"the study's {purpose} takes {life.share(cost):.1%} of the life budget of "
                    f"population {population!r} (ε = {life.epsilon:g}, δ = {life.delta:g}), and "
                    f"{max(0.0, life.share(remaining)):.1%} remains; the largest ε that would fit "
                    f"is {fits:.4f}",
                    hint="ask the coordinator for a study with that ε or less",
                )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            self._catch_up()
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            self._forget()
            raise
        self._db.execute("COMMIT")

    def _append(
        self, public: dict[str, Any], private: dict[str, Any], request: str | None = None
    ) -> int:
        public = {"time": datetime.now(UTC).isoformat(timespec="seconds"), **public}
        if request is not None:
            private = {**private, "request": _request_digest(request)}
        previous, sequence = self._tip()
        row = Row.chained(previous, sequence, public, private, os.urandom(16).hex())
        statement = row_statement(sequence, row.hash)
        row = replace(row, signature=self._identity.sign("ledger-row", statement))
        try:
            self._db.execute(
                "INSERT INTO rows VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    sequence,
                    canonical.encode(public).decode(),
                    canonical.encode(private).decode(),
                    row.salt,
                    row.commitment,
                    row.hash,
                    row.signature,
                    request,
                ),
            )
        except sqlite3.IntegrityError as error:
            raise TrustError("this request was answered before and is never recomputed") from error
        self._balance.add(row)
        self._last = row
        return sequence

    def _check_last_signature(self) -> None:
        if self._last is not None:
            statement = row_statement(self._last.sequence, self._last.hash)
            verify(self._identity.public, "ledger-row", statement, self._last.signature)

    def _tip(self) -> tuple[str, int]:
        return (self._last.hash, self._last.sequence + 1) if self._last else (ZERO_HASH, 1)

    def _catch_up(self) -> None:
        """Check and add the rows that another process appended since we looked."""
        for row in self.rows(after=self._last.sequence if self._last else 0):
            row.check(*self._tip())
            self._balance.add(row)
            self._last = row

    def _forget(self) -> None:
        self._balance, self._last = Balance(), None
        self._catch_up()


def _request_digest(request: str | None) -> str | None:
    return None if request is None else canonical.digest(request.encode())
