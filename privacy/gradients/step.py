"""The private step before noise: every patient's gradient, clipped, summed.

Guarantee: for any data whatsoever, adding or removing one patient changes ``clipped_sum`` by at
most ``clip`` in L2 (plus float64 rounding, covered by the mechanism's slack of 2^-10).

* A patient's records have one gradient, that of their summed loss, and are clipped together.
* A patient whose gradient is not finite counts as zero, by the same operations as any other
  patient.
* Patients are computed in micro-batches of fixed shapes (``flo.privacy.gradients.batches``). The
  gradient method is chosen from the module's structure and then tested on made-up patients
  (``flo.privacy.gradients.independence``): book-keeping, else vmap, else one patient at a time. A
  method is rejected if a patient's values change, by a single bit, with position or neighbours.
* Norms, factors and sums are float64; TF32, autocast and algorithm search are off. There is no
  sampling here, no early exit and no state between calls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from flo.arrays import Floats, Mask
from flo.errors import StudyError
from flo.privacy.gradients.batches import Batches, Frame
from flo.privacy.gradients.bookkeeping import BookKeeping, Loss
from flo.privacy.gradients.composites import opacus_findings
from flo.privacy.gradients.independence import find_cross_patient_dependence
from flo.privacy.gradients.per_sample import Looped, Vmapped
from flo.privacy.patients.patients import Patients
from flo.study.parameters import Vector

GradientMethod = BookKeeping | Vmapped | Looped


class PrivateStep:
    """Clipped gradient sums of one module and loss, on one device."""

    def __init__(
        self,
        module: nn.Module,
        loss: Loss,
        clip: float,
        *,
        examples: Floats,
        batch: int = 256,
        many_records: bool = False,
        device: str = "cpu",
    ) -> None:
        """Choose a gradient method and test it.

        Args:
            module: maps inputs (n, …) to outputs (n, …); float32 or float64; no dropout.
            loss: maps outputs and labels (n,) to one loss per record, (n,).
            clip: L2 bound on a patient's gradient; positive and finite.
            examples: inputs of some records (m, …), made up and public, to test the module on.
            batch: records in a micro-batch, a power of two; public.
            many_records: whether a patient may have more than one record.

        Raises:
            ValueError: clip or batch out of range.
            StudyError: no method keeps patients independent.
        """
        if not (np.isfinite(clip) and clip > 0):
            raise ValueError(f"clip must be positive and finite, got {clip}")
        self._module = module.to(device).requires_grad_(False)
        self._clip, self._batch, self._device = clip, batch, device
        self._many_records = many_records
        self._flat = _views_of_one_vector(list(module.parameters()))
        self.way, self.reasons = self._choose(loss, examples)

    def batches(self, patients: Patients) -> Batches:
        """Return the patients' records in this step's frames."""
        return Batches(patients, self._batch, self._device, self._flat.dtype)

    def clipped_sum(self, weights: Vector, batches: Batches, chosen: Mask | None = None) -> Floats:
        """Return Σ over (chosen) patients of clip(∇ Σ_records loss, ``clip``) at ``weights``, (p,).

        Float64; zeros if there are no patients. ``chosen``: (patients,) booleans.

        Raises:
            ValueError: ``weights`` is not (p,).
        """
        if weights.shape != self._flat.shape:
            raise ValueError(f"{weights.size} weights for a model of {len(self._flat)} parameters")
        self._flat.copy_(torch.from_numpy(np.require(weights, requirements="W")))
        total: torch.Tensor | None = None
        with _reproducible(self._device):
            for frame in batches.frames(chosen):
                part = self._of_frame(frame)
                total = part if total is None else total.add_(part)
        return np.zeros(len(weights)) if total is None else np.asarray(total.cpu().numpy())

    def _of_frame(self, frame: Frame) -> torch.Tensor:
        parts = self.way.contributions(frame)
        squared = parts[0].norm_squared
        for part in parts[1:]:
            squared = squared + part.norm_squared
        # min(1, clip/norm), and 0 where the norm is not finite
        factors = torch.nan_to_num(self._clip / squared.sqrt(), nan=0.0, posinf=1.0).clamp(max=1.0)
        return _joined([t for part in parts for t in part.total(factors)])

    def _choose(self, loss: Loss, examples: Floats) -> tuple[GradientMethod, list[str]]:
        reasons, given = opacus_findings(self._module), self._flat.dtype
        tries: list[tuple[str, Callable[[], GradientMethod], torch.dtype]] = [
            ("book-keeping", lambda: BookKeeping(self._module, loss), given),
            ("book-keeping", lambda: BookKeeping(self._module, loss), torch.float64),
            ("book-keeping", lambda: BookKeeping(self._module, loss, padded=True), given),
            ("book-keeping", lambda: BookKeeping(self._module, loss, padded=True), torch.float64),
            ("vmap", lambda: Vmapped(self._module, loss), given),
            ("loop", lambda: Looped(self._module, loss), given),
        ]
        for name, make, dtype in tries:
            if self._flat.dtype != dtype:
                self._flat = _views_of_one_vector(list(self._module.to(dtype).parameters()))
            try:
                way = make()
                mixes = self._try_out(way, examples)
            except (ValueError, RuntimeError, TypeError, IndexError) as error:
                mixes = str(error).splitlines()[0]
            if mixes is None:
                return way, reasons
            if f"not {name}: {mixes}" not in reasons:
                reasons.append(f"not {name}: {mixes}")
        raise StudyError(
            f"the model cannot be trained one patient at a time: {'; '.join(reasons)}",
            hint="use layers that treat each record alone, such as GroupNorm instead of BatchNorm",
        )

    def _try_out(self, way: GradientMethod, examples: Floats) -> str | None:
        """Test every shape that patients can have; return the first dependence found, or None."""
        inputs = np.resize(examples, (self._batch, *examples.shape[1:])).astype(np.float64)
        labels = np.arange(self._batch) % 2
        records = 1
        while records <= (self._batch if self._many_records else 1):
            patient = np.arange(self._batch) // records
            made_up = Patients(inputs, labels.astype(np.float64), patient, patient[-1] + 1)
            with _reproducible(self._device):
                mixes = find_cross_patient_dependence(
                    way.observables, next(self.batches(made_up).frames())
                )
            if mixes:
                return mixes
            records *= 2
        return None


def _joined(tensors: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat([t.flatten() for t in tensors])


def _views_of_one_vector(parameters: list[nn.Parameter]) -> torch.Tensor:
    """Make the parameters views of one new vector, so that loading weights is one copy."""
    flat = _joined([parameter.data for parameter in parameters])
    start = 0
    for parameter in parameters:
        parameter.data = flat[start : start + parameter.numel()].view_as(parameter)
        start += parameter.numel()
    return flat


@contextmanager
def _reproducible(device: str) -> Iterator[None]:
    """Disable TF32, autocast and algorithm search, so that a patient's values are reproducible."""
    kind = torch.device(device).type
    if kind == "cpu" and not torch.is_autocast_enabled(kind):
        yield
        return
    cuda, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = (cuda.allow_tf32, cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic)
    cuda.allow_tf32 = cudnn.allow_tf32 = cudnn.benchmark = False
    cudnn.deterministic = True
    try:
        with torch.autocast(kind, enabled=False):
            yield
    finally:
        cuda.allow_tf32, cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic = before
