"""A patient's place in memory depends on their own records alone, and memory is bounded."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flo.arrays import Mask
from flo.privacy.gradients import batches as batches_module
from flo.privacy.gradients.batches import Batches, Frame, Slot
from flo.privacy.patients.patients import Patients
from tests.privacy.slow_step import without

Shapes = dict[int, tuple[int, int]]  # name -> (patients, rows) of the frame

BATCH_SIZES = [1, 2, 4, 8, 16]
counts = st.lists(st.integers(0, 20), min_size=1, max_size=12)


def signed(records: list[int], seed: int = 0) -> Patients:
    """Every record carries (patient + 1, its number + 1) as inputs, and label 1."""
    owner = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(records)), records))
    inputs = np.stack([owner + 1.0, np.arange(len(owner)) + 1.0], axis=1)
    return Patients(inputs, np.ones(len(owner)), owner.astype(np.int64), len(records))


def fitting(records: list[int], batch: int) -> list[int]:
    """As many records for each as a micro-batch takes."""
    return [min(own, batch) for own in records]


def everything(batches: Batches, chosen: Mask | None = None) -> list[Frame]:
    return list(batches.frames(chosen))


def records_in(frames: list[Frame]) -> Counter[float]:
    return Counter(
        number
        for frame in frames
        for number in frame.inputs[frame.weights == 1][:, 1].numpy().tolist()
    )


def shapes(batches: Batches) -> Shapes:
    """What each patient, known by their first input, is computed in."""
    found: Shapes = {}
    for frame in batches.frames():
        for row in frame.inputs.reshape(frame.patients, -1, 2):
            if row[0, 0] > 0:
                found[int(row[0, 0])] = (frame.patients, len(frame.weights))
    return found


@settings(max_examples=60, deadline=None)
@given(counts, st.sampled_from(BATCH_SIZES), st.integers(0, 9))
def test_every_record_comes_exactly_once_and_padding_is_zeros_that_count_for_nothing(
    records: list[int], batch: int, seed: int
) -> None:
    records = fitting(records, batch)
    patients = signed(records, seed)
    frames = everything(Batches(patients, batch, "cpu"))
    assert records_in(frames) == Counter(np.arange(1.0, sum(records) + 1))
    for frame in frames:
        assert set(frame.weights.tolist()) <= {0.0, 1.0}
        padding = frame.weights == 0
        assert not frame.inputs[padding].any()
        assert not frame.labels[padding].any()
        assert frame.labels[~padding].all()


@settings(max_examples=60, deadline=None)
@given(counts, st.sampled_from(BATCH_SIZES), st.integers(0, 9))
def test_the_rows_of_one_patient_are_theirs_alone(
    records: list[int], batch: int, seed: int
) -> None:
    met: list[float] = []
    records = fitting(records, batch)
    for frame in Batches(signed(records, seed), batch, "cpu").frames():
        for row in frame.by_patient(frame.inputs[:, 0]):
            names = {name for name in row.tolist() if name}
            assert len(names) <= 1
            met += names
    assert sorted(met) == [who + 1 for who, own in enumerate(records) if own]


@settings(max_examples=60, deadline=None)
@given(counts, st.sampled_from(BATCH_SIZES))
def test_a_frames_shape_follows_from_a_patients_own_records_and_the_batch(
    records: list[int], batch: int
) -> None:
    expected: Shapes = {}
    records = fitting(records, batch)
    for who, own in enumerate(records):
        if own:
            width = 1 << (own - 1).bit_length()
            expected[who + 1] = (batch // width, batch)
    assert shapes(Batches(signed(records), batch, "cpu")) == expected


@settings(max_examples=60, deadline=None)
@given(counts, st.sampled_from(BATCH_SIZES), st.data())
def test_removing_a_patient_leaves_the_shapes_of_all_others(
    records: list[int], batch: int, data: st.DataObject
) -> None:
    patients = signed(fitting(records, batch))
    gone = data.draw(st.integers(0, len(records) - 1))
    before = shapes(Batches(patients, batch, "cpu"))
    before.pop(gone + 1, None)
    assert shapes(Batches(without(patients, gone), batch, "cpu")) == before


@settings(max_examples=60, deadline=None)
@given(counts, st.sampled_from(BATCH_SIZES))
def test_no_frame_holds_more_records_than_the_batch(records: list[int], batch: int) -> None:
    for frame in everything(Batches(signed(fitting(records, batch)), batch, "cpu")):
        assert len(frame.inputs) == len(frame.labels) == len(frame.weights) == batch


@settings(max_examples=60, deadline=None)
@given(counts, st.sampled_from(BATCH_SIZES), st.data())
def test_the_chosen_come_once_and_nobody_else(
    records: list[int], batch: int, data: st.DataObject
) -> None:
    drawn = data.draw(st.lists(st.booleans(), min_size=len(records), max_size=len(records)))
    chosen, patients = np.array(drawn), signed(fitting(records, batch))
    theirs = np.flatnonzero(chosen[patients.patient]) + 1.0
    assert records_in(everything(Batches(patients, batch, "cpu"), chosen)) == Counter(theirs)


@settings(max_examples=60, deadline=None)
@given(counts, st.sampled_from([4, 8, 16]), st.integers(1, 5), st.data())
def test_processes_share_the_patients_whatever_memory_each_of_them_has(
    records: list[int], batch: int, processes: int, data: st.DataObject
) -> None:
    """Nobody is left out, and nobody is counted by two processes."""
    patients = signed([min(own, 2) for own in records])
    pieces = [size for size in (2, 4, 8, 16) if size <= batch]
    shared = [
        Batches(
            patients,
            *(batch, "cpu"),
            at_once=data.draw(st.sampled_from(pieces)),
            slot=Slot(number, processes),
        )
        for number in range(processes)
    ]
    chosen = np.array(data.draw(st.lists(st.booleans(), min_size=20, max_size=20)))[: len(records)]
    everyone = Counter(np.arange(1.0, len(patients.inputs) + 1))
    theirs = Counter(np.flatnonzero(chosen[patients.patient]) + 1.0)
    assert sum((records_in(everything(one)) for one in shared), Counter()) == everyone
    assert sum((records_in(everything(one, chosen)) for one in shared), Counter()) == theirs


def test_smaller_frames_hold_the_same_records() -> None:
    patients = signed([1, 1, 2, 3, 4, 4, 1])
    small = everything(Batches(patients, 16, "cpu", at_once=4))
    assert {len(frame.weights) for frame in small} == {4}
    assert records_in(small) == records_in(everything(Batches(patients, 16, "cpu")))


def test_a_loop_left_early_starts_again_from_the_beginning() -> None:
    batches = Batches(signed([1, 1, 2, 3, 4, 4]), 4, "cpu")
    for _ in range(3):
        next(batches.frames())
    assert records_in(everything(batches)) == Counter(np.arange(1.0, 16))


@pytest.mark.parametrize("kept_bytes", [0, 1 << 20], ids=["made anew", "kept"])
def test_everyone_is_the_same_as_all_chosen_bit_by_bit(
    kept_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches_module, "_KEPT_BYTES", kept_bytes)
    batches = Batches(signed([1, 1, 2, 3, 4, 4]), 4, "cpu")
    assert records_in(everything(batches)) == Counter(np.arange(1.0, 16))
    everyone, chosen = everything(batches), everything(batches, np.ones(6, dtype=np.bool_))
    for one, other in zip(everyone, chosen, strict=True):
        assert one.patients == other.patients
        for name in ("inputs", "labels", "weights"):
            assert torch.equal(getattr(one, name), getattr(other, name))


def test_a_file_without_patients_has_no_frames() -> None:
    nobody = Patients(np.zeros((0, 2)), np.zeros(0), np.zeros(0, dtype=np.int64), 0)
    assert everything(Batches(nobody, 4, "cpu")) == []


@pytest.mark.parametrize("batch", [0, -1, -4, 3, 6, 100])
def test_a_batch_that_is_no_power_of_two_is_refused(batch: int) -> None:
    with pytest.raises(ValueError, match="power of two"):
        Batches(signed([1]), batch, "cpu")


@pytest.mark.parametrize("batch", [1, 4, 16])
def test_a_patient_with_more_records_than_a_micro_batch_is_refused(batch: int) -> None:
    Batches(signed([1, batch]), batch, "cpu")
    with pytest.raises(ValueError, match=f"more than the {batch} records"):
        Batches(signed([1, batch + 1]), batch, "cpu")


def test_reordering_moves_whole_patients_and_nothing_else() -> None:
    (frame,) = Batches(signed([2, 2, 2, 2]), 8, "cpu").frames()
    order = torch.tensor([2, 0, 3, 1])
    moved = frame.reordered(order)
    for name in ("inputs", "labels", "weights"):
        rows, others = getattr(frame, name), getattr(moved, name)
        assert torch.equal(frame.by_patient(rows)[order], moved.by_patient(others))
