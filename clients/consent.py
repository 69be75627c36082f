"""Patients who do not take part: an opt-out list, and what can be said and done afterwards.

An opt-out takes the patient's records out of every frozen snapshot at once, so it holds from the
next round on, and out of every later approval. What a patient contributed to before cannot be taken
out of a trained model; differential privacy bounds what it can have changed, and ``erase`` says in
which models and by how much. The list holds keyed hashes, sealed; no log names a patient.
"""

from __future__ import annotations

import logging
import math
import secrets
from collections.abc import Collection
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import StringConstraints

from flo import canonical
from flo.claims import Digest
from flo.clients import approval
from flo.clients.approval import (
    Approval,
    delete_snapshots,
    readable,
    snapshot_path,
    sweep,
)
from flo.clients.home import SiteHome
from flo.clients.members import Members, Side, delete_members
from flo.clients.site_config import Population
from flo.clients.snapshot import Snapshot
from flo.errors import RefusedError, TrustError, UsageError
from flo.files import write_private
from flo.keystore import read_secret, write_secret
from flo.privacy.accounting import epsilon_of, rounded_up
from flo.privacy.ledger import Ledger
from flo.privacy.life import CHARGES
from flo.privacy.rows import Reservation
from flo.privacy.split import keyed_hash, normalise
from flo.settings import Document, parse

log = logging.getLogger("flo.clients.consent")

_LIMIT = 1 << 30
_PURPOSE = "opt-outs"
_SUB_LEDGER: dict[Side, str] = {"training": "training", "held_out": "evaluation"}


class OptOuts(Document):
    """Keyed hashes of the patients who do not take part.

    ``before``: digest of the list that this one followed. The audit log names the digest of the
    latest list, so that a lost or an older one, as from a backup, is not taken for it; a list that
    is one ahead was written when its entry was cut off.
    """

    schema_version: Literal[1] = 1
    patients: tuple[Digest, ...] = ()
    before: Digest | None = None

    @property
    def digest(self) -> str:
        """SHA-256 of the whole list, by which the audit log and the list after it name it."""
        return canonical.digest(self.to_bytes())

    @classmethod
    def load(cls, home: SiteHome) -> OptOuts:
        """Raises TrustError if it is not the list that the audit log named last."""
        path, found = home.directory / "optouts.sealed", cls()
        if path.exists():
            data = read_secret(path, home.keystore(), _PURPOSE)
            document = canonical.decode(data, limit=_LIMIT, what="opt-outs", values=_LIMIT)
            found = parse(cls, document, str(path))
        if _named_last(home) not in (found.digest, found.before):
            raise TrustError(
                f"{path} is missing, or older than the audit log: patients who opted out would "
                "take part again",
                hint="restore it from the newest backup; if it is lost for good: flo site opt-out "
                "--begin-a-new-list, and opt them all out again",
            )
        return found

    def is_entered(self, home: SiteHome) -> bool:
        """Whether the audit log names this very list."""
        return _named_last(home) == self.digest

    def enter(self, home: SiteHome, studies: int) -> None:
        """Let the audit log name this list as the latest."""
        home.record("opt-out", listed=len(self.patients), list=self.digest, studies=studies)

    def with_patient(self, patient: str) -> OptOuts:
        """The list that follows this one with the patient on it; this one, if they are on it."""
        if patient in self.patients:
            return self
        return OptOuts(patients=(*self.patients, patient), before=self.digest)

    def save(self, home: SiteHome) -> None:
        """Write it sealed; the audit log names it only after ``enter``."""
        data = self.to_bytes()
        write_secret(home.directory / "optouts.sealed", home.keystore(), _PURPOSE, data)


def _named_last(home: SiteHome) -> str:
    """Digest of the list that the audit log named last; of an empty one at first."""
    with closing(home.audit_log()) as log:
        last = log.last("opt-out")
    return str(last.facts["list"]) if last else OptOuts().digest


class Contribution(Document):
    """One study that a patient was part of. ``epsilon``: what all its releases together cost them.

    ``factor``: e^ε, by which at most the releases change anyone's odds about this patient.
    """

    study: Digest
    name: str
    version: int
    side: Side
    releases: int
    epsilon: float
    delta: float
    factor: float


class Erasure(Document):
    """``erasures/ID.json``: what was found and done for one request. It names no patient."""

    schema_version: Literal[1] = 1
    id: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]
    hospital: str
    time: str
    contributions: tuple[Contribution, ...]
    unknown: tuple[Digest, ...]
    said: str


_SAID = (
    "The patient's records were removed from the frozen copies of the studies approved here and "
    "take part in nothing from now on. A keyed hash of the patient's id stays, in the ledger and "
    "in sealed lists, because without it they could not be left out. The releases listed were made "
    "before; they cannot be recalled, and the models that came of them were not retrained. For "
    "each study all releases of this hospital together are (epsilon, delta)-differentially private "
    "for one patient: with probability 1 - delta they change nobody's odds about this patient by "
    "more than the factor stated. The hospital's own records and backups are not FLO's."
)
_NOTHING = (
    "No study that can be read here held records of this id, so nothing was removed. The id takes "
    "part in nothing from now on, spelt as it was given; a keyed hash of it is kept for that."
)
_UNKNOWN = (
    " Of the studies listed as unknown it was not kept whose records they hold (FLO 0.1), or their "
    "approval cannot be read; nothing more is released in them."
)


