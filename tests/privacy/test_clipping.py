"""Whatever the data, one patient moves the clipped sum by at most the clip norm."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flo.privacy.clipping import BATCH, Floats, clipped_gradient_sum
from flo.privacy.patients import Patients

WIDTH = 3
STRANGE = (math.nan, math.inf, -math.inf, 1e38, -1e38, 1e300, -1e300, 1e154, 1e-300, 0.0, -0.0)


def model(weights: tuple[float, ...] = (0.5, -1.0, 0.25, 0.1)) -> torch.nn.Module:
    module = torch.nn.Sequential(
        torch.nn.Linear(WIDTH, 1, dtype=torch.float64), torch.nn.Flatten(0)
    )
    torch.nn.utils.vector_to_parameters(torch.tensor(weights).double(), module.parameters())
    return module


def clipped(patients: Patients, clip: float = 0.5) -> Floats:
    return clipped_gradient_sum(model(), patients, clip)


def random_patients(seed: int, count: int, records: int) -> Patients:
    """Ordinary patients; each has at least one record when ``records`` >= ``count``."""
    generator = np.random.default_rng(seed)
    owner = np.concatenate([np.arange(count), generator.integers(0, count, records - count)])
    return Patients(
        generator.normal(size=(records, WIDTH)),
        generator.integers(0, 2, records).astype(np.float64),
        generator.permutation(owner).astype(np.int64),
        count,
    )


def without(patients: Patients, who: int) -> Patients:
    """The same file had this patient never been there; the others are numbered anew."""
    kept = patients.patient != who
    owner = patients.patient[kept]
    return Patients(
        patients.inputs[kept], patients.labels[kept], owner - (owner > who), patients.count - 1
    )


def only(patients: Patients, who: int) -> Patients:
    kept = patients.patient == who
    return Patients(
        patients.inputs[kept], patients.labels[kept], np.zeros(kept.sum(), dtype=np.int64), 1
    )


def slow_oracle(patients: Patients, clip: float) -> Floats:
    """One patient at a time, by plain autograd on the summed loss of their records."""
    total = np.zeros(WIDTH + 1)
    for who in range(patients.count):
        one, module = only(patients, who), model()
        if len(one.inputs) == 0:
            continue
        logits = module(torch.from_numpy(one.inputs))
        loss = torch.nn.functional.binary_cross_entropy_with_logits(
            logits, torch.from_numpy(one.labels), reduction="sum"
        )
        parts = torch.autograd.grad(loss, list(module.parameters()))
        gradient = torch.cat([part.flatten() for part in parts]).numpy()
        norm = float(np.linalg.norm(gradient))
        if math.isfinite(norm):
            total += gradient * min(1.0, clip / max(norm, 1e-300))
    return total


@pytest.mark.parametrize(
    ("count", "records"),
    [(1, 1), (40, 40), (12, 90), (1, BATCH + 5), (300, 300), (50, 2 * BATCH + 1), (256, BATCH)],
)
@pytest.mark.parametrize("clip", [0.01, 0.5, 1e6])
def test_the_sum_is_what_one_patient_at_a_time_gives(count: int, records: int, clip: float) -> None:
    patients = random_patients(records, count, records)
    np.testing.assert_allclose(
        clipped(patients, clip), slow_oracle(patients, clip), rtol=1e-11, atol=1e-12
    )


def test_many_records_of_one_patient_are_clipped_together_and_not_one_by_one() -> None:
    record = random_patients(5, 1, 1)
    many = Patients(
        np.repeat(record.inputs, 500, axis=0),
        np.repeat(record.labels, 500),
        np.zeros(500, dtype=np.int64),
        1,
    )
    assert np.linalg.norm(clipped(many)) <= 0.5 * (1 + 1e-9)


def test_no_patients_sum_to_zero() -> None:
    nobody = Patients(np.zeros((0, WIDTH)), np.zeros(0), np.zeros(0, dtype=np.int64), 0)
    np.testing.assert_array_equal(clipped(nobody), np.zeros(WIDTH + 1))


@st.composite
def any_patients(draw: st.DrawFn) -> Patients:
    """Up to six patients with strange values and doubled records, sometimes over many batches."""
    number = st.one_of(st.sampled_from(STRANGE), st.floats(-5, 5))
    record = st.tuples(*[number] * WIDTH, st.one_of(st.sampled_from([0.0, 1.0]), number))
    drawn = draw(st.lists(st.tuples(st.integers(0, 5), record), min_size=1, max_size=12))
    drawn = drawn * draw(st.sampled_from([1, 2, 1 + BATCH // 12, 1 + BATCH // 4]))
    names = {name: i for i, name in enumerate(dict.fromkeys(owner for owner, _ in drawn))}
    values = np.array([record for _, record in drawn])
    owner = np.array([names[name] for name, _ in drawn], dtype=np.int64)
    return Patients(values[:, :WIDTH].copy(), values[:, WIDTH].copy(), owner, len(names))


@settings(max_examples=80, deadline=None)
@given(any_patients(), st.sampled_from([1e-6, 0.5, 1e6]), st.data())
def test_removing_any_one_patient_moves_the_sum_by_at_most_the_clip_norm(
    patients: Patients, clip: float, data: st.DataObject
) -> None:
    who = data.draw(st.integers(0, patients.count - 1))
    everyone, others = clipped(patients, clip), clipped(without(patients, who), clip)
    assert np.isfinite(everyone).all()
    assert np.linalg.norm(everyone - others) <= clip * (1 + 1e-9)


@settings(max_examples=30, deadline=None)
@given(any_patients(), st.data())
def test_what_a_patient_contributes_does_not_depend_on_who_else_is_present(
    patients: Patients, data: st.DataObject
) -> None:
    who = data.draw(st.integers(0, patients.count - 1))
    alone = clipped(only(patients, who))
    difference = clipped(patients) - clipped(without(patients, who))
    np.testing.assert_allclose(difference, alone, rtol=0, atol=1e-12 * patients.count)


def test_a_patients_gradient_is_the_same_bit_by_bit_beside_any_others() -> None:
    # With everyone else non-finite the others count as zero, so the sum is one patient's own.
    patients = random_patients(11, 300, 700)
    for who in (0, 17, 299):
        strange = patients.inputs.copy()
        strange[patients.patient != who] = math.nan
        beside = Patients(strange, patients.labels, patients.patient, patients.count)
        np.testing.assert_array_equal(clipped(beside), clipped(only(patients, who)))


@pytest.mark.parametrize("strange", [math.nan, math.inf, -math.inf, 1e300])
def test_a_patient_who_is_not_finite_counts_as_if_absent(strange: float) -> None:
    patients = random_patients(3, 20, 50)
    absent = clipped(without(patients, 7))
    inputs = patients.inputs.copy()
    inputs[np.flatnonzero(patients.patient == 7)[0], 1] = strange
    labels = np.where(patients.patient == 7, 1.0, patients.labels)  # no residual of exactly zero
    present = clipped(Patients(inputs, labels, patients.patient, patients.count))
    np.testing.assert_array_equal(present, absent)


def test_the_same_patients_give_the_same_bits_twice() -> None:
    patients = random_patients(8, 100, 400)
    np.testing.assert_array_equal(clipped(patients), clipped(patients))


def test_one_module_may_be_used_for_many_sums() -> None:
    module, patients = model(), random_patients(8, 10, 20)
    first = clipped_gradient_sum(module, patients, 0.5)
    np.testing.assert_array_equal(clipped_gradient_sum(module, patients, 0.5), first)
