"""A device that runs out of memory computes smaller pieces, and the same whoever its patients are.

There is no GPU here: a gradient method raises torch's own error, as a CUDA kernel would, for more
rows than fit. Weights are large and float32, so that bits that depend on a shape become visible.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from flo.arrays import Floats
from flo.errors import StudyError
from flo.privacy.gradients import batches as batches_module
from flo.privacy.gradients import step as step_module
from flo.privacy.gradients.batches import Batches, Frame, Slot
from flo.privacy.gradients.bookkeeping import BookKeeping, binary_loss
from flo.privacy.gradients.contributions import PatientGradients
from flo.privacy.gradients.step import PrivateStep
from flo.privacy.patients.patients import Patients
from flo.study import networks
from tests.privacy.slow_step import examples, seeded, weights_of, without

BATCH = 64
WIDTH = 3


class Cramped(BookKeeping):
    """Book-keeping on a device with memory for ``rows`` rows, less if patients are in it.

    ``fails_at``: numbers of the calls to ``contributions`` at which memory is out all the same.
    """

    rows = BATCH
    fails_at: tuple[int, ...] = ()
    calls = 0
    error: Exception = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    def observables(self, frame: Frame) -> list[torch.Tensor]:
        self._allocate(frame)
        return super().observables(frame)

    def contributions(self, frame: Frame) -> list[PatientGradients]:
        Cramped.calls += 1
        if Cramped.calls in Cramped.fails_at:
            raise Cramped.error
        self._allocate(frame)
        return super().contributions(frame)

    def _allocate(self, frame: Frame) -> None:
        taken = sum(len(batches._inputs) for batches in batches_module._ON_DEVICE)
        if len(frame.weights) > Cramped.rows - taken:
            raise Cramped.error


@pytest.fixture(autouse=True)
def _short_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_module, "BookKeeping", Cramped)
    for name, value in (("rows", BATCH), ("fails_at", ()), ("calls", 0)):
        monkeypatch.setattr(Cramped, name, value)


def made(rows: int = BATCH, most_records: int = 2) -> tuple[PrivateStep, Floats]:
    """A step made on a device with so many free rows, and large weights."""
    Cramped.rows = rows
    module = seeded(networks.build(networks.mlp(WIDTH, (8,))))
    weights = 1e4 * weights_of(module)
    step = PrivateStep(
        module,
        *(binary_loss, 0.5),
        examples=examples(WIDTH),
        batch=BATCH,
        most_records=most_records,
    )
    return step, weights


def patients(count: int = 150) -> Patients:
    generator = np.random.default_rng(5)
    owner = np.concatenate([np.arange(count), np.arange(0, count, 3)])
    labels = generator.integers(0, 2, len(owner)).astype(np.float64)
    return Patients(generator.normal(size=(len(owner), WIDTH)), labels, owner, count)


def on_device(step: PrivateStep, some: Patients) -> Batches:
    """As if a GPU held the patients."""
    batches = step.batches(some)
    batches_module._ON_DEVICE.add(batches)
    return batches


@pytest.mark.parametrize(("rows", "at_once"), [(2, 2), (3, 2), (20, 16), (63, 32), (64, 64)])
def test_a_step_is_made_for_the_memory_there_is_by_the_same_method(rows: int, at_once: int) -> None:
    step, weights = made(rows)
    assert step.manner == made(BATCH)[0].manner | {"at_once": at_once}
    frames = list(step.batches(patients()).frames())
    assert {len(frame.weights) for frame in frames} == {at_once}
    assert np.isfinite(step.clipped_sum(weights, step.batches(patients()))).all()


def test_an_allocation_that_fails_inside_a_library_is_no_reason_for_another_method(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"
    monkeypatch.setattr(Cramped, "error", RuntimeError(text))
    step, _ = made(20)
    assert (step.manner["at_once"], step.way.name, step.reasons) == (16, "book-keeping", [])


def test_patients_in_the_devices_memory_do_not_make_the_pieces_smaller() -> None:
    """They are moved away first, so the shapes are those of a hospital without patients."""
    other, _ = made()
    held = on_device(other, patients())
    step, _ = made(40)
    assert step.manner["at_once"] == 32
    assert not batches_module._ON_DEVICE
    assert held._inputs.device.type == "cpu"


@pytest.mark.parametrize("call", [1, 3, 4])
def test_memory_that_is_out_in_the_middle_gives_the_same_sum_to_the_bit(call: int) -> None:
    """Computed from its beginning again, with no patient in the device's memory."""
    step, weights = made()
    before = step.integer_sum(weights, step.batches(patients()))
    Cramped.rows, Cramped.calls, Cramped.fails_at = 10 * BATCH, 0, (call,)
    again = step.integer_sum(weights, on_device(step, patients()))
    np.testing.assert_array_equal(again, before)
    assert step.manner["at_once"] == BATCH


@pytest.mark.parametrize("present", [True, False])
def test_memory_that_stays_out_is_named_and_changes_nothing_later(present: bool) -> None:
    """Whether patients were on the device makes no difference to the answer."""
    step, weights = made()
    batches = on_device(step, patients()) if present else step.batches(patients())
    before = step.integer_sum(weights, step.batches(patients()))
    Cramped.rows = 20
    with pytest.raises(StudyError, match="cpu has too little free memory for 64 records") as error:
        step.integer_sum(weights, batches)
    assert "smaller model" in error.value.hint
    Cramped.rows = BATCH
    np.testing.assert_array_equal(step.integer_sum(weights, batches), before)


def test_a_device_too_small_for_one_patient_is_named() -> None:
    with pytest.raises(StudyError, match="cpu has too little free memory for 2 records"):
        made(1)


@pytest.mark.parametrize("rows", [2, 20, 64])
def test_removing_a_patient_moves_the_sum_by_the_clip_where_memory_is_short(rows: int) -> None:
    step, weights = made(rows)

    def shared(some: Patients) -> Floats:
        parts = [step.integer_sum(weights, step.batches(some, Slot(k, 3))) for k in range(3)]
        return step.to_real(np.sum(parts, axis=0))

    everyone = shared(patients())
    for who in (0, 3, 149):
        moved = everyone - shared(without(patients(), who))
        assert 0 < np.linalg.norm(moved) <= 0.5 * (1 + 1e-9)


@pytest.mark.parametrize("most_records", [BATCH + 1, 1 << 17])
def test_a_batch_that_holds_no_patient_is_refused(most_records: int) -> None:
    with pytest.raises(ValueError, match="batch must lie in"):
        made(most_records=most_records)
