"""Patients who do not take part: the list of opt-outs.

An opt-out removes the patient's records from every frozen snapshot at once, so it takes effect from
the next round on, and keeps them out of every later approval. It also deletes the finished models
that these records went into, and what was kept of the patient to compare versions of a model and to
watch it. The list holds keyed hashes, sealed; no log names a patient. ``erasure`` records earlier
contributions.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from contextlib import closing
from typing import Literal

from flo.clients.home.site_config import Population
from flo.clients.home.site_home import SiteHome
from flo.clients.records import approval
from flo.clients.records.approval import (
    Approval,
    delete_snapshots,
    keep_snapshot,
    readable,
    snapshot_path,
    sweep,
)
from flo.clients.records.compared_answers import forget_patients
from flo.clients.records.finished_model import finished_with, withdraw_finished
from flo.clients.records.members import Members, delete_members
from flo.clients.records.snapshot import Snapshot
from flo.clients.records.watched_answers import forget_watched
from flo.documents import canonical
from flo.documents.document import Document, parse
from flo.errors import RefusedError, TrustError, UsageError
from flo.keys.claims import Digest
from flo.keys.keystore import read_secret, write_secret
from flo.privacy.ledger.ledger import Ledger
from flo.privacy.patients.split import keyed_hash, normalise

log = logging.getLogger("flo.clients.patients.opt_outs")

_LIMIT = 1 << 30
FILE = "optouts.sealed"
_PURPOSE = "opt-outs"


class OptOuts(Document):
    """Keyed hashes of the patients who do not take part.

    ``before``: digest of the list that preceded this one. The audit log names the digest of the
    latest list, so a missing or outdated list, as from a backup, is detected. A list that is one
    ahead of the log is accepted: it was written, and its log entry was cut off.
    """

    schema_version: Literal[1] = 1
    patients: tuple[Digest, ...] = ()
    before: Digest | None = None

    @property
    def digest(self) -> str:
        """SHA-256 of the whole list; the audit log and the next list refer to it."""
        return canonical.digest(self.to_bytes())

    @classmethod
    def load(cls, home: SiteHome) -> OptOuts:
        """Read the list. Raises TrustError if it is missing, or older than the audit log names."""
        path, found = home.directory / FILE, cls()
        if path.exists():
            data = read_secret(path, home.open_keystore(), _PURPOSE)
            document = canonical.decode(data, limit=_LIMIT, what="opt-outs", values=_LIMIT)
            found = parse(cls, document, str(path))
        if _named_last(home) not in (found.digest, found.before):
            raise TrustError(
                f"{path} is missing, or older than the audit log: patients who opted out would "
                "take part again",
                hint="restore it from the newest backup; if it is lost permanently: flo site "
                "opt-out --begin-a-new-list, and opt them all out again",
            )
        return found

    def is_entered(self, home: SiteHome) -> bool:
        """Return whether the audit log names exactly this list as the latest."""
        return _named_last(home) == self.digest

    def enter(self, home: SiteHome, studies: int) -> None:
        """Record this list in the audit log as the latest."""
        home.record("opt-out", listed=len(self.patients), list=self.digest, studies=studies)

    def with_patient(self, patient: str) -> OptOuts:
        """Return the list that adds the patient to this one; this one if they are on it."""
        if patient in self.patients:
            return self
        return OptOuts(patients=(*self.patients, patient), before=self.digest)

    def save(self, home: SiteHome) -> None:
        """Write the list, sealed; the audit log names it only after ``enter``."""
        data = self.to_bytes()
        write_secret(home.directory / FILE, home.open_keystore(), _PURPOSE, data)


def _named_last(home: SiteHome) -> str:
    """Return the digest of the list that the audit log named last, initially of an empty one."""
    with closing(home.open_audit_log()) as log:
        last = log.last("opt-out")
    return str(last.facts["list"]) if last else OptOuts().digest


def opt_out(home: SiteHome, patient_id: str) -> list[str]:
    """Opt a patient out of current and later studies. Return digests of the studies this changed.

    Raises:
        UsageError: no id was given. RefusedError: a study is being approved or ended right now.
        TrustError: the list is not the newest.
    """
    hashed = hashed_id(home, patient_id)
    with home.decision_lock(), closing(home.open_ledger()) as ledger:
        known = OptOuts.load(home)
        if not known.is_entered(home):  # the call that saved it was cut off
            known.enter(home, studies=0)
        listed = known.with_patient(hashed)
        listed.save(home)
        withdraw_finished(home, listed.patients)
        with home.snapshot_lock():
            changed = [
                study
                for study, approved in readable(home)
                if approved is not None and _take_out(home, ledger, approved, study, hashed)
            ]
            sweep(home, ledger)
        listed.enter(home, studies=len(changed))
    forget_patients(home, [hashed])
    forget_watched(home, [hashed])
    return changed


def finished_of(home: SiteHome, patient_id: str) -> list[str]:
    """Return the finished models that an opt-out of this patient deletes."""
    return finished_with(home, [hashed_id(home, patient_id)])


def begin_a_new_list(home: SiteHome) -> None:
    """Start an empty list after the old one was lost permanently.

    Everyone on the old list takes part again until they are opted out again.

    Raises:
        RefusedError: the list is not lost.
    """
    with home.decision_lock():
        try:
            listed = len(OptOuts.load(home).patients)
        except TrustError:
            log.warning("started a new list of opt-outs; patients on the old list take part again")
        else:
            raise RefusedError(
                f"the list of opt-outs is not lost: it has {listed} patients, who would take part "
                "again with a new list",
                hint="to add a patient to the list: flo site opt-out",
            )
        OptOuts().save(home)
        OptOuts().enter(home, studies=0)


def id_in_data(home: SiteHome, patient_id: str) -> bool:
    """Return whether any population's source holds records of this id, in this spelling."""
    wanted = normalise(patient_id)
    return any(
        normalise(cell) == wanted
        for population in home.read_config().populations
        for cell in _ids(population)
        if isinstance(cell, str)
    )


