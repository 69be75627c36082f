"""A site's ledger: append-only, hash-chained, signed rows, flushed before a byte leaves.

Write-ahead order (the caller keeps it): write and flush the encrypted reply; ``charge`` commits
the row that names its digest; only then may a byte leave. A row without a reply is burnt. Every
decision is taken inside one write transaction, so two studies in two processes cannot both take the
last of a budget. Refusals raise before anything is written.

The file is ``flo.privacy.ledger.store``'s; what rows add up to is ``flo.privacy.ledger.rows``';
what may be reserved is ``flo.privacy.ledger.admission``'s.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flo.errors import BudgetError, DataError, TrustError, UsageError
from flo.keys.claims import LedgerHead, RunKey, row_statement
from flo.keys.identity import Identity, verify
from flo.privacy.accounting.life_budget import LifetimeBudget
from flo.privacy.accounting.plan import Plan
from flo.privacy.ledger import admission
from flo.privacy.ledger.rows import (
    ZERO_HASH,
    Balance,
    LedgerRow,
    Reservation,
    lost_head,
    number_after,
)
from flo.privacy.ledger.store import LedgerFile, request_fields
from flo.study.document import Study, largest_delta


@dataclass(frozen=True)
class Released:
    """A release row found again: the request it answered and the reply it named.

    ``reply``: digest of the noisy bits that were charged. ``sent``: of what left, which differs
    where local noise was masked afterwards.
    """

    sequence: int
    model: str
    cohort: str
    reply: str
    sent: str


@dataclass(frozen=True)
class Approved:
    """A study that this site approved: whose patients (None: of FLO 0.2, which did not say), and at
    what charge."""

    study: Study
    population: str | None
    worst_case: bool


@dataclass(frozen=True)
class Restored:
    """What a restored ledger was charged for: how many rows it lost, the digests of studies that it
    did not know, and the populations of which nothing is left."""

    lost: int
    studies: tuple[str, ...]
    exhausted: tuple[str, ...]


class Ledger:
    """One site's ledger. Open it once per process; several processes may share the file."""

    def __init__(self, path: Path, identity: Identity) -> None:
        """Open (or create) the ledger at ``path`` and check its whole chain and last signature.

        The chain covers every row's content, so the last row's signature covers them all.

        Raises:
            TrustError: a row was edited, removed or reordered, or another key signed the last one.
        """
        self._identity = identity
        self._file = LedgerFile(path)
        self._balance = Balance()
        self._reserved: dict[int, str] = {}  # number of a reserve row -> digest of its study
        self._last: LedgerRow | None = None
        try:
            self._catch_up()
            self._check_last_signature()
        except BaseException:  # when interrupted, too: the file must not stay open
            self._file.close()
            raise

    def close(self) -> None:
        """Close the file; a row that was written is on the disk already."""
        self._file.close()

    # -- reading ---------------------------------------------------------------------------------

    def balance(self) -> Balance:
        """All rows added up, as of now."""
        self._catch_up()
        return self._balance

    def head(self) -> LedgerHead:
        """The signed last row. Raises UsageError for an empty ledger."""
        self._catch_up()
        if self._last is None:
            raise UsageError("the ledger is empty", hint="register a population first")
        return LedgerHead(
            sequence=self._last.sequence,
            hash=self._last.hash,
            signature=self._last.signature,
            public=self._identity.public.hex(),
        )

    def rows(self) -> Iterator[LedgerRow]:
        """All rows from birth on, checked anew."""
        return self._file.rows(0, ZERO_HASH)

    def find_release(self, request: str) -> Released | None:
        """The release or repeat that answered this request key, or None."""
        found = self._file.answered(request)
        if found is None:
            return None
        sequence, private = found
        reply = private["reply"]
        sent = private.get("sent", reply)
        return Released(sequence, private["model"], private["cohort"], reply, sent)

    def last_release(self, study: str) -> tuple[int, str | None]:
        """Number of the last row with which this study was answered, and its run; 0 and None."""
        found = self._file.last_answer(study)
        return (found[0], found[1].split("/")[1]) if found else (0, None)

    # -- deciding and writing --------------------------------------------------------------------

    def register_population(
        self,
        name: str,
        *,
        epsilon: float,
        declared_size: int,
        hold_out: float,
        private: dict[str, Any],
    ) -> LifetimeBudget:
        """Birth of a population's budget: (ε, δ) by the rule for its public size, for good.

        ``private`` is what else is fixed at birth and never shown: id column, key commitments,
        the steward's statement.

        Raises:
            UsageError: the population exists already (its budget cannot be born twice).
        """
        life = LifetimeBudget.create(epsilon, largest_delta(declared_size))
        with self._transaction():
            if name in self._balance.lives:
                raise UsageError(f"population {name!r} is registered already")
            if self._balance.lost:
                raise UsageError(
                    f"population {name!r} cannot be registered: this ledger was restored and lost "
                    "rows, and its patients may have had a budget there",
                    hint="only a ledger of a new enrolment, for patients of whom the steward knows "
                    "that they never took part, begins anew",
                )
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

    def reserve(
        self,
        study: Study,
        population: str,
        patients: Collection[str] = (),
        *,
        if_broken: bool = False,
        allowed: Callable[[], None] = lambda: None,
    ) -> int:
        """Set aside the whole study (steps and allowances). Returns the reservation's row number.

        ``if_broken``: at what it costs should the secure sum be broken (``Plan.if_broken``).
        ``allowed``: raises if the site's own limits forbid it; asked in the same transaction.

        A study whose reservation is still open keeps it: reserving twice is reserving once.
        ``patients`` are keyed hashes of the snapshot's patients, remembered for good. All or
        nothing: a refusal keeps neither.

        Raises:
            BudgetError: it does not fit; says what remains and the largest ε that would. Or the
            study was settled here, or is reserved for another population or charge.
            DataError: a patient is also in another population of this site.
            UsageError: the population is not registered.
        """
        plan = Plan.charged(study, if_broken=if_broken)
        with self._transaction():
            if population not in self._balance.lives:
                raise UsageError(f"population {population!r} is not registered in this ledger")
            self._remember_patients(population, patients)
            kept = self._reservation(study.digest)
            if kept is not None and self._balance.reservations[kept].settled:
                raise BudgetError(
                    f"study {study.digest[:12]} was run and settled here: an approval is one "
                    "reservation",
                    hint="ask the coordinator for a new version of the study",
                )
            if kept is not None:
                admission.require_same_reservation(
                    self._balance.reservations[kept], plan, population
                )
                return kept
            admission.require_fits(self._balance, plan, study, population)
            allowed()
            return self._append(admission.reservation_row(population, plan), _of(study))

    def open_reservation(self, study: str) -> int | None:
        """Row number of what is set aside for the study of this digest; None if nothing is."""
        kept = self._reservation(study)
        return None if kept is None or self.balance().reservations[kept].settled else kept

    def charge(self, reservation: int, purpose: str, request: str, facts: dict[str, Any]) -> None:
        """Commit one release before it is sent.

        ``request`` is unique: the same one can never be charged twice. ``facts`` names study, run,
        round, attempt, model, cohort, and the digests ``reply`` and ``sent`` (see ``Released``).

        Raises:
            BudgetError: the reservation is settled, used up, or of another study.
            TrustError: this request was answered before.
        """
        with self._transaction():
            held = self._open(reservation, facts["study"])
            if held.remaining(purpose) < 1:
                reserved = held.parts[purpose].releases if purpose in held.parts else 0
                raise BudgetError(
                    f"study {facts['study'][:12]} has no {purpose} release left of the {reserved} "
                    "that were reserved",
                    hint="withdraw it, and ask the coordinator for a new version of the study",
                )
            self._append(
                {
                    "kind": "release",
                    "population": held.population,
                    "reservation": reservation,
                    "purpose": purpose,
                    "mechanism": held.parts[purpose].document,
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
            BudgetError: the reservation is settled, or of another study.
            TrustError: they are not the same bits, or this request was answered before.
        """
        with self._transaction():
            held = self._open(reservation, facts["study"])
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

    def witness(self, head: LedgerHead) -> None:
        """Keep the highest head seen of a partner; the caller has checked its signature."""
        self._file.witness(head)

    def witnessed(self) -> dict[str, LedgerHead]:
        """Fingerprint -> the highest head seen of it."""
        return self._file.witnessed()

    def see_run_key(self, study: str, run: str, hospital: str, key: RunKey) -> None:
        """Keep a partner's run key if it is later than the one we know; the caller checked it.

        Raises:
            TrustError: an equal or lower epoch with another key: a key from before a restart.
        """
        kept = self._file.latest_run_key(study, run, hospital)
        if kept == (key.epoch, key.key):
            return
        if kept is not None and key.epoch <= kept[0]:
            raise TrustError(
                f"{hospital} shows another key of epoch {key.epoch} for {run}, and one of epoch "
                f"{kept[0]} was seen before"
            )
        self._file.keep_run_key(study, run, hospital, key)

    def holds(self, head: LedgerHead) -> bool:
        """Whether a row of this ledger has this number and hash; says nothing of signatures."""
        return self._file.hash_at(head.sequence) == head.hash

    def confirm(self, seen: LedgerHead) -> None:
        """Compare with a head of ours that someone else kept.

        Raises:
            TrustError: they saw rows that this ledger does not have: it was rolled back.
        """
        if self.holds(seen) or self._balance.is_lost(seen):
            return
        seen.check(self._identity.fingerprint)
        self._file.witness(seen)  # for ``restore``
        raise TrustError(
            f"this ledger was rolled back or forked: others saw its row {seen.sequence} "
            f"ending in {seen.hash[:12]}, which is not in it",
            hint="put the newest copy of the ledger back; if there is none: flo site recover "
            "charges all that may be missing. Nothing is released until then",
        )

    def restore(self, approved: Collection[Approved], seen: LedgerHead | None) -> Restored:
        """Charge in full whatever may have happened after this copy of the ledger was made.

        ``approved``: every study that others say this site approved; those without a reservation
        here were approved since. ``seen``: the highest head of ours that others show.

        What is open counts as released in full, and so does every approved study that is not here.
        If those cannot account for all rows that others saw, or do not fit, nothing is left. With
        local noise a release can have been repeated, so rows of a study that is hidden may pass for
        those of one that is shown.

        Raises:
            TrustError: ``seen`` is not ours, or is a fork of what is here.
        """
        with self._transaction():
            head = self.lost_head(seen)
            lost = head.sequence - self._balance.last if head else 0
            shown = {found.study.digest: found.study for found in approved}
            explained = 1 + sum(
                admission.rows_explained(held, shown.get(self._reserved[number]))
                for number, held in self._balance.reservations.items()
                if not held.settled
            )
            self._append(admission.restored_row(head), {})
            added, exhausted = [], set[str]()
            for found in approved:
                if found.study.digest in self._reserved.values():
                    continue
                population = found.population or self._only_population()
                number = population and self._reserve_if_it_fits(found, population)
                if not number:
                    exhausted |= {population} if population else set(self._balance.lives)
                else:
                    held = self._balance.reservations[number]
                    explained += admission.rows_explained(held, found.study)
                    added.append(found.study.digest)
            if lost > explained:
                exhausted |= set(self._balance.lives)
            if added or exhausted:
                self._append(admission.restored_row(None, exhausted), {})
        return Restored(lost, tuple(added), tuple(sorted(exhausted)))

    def lost_head(self, seen: LedgerHead | None) -> LedgerHead | None:
        """The highest head of ours that anyone saw beyond the rows that are here; None if none is.

        ``seen``: one that is shown now. Raises TrustError: it is not ours, or of another copy.
        """
        own = self._identity.fingerprint
        known = [head for head in (seen, self.witnessed().get(own)) if head is not None]
        for head in known:
            head.check(own)
            is_here = self._file.hash_at(head.sequence) == head.hash or self._balance.is_lost(head)
            if head.sequence <= self._balance.last and not is_here:
                raise TrustError(
                    f"others saw another row {head.sequence} of this ledger than is here: two "
                    "copies of it were in use",
                    hint="go on with the other copy, if it can be had; this one cannot be mended",
                )
        beyond = [head for head in known if head.sequence > self._balance.last]
        return max(beyond, key=lambda head: head.sequence, default=None)

    # -- inside ----------------------------------------------------------------------------------

    def _only_population(self) -> str | None:
        return next(iter(self._balance.lives)) if len(self._balance.lives) == 1 else None

    def _reserve_if_it_fits(self, found: Approved, population: str) -> int | None:
        """A reservation for what was approved since the backup; None if there is no room."""
        plan = Plan.charged(found.study, if_broken=found.worst_case)
        if population not in self._balance.lives or admission.exhausted_sub_ledger(
            self._balance, plan, population
        ):
            return None
        return self._append(admission.reservation_row(population, plan), _of(found.study))

    def _remember_patients(self, population: str, hashes: Collection[str]) -> None:
        overlap = self._file.add_patients(population, hashes)
        if overlap:
            raise DataError(
                f"{overlap} patients of population {population!r} are also in another population "
                "of this site; a patient has one budget",
                hint="put all files that may hold the same patients into one population",
            )

    def _open(self, reservation: int, study: str) -> Reservation:
        held = self._balance.reservations.get(reservation)
        if held is None or held.settled or self._reserved.get(reservation) != study:
            raise BudgetError(
                f"study {study[:12]} has no open reservation in this ledger",
                hint="it has ended, was withdrawn, or was never approved here: flo site inbox",
            )
        return held

    def _reservation(self, study: str) -> int | None:
        for row in self.rows():
            if row.public["kind"] == "reserve" and (row.private or {}).get("study") == study:
                return row.sequence
        return None

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            with self._file.writing():
                self._catch_up()
                yield
        except BaseException:  # when interrupted, too: rows that were rolled back were added up
            self._balance, self._last = Balance(), None
            self._reserved.clear()
            self._catch_up()
            raise

    def _append(
        self, public: dict[str, Any], private: dict[str, Any], request: str | None = None
    ) -> int:
        public = {"time": datetime.now(UTC).isoformat(timespec="seconds"), **public}
        private = private | request_fields(request)
        previous, _ = self._tip()
        sequence = number_after(self._balance.last, public)
        row = LedgerRow.chained(previous, sequence, public, private, os.urandom(16).hex())
        statement = row_statement(sequence, row.hash)
        row = replace(row, signature=self._identity.sign("ledger-row", statement))
        self._file.insert(row, request)
        self._take(row)
        return sequence

    def _check_last_signature(self) -> None:
        if self._last is not None:
            statement = row_statement(self._last.sequence, self._last.hash)
            verify(self._identity.public, "ledger-row", statement, self._last.signature)

    def _tip(self) -> tuple[str, int]:
        return (self._last.hash, self._last.sequence + 1) if self._last else (ZERO_HASH, 1)

    def _catch_up(self) -> None:
        """Check and add the rows that another process appended since we looked.

        Raises:
            TrustError: the file was exchanged for an older one under this process, or edited.
        """
        if self._last is not None and self._file.hash_at(self._last.sequence) != self._last.hash:
            raise TrustError("the ledger's file was exchanged while it was in use")
        previous, sequence = self._tip()
        for row in self._file.rows(sequence - 1, previous):
            self._take(row)

    def _take(self, row: LedgerRow) -> None:
        head = lost_head(row.public)
        if head is not None:
            head.check(self._identity.fingerprint)
        self._balance.add(row)
        if row.public["kind"] == "reserve":
            self._reserved[row.sequence] = (row.private or {})["study"]
        self._last = row


def _of(study: Study) -> dict[str, Any]:
    return {"study": study.digest, "name": study.name, "version": study.version}
