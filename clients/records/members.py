"""Members of a study's frozen snapshot, as keyed hashes sealed by the site's key store.

Each snapshot has a file, named after it. The approval names the snapshot, so both change in one
step.

Members are needed to honour an opt-out, and to answer a patient's later question: "in which models
am I?". The hashes stay after the study has ended; without ``patients.key`` they reveal no patient.
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
    """A patient who was removed. ``row``: the ledger's last row at that moment."""

    patient: Digest
    side: Side
    row: Annotated[int, Field(ge=0, le=LARGEST_COUNT)]


class Members(Document):
    """``training`` and ``held_out``: keyed hashes in the snapshot's order of patients."""

    schema_version: Literal[1] = 1
    training: tuple[Digest, ...]
    held_out: tuple[Digest, ...]
    left: tuple[DepartedPatient, ...] = ()

    @classmethod
    def load(cls, home: SiteHome, study: str, snapshot: str) -> Members | None:
        """Read them; None for a study approved before members were stored (FLO 0.1)."""
        path = _path(home, study, snapshot)
        if not path.exists():
            return None
        data = read_secret(path, home.open_keystore(), f"members of {snapshot}")
        return parse(
            cls, canonical.decode(data, limit=_LIMIT, what="members", values=_LIMIT), str(path)
        )

    def save(self, home: SiteHome, study: str, snapshot: str) -> None:
        """Write them, sealed and bound to this snapshot."""
        data = self.to_bytes()
        path = _path(home, study, snapshot)
        write_secret(path, home.open_keystore(), f"members of {snapshot}", data)

    def side_of(self, patient: str) -> Side | None:
        """Return the side that this patient is on; None if on neither."""
        if patient in self.training:
            return "training"
        return "held_out" if patient in self.held_out else None

    def without(self, patient: str, side: Side, row: int) -> Members:
        """Return a copy with this patient removed after the ledger's ``row``."""
        kept = tuple(name for name in getattr(self, side) if name != patient)
        left = (*self.left, DepartedPatient(patient=patient, side=side, row=row))
        return self.model_copy(update={side: kept, "left": left})


def delete_members(home: SiteHome, study: str, *, but: str) -> None:
    """Delete the members of a study's snapshots, except those of the snapshot ``but``."""
    for path in (home.directory / "approved").glob(f"{study}.*.members"):
        if path != _path(home, study, but):
            path.unlink()


def _path(home: SiteHome, study: str, snapshot: str) -> Path:
    return home.directory / "approved" / f"{study}.{snapshot[:16]}.members"
