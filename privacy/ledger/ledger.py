"""A site's ledger: append-only, hash-chained, signed rows, flushed before a byte is sent.

Write-ahead order (the caller's duty): write and flush the encrypted reply; ``charge`` commits the
row that names its digest; only then may a byte be sent. A row whose reply was not sent stays
charged. Every decision is made inside one write transaction, so two studies in two processes cannot
both take the last of a budget. Refusals raise before any row is written.

``flo.privacy.ledger.store`` has the file, ``flo.privacy.ledger.rows`` the sum of rows, and
``flo.privacy.ledger.admission`` the rules for reservations.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from flo.errors import BudgetError, TrustError, UsageError
from flo.keys.claims import LedgerHead, RunKey
from flo.privacy.accounting.life_budget import LifetimeBudget
from flo.privacy.accounting.plan import Plan
from flo.privacy.ledger import admission
from flo.privacy.ledger.admission import Approved, OwnLimit, Restored
from flo.privacy.ledger.generations import LaterPatients, Participants
from flo.privacy.ledger.patient_table import PatientTable
from flo.privacy.ledger.reservation import Reservation
from flo.privacy.ledger.rows import Released
from flo.study.document import Study
from flo.study.terms import largest_delta


class _RolledBack(Exception):
    """Raised inside a transaction to undo it; has what it would have led to."""

    def __init__(self, participants: Participants) -> None:
        super().__init__()
        self.participants = participants


class Ledger(PatientTable):
    """One site's ledger. Open it once per process; several processes may share the file."""

    # -- reading ---------------------------------------------------------------------------------

    def find_release(self, request: str) -> Released | None:
        """Return the release or repeat that answered this request key, or None."""
        found = self._file.answered(request)
        if found is None:
            return None
        sequence, private = found
        reply = private["reply"]
        sent = private.get("sent", reply)
        return Released(sequence, private["model"], private["cohort"], reply, sent)

    def last_release(self, study: str) -> tuple[int, str | None]:
        """Return number and run of the last row that answered this study; else 0 and None."""
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
        """Create a population's permanent budget: (ε, δ), with δ from the rule for its public size.

        ``private``: other permanent facts, which are never shown: id column, key commitments, the
        steward's statement.

        Raises:
            UsageError: the population is registered already, or rows were lost that may contain it.
        """
        life = LifetimeBudget.create(epsilon, largest_delta(declared_size))
        with self._transaction():
            if name in self._balance.lives:
                raise UsageError(f"population {name!r} is registered already")
            if self._balance.lost:
                raise UsageError(
                    f"population {name!r} cannot be registered: this ledger was restored and lost "
                    "rows, and the lost rows may hold a budget of the same patients",
                    hint="enrol again with a new ledger, and only for patients of whom the steward "
                    "knows that they never took part in a study",
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
        limit: OwnLimit | None = None,
        later: LaterPatients | None = None,
        present: Collection[str] = (),
    ) -> int:
        """Reserve the whole study (steps and allowances). Returns the reservation's row number.

        ``patients``: keyed hashes of those in the data, stored permanently. A study of schema 4 or
        later opens a generation for those who are new, and is charged to those generations that
        have room (``participants``). ``if_broken``: reserve its cost in case the secure sum is
        broken (``Plan.charged``). ``limit``: the site's own. ``later``: who was first recorded
        after this ledger was restored. ``present``: whom ``present_before`` returns from now on.

        A study whose reservation is still open keeps that reservation: reserving twice costs once,
        and patients who came since do not take part. A refusal stores neither patients nor
        reservation.

        Raises:
            BudgetError: it does not fit; the message states the rest and the largest ε that would
                fit. Or the study was settled here, or is reserved for another population or charge.
            DataError: a patient is also in another population of this site.
            UsageError: the population is not registered.
        """
        plan = Plan.charged(study, if_broken=if_broken)
        with self._transaction():
            number = self._reserve(study, plan, population, patients, limit, later)
            self._file.keep_present(population, present)
            return number

    def check_reservation(
        self,
        study: Study,
        population: str,
        patients: Collection[str] = (),
        *,
        if_broken: bool = False,
        limit: OwnLimit | None = None,
        later: LaterPatients | None = None,
    ) -> Participants:
        """Make the checks of ``reserve`` and store nothing. Returns who would take part.

        Raises what ``reserve`` raises.
        """
        plan = Plan.charged(study, if_broken=if_broken)
        try:
            with self._transaction():
                number = self._reserve(study, plan, population, patients, limit, later)
                raise _RolledBack(self._participants(number))
        except _RolledBack as undone:
            return undone.participants

    def _reserve(
        self,
        study: Study,
        plan: Plan,
        population: str,
        patients: Collection[str],
        limit: OwnLimit | None,
        later: LaterPatients | None,
    ) -> int:
        """Append a reservation if it may be made; return the open one if there is one already."""
        if population not in self._balance.lives:
            raise UsageError(f"population {population!r} is not registered in this ledger")
        kept = self._reservation(study.digest)
        if kept is None:
            watching = [n for n, card in self._watching.items() if _watches(study, card)]
            allowed = admission.not_counted(self._balance, study, population, watching)
            charged = admission.admitted(self._balance, plan, study, population, limit, allowed)
            opens = charged is not None
            born = self._give_generations(population, patients, later, opens=opens)
            named = {"generations": charged} if opens else {}
            row = admission.reservation_row(population, plan, **named, born=born)
            return self._append(row, _of(study))
        held = self._balance.reservations[kept]
        if held.settled:
            raise BudgetError(
                f"study {study.digest[:12]} was run and settled here, and an approval holds for "
                "one run only",
                hint="ask the coordinator for a new version of the study",
            )
        admission.require_same_reservation(held, plan, population)
        return kept

    def open_reservation(self, study: str) -> int | None:
        """Return the row number of this study's open reservation, or None."""
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
        """Commit that stored bits are sent again under another attempt, at charge 0.

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
        """End a reservation and free its unused releases. Has no effect on a settled one."""
        with self._transaction():
            held = self._balance.reservations.get(reservation)
            if held is not None and not held.settled:
                self._append(
                    {"kind": "settle", "reservation": reservation, "population": held.population},
                    {"reason": reason},
                )

    # -- witnesses ------------------------------------------------------------------------------

    def see_run_key(self, study: str, run: str, hospital: str, key: RunKey) -> None:
        """Store a partner's run key if it is later than the stored one; the caller has checked it.

        Raises:
            TrustError: another key with an equal or lower epoch: a key from before a restart.
        """
        kept = self._file.latest_run_key(study, run, hospital)
        if kept == (key.epoch, key.key):
            return
        if kept is not None and key.epoch <= kept[0]:
            raise TrustError(
                f"{hospital} sent a new key for {run} with epoch {key.epoch}, but its key of epoch "
                f"{kept[0]} was seen before: a new key must have a later epoch"
            )
        self._file.keep_run_key(study, run, hospital, key)

    def restore(self, approved: Collection[Approved], seen: LedgerHead | None) -> Restored:
        """Charge in full all releases that may have followed this copy of the ledger.

        ``approved``: every study that other parties say this site approved; those without a
        reservation here were approved later. ``seen``: the highest head of this ledger that others
        show.

        Open reservations count as released in full, and so does every approved study that is not in
        this copy, in every generation. A population that is not in this copy is exhausted; all are
        if a study's population is unknown, or if the studies cannot account for all rows that
        others saw. With local noise a release can have been repeated, so rows of a hidden study may
        be attributed to a study that is shown.

        Raises:
            TrustError: ``seen`` is not of this ledger, or is of a fork.
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
                if population not in self._balance.lives:
                    exhausted |= {population} if population else set(self._balance.lives)
                    continue
                plan = Plan.charged(found.study, if_broken=found.worst_case)
                row = admission.reservation_row(population, plan, lost=True)
                held = self._balance.reservations[self._append(row, _of(found.study))]
                explained += admission.rows_explained(held, found.study)
                added.append(found.study.digest)
            if lost > explained or self._balance.is_recovering:
                exhausted |= set(self._balance.lives)
            if added or exhausted:
                self._append(admission.restored_row(None, exhausted), {})
        return Restored(lost, tuple(added), tuple(sorted(exhausted)))

    # -- inside ----------------------------------------------------------------------------------

    def _only_population(self) -> str | None:
        return next(iter(self._balance.lives)) if len(self._balance.lives) == 1 else None

    def _open(self, reservation: int, study: str) -> Reservation:
        held = self._balance.reservations.get(reservation)
        if held is None or held.settled or self._reserved.get(reservation) != study:
            raise BudgetError(
                f"study {study[:12]} has no open reservation in this ledger",
                hint="the study has ended, was withdrawn or was never approved here; see flo site "
                "inbox",
            )
        return held

    def _reservation(self, study: str) -> int | None:
        for row in self.rows():
            if row.public["kind"] == "reserve" and (row.private or {}).get("study") == study:
                return row.sequence
        return None


def _watches(study: Study, card: str) -> bool:
    return study.monitor is not None and study.monitor.model == card


def _of(study: Study) -> dict[str, Any]:
    watched = {"watches": study.monitor.model} if study.monitor else {}
    return {"study": study.digest, "name": study.name, "version": study.version, **watched}
