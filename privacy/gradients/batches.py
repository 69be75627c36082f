"""Patients' records in micro-batches of fixed shapes, so that no patient affects another's result.

A patient with r records is padded into a block of R = 2^⌈log2 r⌉ records per patient and
``batch``/R patients. A block is computed at once, or in equal pieces of ``at_once`` records if the
device's memory is too small. The shape in which a patient is computed depends on their own record
count, the study and the device, never on other patients. Padding is zeros with weight 0.

Several processes may share a site's patients: each takes every n-th block (``Slot``). A patient who
leaves moves others to other blocks, and so to other processes: all of them must compute alike.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from flo.arrays import Mask
from flo.privacy.patients.patients import Patients

_KEPT_BYTES = 256 << 20  # larger data are split into frames on every pass
_RESIDENT_SHARE = 0.5  # of a GPU's free memory, for the patients of one study


class Slot(NamedTuple):
    """One of ``processes`` processes that share the blocks: it takes those of its ``number``."""

    number: int
    processes: int


EVERY_BLOCK = Slot(0, 1)
_ON_DEVICE = weakref.WeakSet["Batches"]()  # those whose patients are in a GPU's memory


@dataclass(frozen=True)
class Frame:
    """One micro-batch: P patients with R records each.

    Shapes: inputs (P·R, d) and labels (P·R,) in the module's dtype, weights (P·R,) 1 for a record
    and 0 for padding. The place of an absent patient is all padding.
    """

    inputs: torch.Tensor
    labels: torch.Tensor
    weights: torch.Tensor
    patients: int

    def by_patient(self, rows: torch.Tensor) -> torch.Tensor:
        """Reshape (P·R, …) or (P, …) to (P, R·…)."""
        return rows.reshape(self.patients, -1)

    def reordered(self, order: torch.Tensor) -> Frame:
        """Return the same patients in another order (P,)."""

        def moved(rows: torch.Tensor) -> torch.Tensor:
            return self.by_patient(rows)[order].reshape(rows.shape)

        return Frame(moved(self.inputs), moved(self.labels), moved(self.weights), self.patients)


class Batches:
    """Some patients' records on a device, in frames."""

    def __init__(
        self,
        patients: Patients,
        batch: int,
        device: str,
        dtype: torch.dtype = torch.float32,
        *,
        at_once: int | None = None,
        slot: Slot = EVERY_BLOCK,
    ) -> None:
        """Prepare blocks of ``batch`` records, a power of two; it bounds memory and must be public.

        Args:
            patients: their records.
            batch: records in a block.
            device: where frames are needed. A GPU keeps all records if they fit in half of its free
                memory.
            dtype: of inputs, labels and weights.
            at_once: records in a frame, a power of two; ``batch`` if None.
            slot: the blocks that this process computes.

        Raises:
            ValueError: ``batch`` or ``at_once`` is no power of two, or a patient has more records.
        """
        self._batch, self._at_once, self._slot = batch, at_once or batch, slot
        for records in (self._batch, self._at_once):
            if records < 1 or records & (records - 1):
                raise ValueError(f"batch must be a power of two, got {records}")
        self._count, self._device = patients.count, device
        # Padding points to one additional record of zeros.
        self._inputs = _with_zero_row(patients.inputs).to(dtype)
        self._labels = _with_zero_row(patients.labels).to(dtype)
        self._padding = len(patients.inputs)
        self._order = np.argsort(patient := patients.patient, kind="stable")
        self._records = np.bincount(patient, minlength=patients.count)
        if patients.count and self._records.max() > self._at_once:
            raise ValueError(
                f"a patient has more than the {self._at_once} records of a micro-batch"
            )
        self._first = np.cumsum(self._records) - self._records
        on_cpu = torch.device(device).type == "cpu"
        small = self._inputs.numel() * self._inputs.element_size() <= _KEPT_BYTES
        self._kept = list(self._made(np.arange(self._count))) if on_cpu and small else None
        if not on_cpu and _fits(self._inputs, device):
            with contextlib.suppress(torch.OutOfMemoryError):  # then they stay where they are
                self._inputs, self._labels = self._inputs.to(device), self._labels.to(device)
                _ON_DEVICE.add(self)

    def frames(self, chosen: Mask | None = None) -> Iterator[Frame]:
        """Yield this process's frames of all patients, or of those that ``chosen`` selects."""
        if chosen is not None:
            yield from self._made(np.flatnonzero(chosen))
        elif self._kept is not None:
            yield from self._kept
        else:
            yield from self._made(np.arange(self._count))

    def leave_device(self) -> None:
        """Keep the records in the host's memory from now on."""
        self._inputs, self._labels = self._inputs.cpu(), self._labels.cpu()

    def _made(self, patients: npt.NDArray[np.int64]) -> Iterator[Frame]:
        number, processes = self._slot
        for rows in islice(self._blocks(patients), number, None, processes):
            pieces = rows.size // self._at_once
            for piece in np.split(rows, pieces) if pieces > 1 else (rows,):
                yield self._frame(piece)

    def _blocks(self, patients: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.int64]]:
        """Yield record numbers (P, R) of each block, padded."""
        width = 1
        while width <= self._batch:
            own = self._records[patients]
            some = patients[(own <= width) & (own > width // 2)]
            height = self._batch // width
            for start in range(0, len(some), height):
                rows = np.full((height, width), self._padding)
                rows[: len(some[start : start + height])] = self._rows_of(
                    some[start : start + height], width
                )
                yield rows
            width *= 2

    def _rows_of(self, patients: npt.NDArray[np.int64], width: int) -> npt.NDArray[np.int64]:
        place = np.arange(width)
        inside = place < self._records[patients][:, None]
        rows = np.minimum(self._first[patients][:, None] + place, len(self._order) - 1)
        return np.where(inside, self._order[rows], self._padding)

    def _frame(self, rows: npt.NDArray[np.int64]) -> Frame:
        index = torch.from_numpy(rows.reshape(-1)).to(self._inputs.device)
        real = (index != self._padding).to(self._labels.dtype)
        return Frame(
            self._inputs[index].to(self._device),
            self._labels[index].to(self._device),
            real.to(self._device),
            len(rows),
        )


def clear_devices() -> bool:
    """Move the patients of all studies to the host's memory; return whether any were elsewhere.

    What then fits on a device depends on the study, and not on how many patients a site has.
    """
    moved = list(_ON_DEVICE)
    for batches in moved:
        batches.leave_device()
    _ON_DEVICE.clear()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return bool(moved)


def _fits(values: torch.Tensor, device: str) -> bool:
    free, _ = torch.cuda.mem_get_info(device)
    return values.numel() * values.element_size() <= _RESIDENT_SHARE * free


def _with_zero_row(values: npt.NDArray[np.float64]) -> torch.Tensor:
    return torch.from_numpy(np.concatenate([values, np.zeros((1, *values.shape[1:]))]))
