"""Patients' records in micro-batches of fixed shapes, so that no patient affects another's result.

A patient with r records is padded into a micro-batch of R = 2^⌈log2 r⌉ records per patient and
``batch``/R patients. The shape in which a patient is computed depends on their own record count and
the study, never on other patients. Padding is zeros with weight 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from flo.arrays import Mask
from flo.privacy.patients.patients import Patients

_KEPT_BYTES = 256 << 20  # larger data are split into frames on every pass


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
        self, patients: Patients, batch: int, device: str, dtype: torch.dtype = torch.float32
    ) -> None:
        """Prepare frames of ``batch`` records, a power of two; it bounds memory and must be public.

        Raises:
            ValueError: ``batch`` is no power of two, or a patient has more records than that.
        """
        if batch < 1 or batch & (batch - 1):
            raise ValueError(f"batch must be a power of two, got {batch}")
        self._batch, self._count = batch, patients.count
        self._device = device
        # Padding points to one additional record of zeros.
        self._inputs = _with_zero_row(patients.inputs).to(dtype)
        self._labels = _with_zero_row(patients.labels).to(dtype)
        self._padding = len(patients.inputs)
        self._order = np.argsort(patient := patients.patient, kind="stable")
        self._records = np.bincount(patient, minlength=patients.count)
        if patients.count and self._records.max() > batch:
            raise ValueError(f"a patient has more than the {batch} records of a micro-batch")
        self._first = np.cumsum(self._records) - self._records
        small = self._inputs.numel() * self._inputs.element_size() <= _KEPT_BYTES
        self._kept = [self._frame(rows) for rows in self._everyone()] if small else None

    def frames(self, chosen: Mask | None = None) -> Iterator[Frame]:
        """Yield the frames of all patients, or of those that ``chosen`` selects."""
        if chosen is None and self._kept is not None:
            yield from self._kept
        else:
            some = self._everyone() if chosen is None else self._rows(np.flatnonzero(chosen))
            for rows in some:
                yield self._frame(rows)

    def _everyone(self) -> Iterator[npt.NDArray[np.int64]]:
        return self._rows(np.arange(self._count))

    def _rows(self, patients: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.int64]]:
        """Yield record numbers (P, R) of each frame, padded."""
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
        index = torch.from_numpy(rows.reshape(-1))
        real = (index != self._padding).to(self._labels.dtype)
        return Frame(
            self._inputs[index].to(self._device),
            self._labels[index].to(self._device),
            real.to(self._device),
            len(rows),
        )


def _with_zero_row(values: npt.NDArray[np.float64]) -> torch.Tensor:
    return torch.from_numpy(np.concatenate([values, np.zeros((1, *values.shape[1:]))]))
