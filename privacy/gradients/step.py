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
* Norms, factors and sums of a micro-batch are float64, and micro-batches are added as integers
  (``flo.privacy.gradients.exact_sums``), so that several processes may each sum some of them. TF32,
  autocast and algorithm search are off. There is no sampling here, no early exit and no state
  between calls. Processes must compute in the same ``manner``.
* A device without the memory for a micro-batch computes it in smaller ones, of a size that is found
  when the step is made, with no patient in the device's memory. It never changes afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import product
from typing import TypeVar

import numpy as np
import torch
from torch import nn

from flo.arrays import Floats, Integers, Mask
from flo.errors import StudyError
from flo.privacy.gradients import exact_sums
from flo.privacy.gradients.batches import EVERY_BLOCK, Batches, Frame, Slot, clear_devices
from flo.privacy.gradients.bookkeeping import BookKeeping, Loss
from flo.privacy.gradients.composites import opacus_findings
from flo.privacy.gradients.independence import find_cross_patient_dependence
from flo.privacy.gradients.isolation import Isolated
from flo.privacy.gradients.per_sample import Looped, Vmapped
from flo.privacy.patients.patients import Patients
from flo.study.parameters import Vector

GradientMethod = BookKeeping | Vmapped | Looped
_Done = TypeVar("_Done")


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
        most_records: int = 1,
        at_once: int | None = None,
        device: str = "cpu",
    ) -> None:
        """Choose a gradient method and test it.

        Args:
            module: maps inputs (n, …) to outputs (n, …); float32 or float64; no dropout.
            loss: maps outputs and labels (n,) to one loss per record, (n,).
            clip: L2 bound on a patient's gradient; positive and finite.
            examples: inputs of some records (m, …), made up and public, to test the module on.
            batch: records in a block, a power of two of at most 2^12; public.
            most_records: the most records that a patient may have, at most ``batch``; public.
            at_once: records in a micro-batch, ``batch`` if None; fewer if memory is short.
            device: a name that torch knows, such as cpu or cuda:1.

        Raises:
            ValueError: clip or batch out of range.
            StudyError: no method keeps patients independent, or the device's memory is too small.
        """
        if not (np.isfinite(clip) and clip > 0):
            raise ValueError(f"clip must be positive and finite, got {clip}")
        limit = exact_sums.LARGEST_BATCH
        if not most_records <= batch <= limit:
            raise ValueError(f"batch must lie in {most_records}..{limit}, got {batch}")
        self._module = module.to(device).requires_grad_(False)
        self._clip, self._batch, self._device = clip, batch, device
        self._at_once, self._least = at_once or batch, 1 << (most_records - 1).bit_length()
        self._examples = examples
        self._flat = _views_of_one_vector(list(module.parameters()))
        given = self._flat.dtype
        while True:
            try:
                self.way, self.reasons = _with_room(lambda: self._choose(loss, given))
                return
            except torch.OutOfMemoryError:
                self._shrink()

    @property
    def manner(self) -> dict[str, str | int]:
        """All on which the bits of a patient's gradient depend, beside their values and the study.

        Device, records at once, gradient method and precision, and threads.
        """
        on_gpu = torch.device(self._device).type == "cuda"
        return {
            "device": torch.cuda.get_device_name(self._device) if on_gpu else self._device,
            "at_once": self._at_once,
            "method": f"{self.way.name}, {self._flat.dtype}, after {len(self.reasons)} others",
            "threads": torch.get_num_threads(),
        }

    def batches(self, patients: Patients, slot: Slot = EVERY_BLOCK) -> Batches:
        """Return the patients' records in frames, those of this process's ``slot``."""
        return Batches(
            *(patients, self._batch, self._device, self._flat.dtype),
            at_once=self._at_once,
            slot=slot,
        )

    def clipped_sum(self, weights: Vector, batches: Batches, chosen: Mask | None = None) -> Floats:
        """Return Σ over (chosen) patients of clip(∇ Σ_records loss, ``clip``) at ``weights``, (p,).

        Float64; zeros if there are no patients. ``chosen``: (patients,) booleans. Raises as
        ``integer_sum`` does.
        """
        return self.to_real(self.integer_sum(weights, batches, chosen))

    def integer_sum(
        self, weights: Vector, batches: Batches, chosen: Mask | None = None
    ) -> Integers:
        """Return the same sum over the blocks of ``batches``, as integers (2, p).

        Integers of all processes that share the patients are added; ``to_real`` converts the total.

        Raises:
            ValueError: ``weights`` is not (p,).
            StudyError: the device has less memory left than when the step was made.
        """
        if weights.shape != self._flat.shape:
            raise ValueError(f"{weights.size} weights for a model of {len(self._flat)} parameters")
        self._flat.copy_(torch.from_numpy(np.require(weights, requirements="W")))
        try:
            return _with_room(lambda: self._integer_sum(batches, chosen))
        except torch.OutOfMemoryError as error:  # another program has taken memory
            raise self._too_small(self._at_once) from error

    def to_real(self, total: Integers) -> Floats:
        """Convert a sum of ``integer_sum`` to float64 (p,)."""
        return exact_sums.to_real(total, self._clip, self._batch)

    def _integer_sum(self, batches: Batches, chosen: Mask | None) -> Integers:
        total = exact_sums.zeros(len(self._flat))
        with _reproducible(self._device):
            for frame in batches.frames(chosen):
                part = self._of_frame(frame).cpu().numpy()
                exact_sums.add(total, part, self._clip, self._batch)
        return total

    def _shrink(self) -> None:
        """Halve the records computed at once, after the device ran out of memory."""
        if self._at_once <= self._least:
            raise self._too_small(self._least)
        self._at_once //= 2

    def _too_small(self, records: int) -> StudyError:
        return StudyError(
            f"{self._device} has too little free memory for {records} records at once",
            hint="free memory on that device, use another one, or a smaller model",
        )

    def _of_frame(self, frame: Frame) -> torch.Tensor:
        parts = self.way.contributions(frame)
        squared = parts[0].norm_squared
        for part in parts[1:]:
            squared = squared + part.norm_squared
        # min(1, clip/norm), and 0 where the norm is not finite
        factors = torch.nan_to_num(self._clip / squared.sqrt(), nan=0.0, posinf=1.0).clamp(max=1.0)
        return _joined([t for part in parts for t in part.total(factors)])

    def _choose(self, loss: Loss, given: torch.dtype) -> tuple[GradientMethod, list[str]]:
        reasons = opacus_findings(self._module)
        keeping = partial(BookKeeping, self._module, loss)
        tries: list[tuple[str, Callable[[], GradientMethod], torch.dtype]] = [
            *(
                ("book-keeping", partial(keeping, padded=padded, whole=whole), dtype)
                for padded, dtype, whole in product(
                    (False, True), (given, torch.float64), (True, False)
                )
            ),
            ("vmap", lambda: Vmapped(self._module, loss), given),
            ("loop", lambda: Looped(self._module, loss), given),
        ]
        has_rules = False
        for name, make, dtype in tries:
            if self._flat.dtype != dtype:
                self._flat = _views_of_one_vector(list(self._module.to(dtype).parameters()))
            if name == "vmap" and has_rules:
                continue  # a network could hide its kernels' differences, if only tested as a whole
            try:
                way = make()
                has_rules |= isinstance(way, BookKeeping)
                mixes = self._try_out(way)
            except torch.OutOfMemoryError:
                raise
            except (ValueError, RuntimeError, TypeError, IndexError) as error:
                if "ALLOC_FAILED" in str(error):  # as CUDA's libraries say it
                    raise torch.OutOfMemoryError(str(error)) from error
                mixes = str(error).splitlines()[0]
            if mixes is None:
                return way, reasons
            if f"not {name}: {mixes}" not in reasons:
                reasons.append(f"not {name}: {mixes}")
        raise StudyError(
            f"the model cannot be trained one patient at a time: {'; '.join(reasons)}",
            hint="use layers that treat each record alone, such as GroupNorm instead of BatchNorm",
        )

    def _try_out(self, way: GradientMethod) -> str | None:
        """Test every shape that patients can have; return the first dependence found, or None."""
        size = self._at_once
        inputs = np.resize(self._examples, (size, *self._examples.shape[1:])).astype(np.float64)
        labels = np.arange(size) % 2
        observed = [way.observables]
        if isinstance(way, BookKeeping):
            observed.append(Isolated(way).observables)
        records = 1
        while records <= self._least:
            patient = np.arange(size) // records
            made_up = Patients(inputs, labels.astype(np.float64), patient, patient[-1] + 1)
            frame = next(self.batches(made_up).frames())
            with _reproducible(self._device):
                for observables in observed:
                    if mixes := find_cross_patient_dependence(observables, frame):
                        return mixes
            records *= 2
        return None


def _with_room(work: Callable[[], _Done]) -> _Done:
    """Do the work; if the device runs out of memory, again without patients in its memory."""
    try:
        return work()
    except torch.OutOfMemoryError:
        if not clear_devices():
            raise
    return work()


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
