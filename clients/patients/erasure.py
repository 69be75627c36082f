"""Erasure of a patient: an opt-out, and a signed record of earlier contributions.

A contribution cannot be removed from a trained model. Differential privacy bounds its effect: the
record names each study and the bound.
"""

from __future__ import annotations

import math
import secrets
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import StringConstraints

from flo.clients.home.site_home import SiteHome
from flo.clients.patients.opt_outs import finished_of, hashed_id, opt_out
from flo.clients.records.approval import Approval, readable
from flo.clients.records.members import Members, Side
from flo.documents import canonical
from flo.documents.document import Document
from flo.keys.claims import Digest
from flo.privacy.accounting.accounting import rounded_up
from flo.privacy.accounting.life_budget import CHARGES
from flo.privacy.accounting.spending import spent
from flo.privacy.ledger.ledger import Ledger
from flo.storage.files import write_private

_SUB_LEDGER: dict[Side, str] = {"training": "training", "held_out": "evaluation"}


class Contribution(Document):
    """One study that a patient was part of. ``epsilon``: cost to them of all its releases together.

    ``factor``: e^ε, upper bound of the factor by which the releases change anyone's odds about this
    patient.
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
    """``erasures/ID.json``: the findings and actions for one request. It names no patient."""

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
    "No study that can be read here held records of this id, so no release contains them. The id "
    "takes part in nothing from now on, spelt as it was given; a keyed hash of it is kept for that."
)
_DELETED = (
    " Models that this hospital had finished for itself alone, and that held or may have held the "
    "patient's records, were deleted: {}."
)
_UNKNOWN = (
    " Of the studies listed as unknown it was not kept whose records they hold (FLO 0.1), or their "
    "approval cannot be read; nothing more is released in them."
)


def erase(home: SiteHome, patient_id: str) -> tuple[Erasure, Path]:
    """Opt the patient out; record the studies they contributed to and the privacy bound of each."""
    hashed = hashed_id(home, patient_id)
    deleted = finished_of(home, patient_id)
    opt_out(home, patient_id)
    contributions, unknown = [], []
    with closing(home.open_ledger()) as ledger:
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
        hospital=home.read_config().hospital,
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        contributions=tuple(contributions),
        unknown=tuple(unknown),
        said=(_SAID if contributions else _NOTHING)
        + (_DELETED.format(len(deleted)) if deleted else "")
        + (_UNKNOWN if unknown else ""),
    )
    document: dict[str, Any] = made.model_dump(mode="json")
    signature = home.open_identity().sign("erasure", canonical.encode(document))
    path = home.directory / "erasures" / f"{made.id}.json"
    write_private(path, canonical.encode({"body": document, "signature": signature}))
    home.record("erasure", id=made.id, studies=len(contributions))
    return made, path


def _contribution(ledger: Ledger, approved: Approval, side: Side, row: int) -> Contribution:
    """Return the patient's contribution to one study, up to the ledger's ``row``."""
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
    epsilon = rounded_up(spent(held.parts, made, study.mechanism.delta))
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
