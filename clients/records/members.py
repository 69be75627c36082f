"""Whose records are in a study's frozen snapshot: keyed hashes, sealed by the site's key store.

One file for each snapshot, named after it: the approval names the snapshot, and so both change in
one step.

Needed to honour an opt-out, and to answer a patient's question later: "in which models am I?". The
hashes stay after the study has ended; without ``patients.key`` they tell nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from flo.clients.home.site_home import SiteHome
from flo.documents import canonical
from flo.documents.document import Document, parse
from flo.keys.claims import LARGEST_COUNT, Digest
from flo.keys.keystore import read_secret, write_secret

Side = Literal["training", "held_out"]
_LIMIT = 1 << 30


class DepartedPatient(Document):
    """A patient who is out again. ``row``: the ledger's last row at that moment."""

    patient: Digest
    side: Side
    row: Annotated[int, Field(ge=0, le=LARGEST_COUNT)]


class Members(Document):
    """``training`` and ``held_out``: keyed hashes in the snapshot's own order of patients."""

    schema_version: Literal[1] = 1
    training: tuple[Digest, ...]
    held_out: tuple[Digest, ...]
    left: tuple[DepartedPatient, ...] = ()

    @classmethod
    def load(cls, home: SiteHome, study: str, snapshot: str) -> Members | None:
        """None for a study that was approved before members were kept (FLO 0.1)."""
        path = _path(home, study, snapshot)
        if not path.exists():
            return None
        data = read_secret(path, home.open_keystore(), f"members of {snapshot}")
        return parse(
            cls, canonical.decode(data, limit=_LIMIT, what="members", values=_LIMIT), str(path)
        )

    def save(self, home: SiteHome, study: str, snapshot: str) -> None:
        """Write them sealed, bound to this snapshot."""
        data = self.to_bytes()
        path = _path(home, study, snapshot)
        write_secret(path, home.open_keystore(), f"members of {snapshot}", data)

    def side_of(self, patient: str) -> Side | None:
        """Where this patient is now; None if nowhere."""
        if patient in self.training:
            return "training"
        return "held_out" if patient in self.held_out else None

    def without(self, patient: str, side: Side, row: int) -> Members:
        """The same with this patient out from the ledger's ``row`` on."""
        kept = tuple(name for name in getattr(self, side) if name != patient)
        left = (*self.left, DepartedPatient(patient=patient, side=side, row=row))
        return self.model_copy(update={side: kept, "left": left})


def delete_members(home: SiteHome, study: str, *, but: str) -> None:
    """Forget the members of a study's earlier snapshots."""
    for path in (home.directory / "approved").glob(f"{study}.*.members"):
        if path != _path(home, study, but):
            path.unlink()


def _path(home: SiteHome, study: str, snapshot: str) -> Path:
    return home.directory / "approved" / f"{study}.{snapshot[:16]}.members"
