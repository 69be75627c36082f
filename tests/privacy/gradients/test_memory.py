"""A device that runs out of memory computes smaller pieces, and gives the same answer or none.

There is no GPU here: a gradient method raises torch's own error, as a CUDA kernel would, for more
rows than fit.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from flo.arrays import Floats
from flo.errors import StudyError
from flo.privacy.gradients import exact_sums
from flo.privacy.gradients.batches import Frame, Slot
from flo.privacy.gradients.bookkeeping import BookKeeping, binary_loss
from flo.privacy.gradients.contributions import PatientGradients
from flo.privacy.gradients.step import PrivateStep
from flo.privacy.patients.patients import Patients
from flo.study import networks
from tests.privacy.slow_step import examples, seeded, weights_of, without

BATCH = 64
WIDTH = 3


class Cramped(BookKeeping):
    """Book-keeping on a device whose memory holds ``rows`` rows."""

    rows = 0

    def observables(self, frame: Frame) -> list[torch.Tensor]:
        self._allocate(frame)
        return super().observables(frame)

    def contributions(self, frame: Frame) -> list[PatientGradients]:
        self._allocate(frame)
        return super().contributions(frame)

    def _allocate(self, frame: Frame) -> None:
        if len(frame.weights) > self.rows:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.fixture(autouse=True)
def _short_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flo.privacy.gradients.step.BookKeeping", Cramped)


class Device:
    """Its memory holds ``rows`` rows of a micro-batch."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.module = seeded(networks.build(networks.mlp(WIDTH, (8,))).double())
        self.weights = weights_of(self.module)

    def step(self, most_records: int = 2) -> PrivateStep:
        Cramped.rows = self.rows
        return PrivateStep(
            *(self.module, binary_loss, 0.5),
            examples=examples(WIDTH),
            batch=BATCH,
            most_records=most_records,
        )


def patients(count: int = 150) -> Patients:
    generator = np.random.default_rng(5)
    owner = np.concatenate([np.arange(count), np.arange(0, count, 3)])
    labels = generator.integers(0, 2, len(owner)).astype(np.float64)
    return Patients(generator.normal(size=(len(owner), WIDTH)), labels, owner, count)


def summed(device: Device, some: Patients | None = None) -> Floats:
    step, some = device.step(), patients() if some is None else some
    return step.clipped_sum(device.weights, step.batches(some))


@pytest.mark.parametrize("rows", [2, 3, 20, 63])
def test_less_memory_gives_the_same_sum_by_the_same_method(rows: int) -> None:
    np.testing.assert_allclose(summed(Device(rows)), summed(Device(BATCH)), rtol=0, atol=1e-12)
    assert Device(rows).step().way.name == Device(BATCH).step().way.name


@pytest.mark.parametrize("rows", [2, 20])
def test_memory_that_another_program_takes_later_changes_nothing(rows: int) -> None:
    device = Device(BATCH)
    step = device.step()
    batches = step.batches(patients())
    before = step.integer_sum(device.weights, batches)
    Cramped.rows = rows
    after = step.integer_sum(device.weights, batches)
    np.testing.assert_allclose(step.to_real(after), step.to_real(before), rtol=0, atol=1e-12)
    Cramped.rows = BATCH  # it does not grow again: the shapes that a patient sees stay
    np.testing.assert_array_equal(step.integer_sum(device.weights, batches), after)


def test_smaller_pieces_are_tried_out_before_they_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(BATCH)
    step = device.step()
    batches = step.batches(patients())
    Cramped.rows = 16
    monkeypatch.setattr(
        "flo.privacy.gradients.step.find_cross_patient_dependence",
        lambda seen, frame: "a record's result changes with its place" if seen(frame) else None,
    )
    with pytest.raises(StudyError, match="in micro-batches of 16 records a record's result"):
        step.integer_sum(device.weights, batches)


def test_a_device_too_small_for_one_patient_is_named_before_and_during_training() -> None:
    with pytest.raises(StudyError, match="cpu has too little free memory for 2 records") as error:
        Device(1).step()
    assert "smaller model" in error.value.hint
    device = Device(BATCH)
    step = device.step()
    batches = step.batches(patients())
    Cramped.rows = 1
    with pytest.raises(StudyError, match="cpu has too little free memory for 2 records"):
        step.clipped_sum(device.weights, batches)


def test_processes_with_different_memory_count_every_patient_once() -> None:
    devices = [Device(BATCH), Device(16), Device(5)]
    total = exact_sums.zeros(len(devices[0].weights))
    for number, device in enumerate(devices):
        step = device.step()
        mine = step.batches(patients(), Slot(number, len(devices)))
        total += step.integer_sum(device.weights, mine)
    np.testing.assert_allclose(step.to_real(total), summed(Device(BATCH)), rtol=0, atol=1e-12)


def test_what_fits_does_not_depend_on_who_is_there() -> None:
    """A patient removed moves the sum by the clip at most, also where memory is short."""
    everyone = summed(Device(20))
    for who in (0, 3, 149):
        assert (
            np.linalg.norm(everyone - summed(Device(20), without(patients(), who))) <= 0.5 + 1e-12
        )


@pytest.mark.parametrize("most_records", [BATCH + 1, 1 << 17])
def test_a_batch_that_holds_no_patient_is_refused(most_records: int) -> None:
    with pytest.raises(ValueError, match="batch must lie in"):
        Device(BATCH).step(most_records)