def opt_out(home: SiteHome, patient_id: str) -> list[str]:
    """Take a patient out, here and from now on. Returns digests of the studies this changed.

    Raises:
        UsageError: no id was given. RefusedError: a study is being approved or ended right now.
        TrustError: the list is not the newest.
    """
    hashed = _hashed(home, patient_id)
    with home.deciding(), closing(home.ledger()) as ledger:
        known = OptOuts.load(home)
        if not known.is_entered(home):  # that was cut off
            known.enter(home, studies=0)
        listed = known.with_patient(hashed)
        listed.save(home)
        with home.swapping():
            changed = [
                study
                for study, approved in readable(home)
                if approved is not None and _take_out(home, ledger, approved, study, hashed)
            ]
            sweep(home, ledger)
        listed.enter(home, studies=len(changed))
    return changed


def begin_a_new_list(home: SiteHome) -> None:
    """After the list was lost for good: everyone on it takes part again until opted out anew.

    Raises:
        RefusedError: the list is there.
    """
    with home.deciding():
        try:
            listed = len(OptOuts.load(home).patients)
        except TrustError:
            log.warning("the list of opt-outs is begun anew; everyone on the old one takes part")
        else:
            raise RefusedError(
                f"the list of opt-outs is not lost: it has {listed} patients, whom a new one would "
                "bring back",
                hint="opt out one more patient: flo site opt-out",
            )
        OptOuts().save(home)
        OptOuts().enter(home, studies=0)


def is_in_a_file(home: SiteHome, patient_id: str) -> bool:
    """Whether any population's file holds records of this id, spelt so."""
    wanted = normalise(patient_id)
    return any(
        normalise(cell) == wanted
        for population in home.config.populations
        for cell in _ids(population)
        if isinstance(cell, str)
    )


def _ids(population: Population) -> list[object]:
    # Arrow comes with it and takes its time.
    from flo.clients.quality.cells import as_ids

    return [cell for batch in population.open().ids() for cell in as_ids(batch).to_pylist()]


def erase(home: SiteHome, patient_id: str) -> tuple[Erasure, Path]:
    """Opt the patient out, and record which models they contributed to, and how much at most."""
    hashed = _hashed(home, patient_id)
    opt_out(home, patient_id)
    contributions, unknown = [], []
    with closing(home.ledger()) as ledger:
        for study, approved in readable(home):
            members = Members.load(home, study, approved.snapshot) if approved else None
            if approved is None or members is None:
                unknown.append(study)
                continue
            for left in members.left:
                if left.patient == hashed:
                    contributions.append(_contribution(ledger, approved, left.side, left.row))
    made = Erasure(
        id=secrets.token_hex(8),
        hospital=home.config.hospital,
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        contributions=tuple(contributions),
        unknown=tuple(unknown),
        said=(_SAID if contributions else _NOTHING) + (_UNKNOWN if unknown else ""),
    )
    document: dict[str, Any] = made.model_dump(mode="json")
    signature = home.identity().sign("erasure", canonical.encode(document))
    path = home.directory / "erasures" / f"{made.id}.json"
    write_private(path, canonical.encode({"body": document, "signature": signature}))
    home.record("erasure", id=made.id, studies=len(contributions))
    return made, path


def left_out(home: SiteHome, patient_ids: Collection[str]) -> set[str]:
    """Those of ``patient_ids`` who opted out."""
    out = set(OptOuts.load(home).patients)
    if not out:
        return set()
    key = home.patients_key
    return {name for name in patient_ids if keyed_hash(key, name) in out}


def _hashed(home: SiteHome, patient_id: str) -> str:
    if not normalise(patient_id):
        raise UsageError("no patient id was given")
    return keyed_hash(home.patients_key, patient_id)


def _take_out(home: SiteHome, ledger: Ledger, approved: Approval, study: str, hashed: str) -> bool:
    """Out of one study: of its frozen copy where there is one, and of the list of members. Returns
    whether the patient was in it.

    Copy and list are written under new names; the approval then names both in one step. Both are
    also written if the patient was not in the study. So neither the time that this takes nor the
    loading of the new copy tells anybody whether the patient was in it.
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
    exchanged = frozen.salted()
    digest = exchanged.digest
    exchanged.write(snapshot_path(home, study, digest))
    fewer.save(home, study, digest)
    renewed = approved.model_copy(update={"snapshot": digest})
    approval.keep(home, renewed.signed(home.identity()))
    delete_snapshots(home, study, but=digest)
    delete_members(home, study, but=digest)
    return side is not None


def _contribution(ledger: Ledger, approved: Approval, side: Side, row: int) -> Contribution:
    """What the patient was part of, from the approval to the ledger's ``row``."""
    study = approved.read_study()
    held = ledger.balance().reservations[approved.reservation]
    purposes = [p for p in held.parts if _SUB_LEDGER[side] in CHARGES[p]]
    made = {
        purpose: sum(
            1
            for entry in ledger.rows()
            if entry.public["kind"] == "release"
            and entry.public["reservation"] == approved.reservation
            and entry.public["purpose"] == purpose
            and entry.sequence <= row
        )
        for purpose in purposes
    }
    epsilon = _epsilon(held, made, study.mechanism.delta)
    return Contribution(
        study=study.digest,
        name=study.name,
        version=study.version,
        side=side,
        releases=sum(made.values()),
        epsilon=epsilon,
        delta=study.mechanism.delta,
        factor=math.exp(epsilon),
    )


def _epsilon(held: Reservation, made: dict[str, int], delta: float) -> float:
    """One purpose touches one side, so nothing is added up. Rounded up."""
    spent = [epsilon_of(held.parts[p].mechanism, count, delta) for p, count in made.items()]
    return rounded_up(max(spent, default=0.0))
