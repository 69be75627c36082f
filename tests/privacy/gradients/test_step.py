"""Whatever the data, one patient moves the clipped sum by at most the clip norm."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from flo.errors import StudyError
from flo.privacy.gradients.batches import Frame
from flo.privacy.gradients.bookkeeping import binary_loss
from flo.privacy.gradients.contributions import PatientGradients
from flo.privacy.gradients.step import PrivateStep
from flo.privacy.patients.patients import Patients
from tests.privacy.slow_step import (
    BATCH,
    CASES,
    NETWORKS,
    WAYS,
    examples,
    file_of,
    only,
    slow_sum,
    step_of,
    summed,
    those,
    without,
)

# A patient's steps are added up in an order that depends on their place in the frame: the last bit
# of the sum may differ, the gradients and norms before it may not.
OF_STEPS = ("lstm", "gru", "attention", "attention over steps", "transformer")
STRANGE = (math.nan, math.inf, -math.inf, 1e38, -1e38, 1e300, -1e300, 1e154, 1e-300, 0.0, -0.0)
STRANGE_LABELS = (math.nan, math.inf, 1e38, -1e300, 0.5)
# 1e300 is finite, but the square of its length is not; tanh makes an ordinary number of it.
NOT_FINITE = [
    (kind, way, strange)
    for kind, way in CASES
    for strange in (math.nan, math.inf, -math.inf, 1e300)
    if strange != 1e300 or kind == "logistic"
]


@pytest.mark.parametrize(
    "records",
    [
        [1],
        [1] * 20,
        [2, 1, 5, 1, 1, 3, 8, 4, 4, 4],
        [BATCH],
        [BATCH - 1],
        [BATCH - 1, 1, 2, BATCH, BATCH - 5, BATCH - 3],
    ],
    ids=str,
)
@pytest.mark.parametrize("clip", [0.01, 0.5, 1e6])
@pytest.mark.parametrize(("kind", "way"), CASES)
def test_the_sum_is_what_one_patient_at_a_time_gives(
    kind: str, way: str, clip: float, records: list[int]
) -> None:
    step, weights, twin = step_of(kind, way, clip)
    patients = file_of(records, NETWORKS[kind][1])
    wanted = slow_sum(twin, binary_loss, patients, clip)
    np.testing.assert_allclose(
        summed(step, weights, patients), wanted, rtol=1e-8, atol=1e-8 * min(clip, 1)
    )


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_step_in_float32_is_right_to_float32(kind: str) -> None:
    step, weights, twin = step_of(kind, None, 0.5, torch.float32)
    patients = file_of([1, 2, 3, 5, 8, 9, 30], NETWORKS[kind][1])
    wanted = slow_sum(twin.double(), binary_loss, patients, 0.5)
    np.testing.assert_allclose(summed(step, weights, patients), wanted, atol=1e-5)
    twin.float()


@pytest.mark.parametrize(("kind", "way"), CASES)
@pytest.mark.parametrize("many", [BATCH, 20])
def test_many_records_of_one_patient_are_clipped_together_and_not_one_by_one(
    kind: str, way: str, many: int
) -> None:
    step, weights, _ = step_of(kind, way)
    record = file_of([1], NETWORKS[kind][1])
    doubled = Patients(
        np.repeat(record.inputs, many, axis=0),
        np.repeat(record.labels, many),
        np.zeros(many, dtype=np.int64),
        1,
    )
    assert np.linalg.norm(summed(step, weights, doubled)) <= 0.5 * (1 + 1e-9)


@pytest.mark.parametrize("kind", NETWORKS)
def test_no_patients_sum_to_zero(kind: str) -> None:
    step, weights, _ = step_of(kind, None)
    found = summed(step, weights, file_of([], NETWORKS[kind][1]))
    np.testing.assert_array_equal(found, np.zeros_like(weights))


@st.composite
def any_file(draw: st.DrawFn, width: int) -> Patients:
    """Up to five patients, some with many records; each may have a few strange ones."""
    sizes = st.sampled_from([1, 1, 2, 3, BATCH, BATCH - 1, BATCH - 2])
    patients = file_of(draw(st.lists(sizes, min_size=1, max_size=5)), width, draw(st.integers(0)))
    inputs, labels = patients.inputs.copy(), patients.labels.copy()
    if draw(st.booleans()):
        inputs[:] = inputs[0]  # everybody is the same
    for who in range(patients.count):
        own = st.sampled_from(np.flatnonzero(patients.patient == who).tolist())
        for row in draw(st.lists(own, max_size=2)):
            inputs[row, draw(st.integers(0, width - 1))] = draw(st.sampled_from(STRANGE))
        if draw(st.integers(0, 3)) == 3:
            labels[draw(own)] = draw(st.sampled_from(STRANGE_LABELS))
    return replace(patients, inputs=inputs, labels=labels)


@pytest.mark.parametrize(("kind", "way"), CASES)
@settings(max_examples=15, deadline=None)
@given(st.data(), st.sampled_from([1e-6, 0.5, 1e6]))
def test_removing_any_one_patient_moves_the_sum_by_what_they_alone_give_and_at_most_the_clip_norm(
    kind: str, way: str, data: st.DataObject, clip: float
) -> None:
    step, weights, _ = step_of(kind, way, clip)
    patients = data.draw(any_file(NETWORKS[kind][1]))
    who = data.draw(st.integers(0, patients.count - 1))
    everyone = summed(step, weights, patients)
    moved = everyone - summed(step, weights, without(patients, who))
    assert np.isfinite(everyone).all()
    assert np.linalg.norm(moved) <= clip * (1 + 1e-9)
    alone = summed(step, weights, only(patients, who))
    assert np.linalg.norm(moved - alone) <= clip * 1e-9


@pytest.mark.parametrize("kind", NETWORKS)
@settings(max_examples=15, deadline=None)
@given(st.data())
def test_in_float32_removing_any_one_patient_stays_within_the_mechanisms_slack(
    kind: str, data: st.DataObject
) -> None:
    step, weights, _ = step_of(kind, None, 0.5, torch.float32)
    patients = data.draw(any_file(NETWORKS[kind][1]))
    who = data.draw(st.integers(0, patients.count - 1))
    moved = summed(step, weights, patients) - summed(step, weights, without(patients, who))
    assert np.linalg.norm(moved) <= 0.5 * (1 + 2**-10)


@pytest.mark.parametrize(("kind", "way"), CASES)
def test_a_patients_gradient_is_the_same_bit_by_bit_beside_any_others(kind: str, way: str) -> None:
    # With everyone else non-finite the others count as zero, so the sum is one patient's own.
    step, weights, _ = step_of(kind, way)
    patients = file_of([1] * 30, NETWORKS[kind][1])
    chosen = step_of(kind, None)[0].way.name
    for who in (0, 17, 29):
        strange = np.where(patients.patient[:, None] == who, patients.inputs, math.nan)
        beside = summed(step, weights, replace(patients, inputs=strange))
        alone = summed(step, weights, only(patients, who))
        np.testing.assert_allclose(beside, alone, rtol=0, atol=1e-14)
        if way == chosen and kind not in OF_STEPS:
            np.testing.assert_array_equal(beside, alone)


@pytest.mark.parametrize("place", [0, BATCH - 3])
@pytest.mark.parametrize(("kind", "way", "strange"), NOT_FINITE)
@pytest.mark.parametrize("records", [2, BATCH])
def test_a_patient_who_is_not_finite_counts_as_if_absent(
    kind: str, way: str, records: int, strange: float, place: int
) -> None:
    step, weights, _ = step_of(kind, way)
    patients = file_of([1, 2, records, 1, 5], NETWORKS[kind][1])
    labels = np.where(patients.patient == 2, 1.0, patients.labels)  # no residual of exactly zero
    inputs = patients.inputs.copy()
    inputs[np.flatnonzero(patients.patient == 2)[min(place, records - 1)], 1] = strange
    present = summed(step, weights, replace(patients, inputs=inputs, labels=labels))
    absent = summed(step, weights, without(patients, 2))
    np.testing.assert_allclose(present, absent, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("x", "label"), [(1e308, 1.0), (-math.inf, 1.0), (2.0, math.inf)])
def test_a_patient_of_many_records_that_overflow_together_counts_as_if_absent(
    x: float, label: float
) -> None:
    step, _, _ = step_of("logistic", None)
    many = BATCH - 1
    patients = Patients(
        np.full((many, 3), x), np.full(many, label), np.zeros(many, dtype=np.int64), 1
    )
    found = summed(step, np.array([-0.5, -0.5, -0.5, 0.0]) * np.sign(x), patients)
    np.testing.assert_array_equal(found, np.zeros(4))


@pytest.mark.parametrize(("kind", "way"), CASES)
def test_the_same_patients_give_the_same_bits_twice_whatever_was_summed_between(
    kind: str, way: str
) -> None:
    step, weights, _ = step_of(kind, way)
    patients, others = (file_of([1, 2, 3, 9, 5], NETWORKS[kind][1], seed) for seed in (8, 9))
    batches = step.batches(patients)
    first = step.clipped_sum(weights, batches)
    assert (step.clipped_sum(-weights, batches) != first).any()
    summed(step, 2 * weights, others)
    np.testing.assert_array_equal(step.clipped_sum(weights, batches), first)
    np.testing.assert_array_equal(summed(step, weights, patients), first)


@pytest.mark.parametrize(("kind", "way"), CASES)
@settings(max_examples=8, deadline=None)
@given(drawn=st.lists(st.booleans(), min_size=9, max_size=9))
def test_the_sum_over_the_chosen_is_the_sum_of_a_file_of_them(
    kind: str, way: str, drawn: list[bool]
) -> None:
    step, weights, _ = step_of(kind, way)
    patients = file_of([1, 1, 2, 3, 5, BATCH, BATCH - 1, 1, 20], NETWORKS[kind][1])
    chosen = np.array(drawn)
    found = step.clipped_sum(weights, step.batches(patients), chosen)
    theirs = summed(step, weights, those(patients, np.flatnonzero(chosen).tolist()))
    np.testing.assert_allclose(found, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("kind", "way"), CASES)
def test_a_loop_over_frames_left_early_never_doubles_a_contribution(kind: str, way: str) -> None:
    step, weights, _ = step_of(kind, way)
    batches = step.batches(file_of([1, 1, 2, 3, 9, 17], NETWORKS[kind][1]))
    first = step.clipped_sum(weights, batches)
    next(batches.frames())
    np.testing.assert_array_equal(step.clipped_sum(weights, batches), first)


def test_a_sum_that_was_interrupted_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    step, weights, _ = step_of("mlp", "book-keeping")
    batches = step.batches(file_of([1, 1, 2, 3, 9, 17], 3))
    first, parts = step.clipped_sum(weights, batches), step.way.contributions
    calls = iter(range(100))

    def interrupted(frame: Frame) -> list[PatientGradients]:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return parts(frame)

    with monkeypatch.context() as patch:
        patch.setattr(step.way, "contributions", interrupted)
        with pytest.raises(KeyboardInterrupt):
            step.clipped_sum(3 * weights, batches)
    np.testing.assert_array_equal(step.clipped_sum(weights, batches), first)


@pytest.mark.parametrize("way", WAYS)
def test_the_model_never_sees_more_records_at_once_than_the_batch(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, weights, _ = step_of("mlp", way)
    rows, forward, parts = [], nn.Linear.forward, step.way.contributions

    def probe(layer: nn.Linear, x: torch.Tensor) -> torch.Tensor:
        rows.append(len(x))
        return forward(layer, x)

    def framed(frame: Frame) -> list[PatientGradients]:
        rows.append(len(frame.inputs))
        return parts(frame)

    monkeypatch.setattr(nn.Linear, "forward", probe)
    monkeypatch.setattr(step.way, "contributions", framed)
    summed(step, weights, file_of([1] * 40 + [3] * 7 + [BATCH, BATCH - 1, 30], 3))
    assert max(rows) == BATCH


@pytest.mark.parametrize("clip", [0.0, -0.5, math.nan, math.inf, -math.inf])
def test_a_clip_norm_that_bounds_nothing_is_refused(clip: float) -> None:
    with pytest.raises(ValueError, match="clip must be positive and finite"):
        PrivateStep(nn.Sequential(nn.Linear(3, 1)), binary_loss, clip, examples=examples(3))


def test_a_batch_that_is_no_power_of_two_is_refused() -> None:
    with pytest.raises((ValueError, StudyError), match="power of two"):
        PrivateStep(nn.Sequential(nn.Linear(3, 1)), binary_loss, 1, examples=examples(3), batch=6)


@pytest.mark.parametrize("count", [0, 1, 3, 5])
def test_weights_of_another_length_are_refused(count: int) -> None:
    step, _, _ = step_of("logistic", None)
    with pytest.raises((ValueError, RuntimeError)):
        summed(step, np.zeros(count), file_of([1, 2], 3))