def _ids(population: Population) -> list[object]:
    # Imported here because it loads Arrow, which is slow.
    from flo.clients.sources.cells import as_ids

    return [cell for batch in population.open().ids() for cell in as_ids(batch).to_pylist()]


def opted_out(home: SiteHome, patient_ids: Collection[str]) -> set[str]:
    """Return those of ``patient_ids`` who opted out."""
    out = set(OptOuts.load(home).patients)
    if not out:
        return set()
    key = home.open_patients_key()
    return {name for name in patient_ids if keyed_hash(key, name) in out}


def hashed_id(home: SiteHome, patient_id: str) -> str:
    """Return the keyed hash that lists store for a patient's id. Raises UsageError if empty."""
    if not normalise(patient_id):
        raise UsageError("no patient id was given")
    return keyed_hash(home.open_patients_key(), patient_id)


def _take_out(home: SiteHome, ledger: Ledger, approved: Approval, study: str, hashed: str) -> bool:
    """Remove a patient from one study: from its frozen copy, if any, and from its members. Return
    whether the patient was in it.

    Copy and list are written under new names; the approval then names both in one step. Both are
    also written if the patient was not in the study. So neither the duration nor the loading of the
    new copy reveals whether the patient was in it.
    """
    members = Members.load(home, study, approved.snapshot)
    if members is None:
        return False
    side = members.side_of(hashed)
    fewer = members.without(hashed, side, ledger.head().sequence) if side else members
    path = snapshot_path(home, study, approved.snapshot)
    if not path.exists():  # the study has ended here
        fewer.save(home, study, approved.snapshot)
        return side is not None
    frozen = Snapshot.read(path, approved.snapshot)
    if side:
        frozen = frozen.without(side, getattr(members, side).index(hashed))
    digest = keep_snapshot(home, study, frozen.salted())
    fewer.save(home, study, digest)
    renewed = approved.model_copy(update={"snapshot": digest})
    approval.keep(home, renewed.signed(home.open_identity()))
    delete_snapshots(home, study, but=digest)
    delete_members(home, study, but=digest)
    return side is not None
