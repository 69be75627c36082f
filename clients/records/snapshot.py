"""The frozen copy of a hospital's data that one approved study runs on.

Made once, at approval, from a checked table; numeric arrays only, readable by the owner only.
Training and evaluation read this file and never the hospital's own data.
"""

from __future__ import annotations

import hashlib
import io
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt

from flo.documents import canonical
from flo.errors import TrustError
from flo.privacy.patients.patients import Patients
from flo.privacy.patients.split import is_held_out
from flo.storage.files import private_file

if TYPE_CHECKING:
    from flo.clients.quality.check import EncodedTable


@dataclass(frozen=True)
class Snapshot:
    """Patients to train on and patients to evaluate on; no patient is in both.

    ``salt``: random, so that a copy of the same patients has another digest; empty at first.
    ``frozen``: the file of the model's frozen layers (``flo.study.frozen``), if it has some.
    """

    training: Patients
    held_out: Patients
    salt: bytes = b""
    frozen: bytes = b""

    @classmethod
    def of(cls, checked: EncodedTable, split_key: bytes, hold_out: float) -> Snapshot:
        """Split checked records by the keyed hash of their patient id."""
        return cls.divided(
            checked,
            {name for name in checked.patient_ids if is_held_out(split_key, name, hold_out)},
        )

    @classmethod
    def divided(cls, checked: EncodedTable, held_out: set[str], frozen: bytes = b"") -> Snapshot:
        """Split checked records into those of ``held_out`` patients and all others."""
        aside = np.array([name in held_out for name in checked.patient_ids], dtype=bool)
        return cls(_patients(checked, ~aside), _patients(checked, aside), frozen=frozen)

    def to_bytes(self) -> bytes:
        """Return an uncompressed ``.npz`` without pickles; equal snapshots give equal bytes."""
        buffer = io.BytesIO()
        self._save(buffer)
        return buffer.getvalue()

    def _save(self, file: BinaryIO) -> None:
        arrays = _arrays("training", self.training) | _arrays("held", self.held_out)
        if self.salt:
            arrays["salt"] = np.frombuffer(self.salt, dtype=np.uint8)
        if self.frozen:
            arrays["frozen"] = np.frombuffer(self.frozen, dtype=np.uint8)
        np.savez(file, allow_pickle=False, **arrays)

    def write(self, path: Path) -> str:
        """Write to ``path``, readable by the owner only (0600). Return its SHA-256, which an
        approval names."""
        with private_file(path) as file:
            self._save(file)
            file.seek(0)
            return hashlib.file_digest(file, "sha256").hexdigest()

    def without(self, side: Literal["training", "held_out"], number: int) -> Snapshot:
        """Return a copy without one patient, given by their number within ``side``."""
        patients: Patients = getattr(self, side)
        kept = patients.patient != number
        numbers = patients.patient[kept]
        fewer = Patients(
            patients.inputs[kept],
            patients.labels[kept],
            numbers - (numbers > number),
            patients.count - 1,
        )
        if side == "training":
            return replace(self, training=fewer)
        return replace(self, held_out=fewer)

    def salted(self) -> Snapshot:
        """Return the same patients under another digest."""
        return replace(self, salt=os.urandom(16))

    @classmethod
    def read(cls, path: Path, digest: str) -> Snapshot:
        """Read a snapshot. Raises TrustError if the file is not the one that was approved."""
        data = path.read_bytes()
        if canonical.digest(data) != digest:
            raise TrustError(f"snapshot {path.name} is not the one that was approved")
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            patients = (_from_arrays("training", arrays), _from_arrays("held", arrays))
            return cls(*patients, _bytes("salt", arrays), _bytes("frozen", arrays))


def _patients(checked: EncodedTable, chosen: npt.NDArray[np.bool_]) -> Patients:
    own = checked.where(chosen)
    distinct = {name: i for i, name in enumerate(dict.fromkeys(own.patient_ids))}
    numbers = np.array([distinct[name] for name in own.patient_ids], dtype=np.int64)
    return Patients(own.inputs, own.labels, numbers, len(distinct))


def _arrays(prefix: str, patients: Patients) -> dict[str, Any]:
    return {
        f"{prefix}_inputs": patients.inputs,
        f"{prefix}_labels": patients.labels,
        f"{prefix}_patient": patients.patient,
        f"{prefix}_count": np.array(patients.count),
    }


def _bytes(name: str, arrays: np.lib.npyio.NpzFile) -> bytes:
    return arrays[name].tobytes() if name in arrays else b""


def _from_arrays(prefix: str, arrays: np.lib.npyio.NpzFile) -> Patients:
    return Patients(
        arrays[f"{prefix}_inputs"],
        arrays[f"{prefix}_labels"],
        arrays[f"{prefix}_patient"],
        int(arrays[f"{prefix}_count"]),
    )
