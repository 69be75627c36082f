"""A code or a class that does not exist counts as the nearest one; it does not end the round."""

from __future__ import annotations

import math

import numpy as np
import pytest
from torch import nn

from flo.arrays import Floats
from flo.privacy.gradients.bookkeeping import binary_loss, categorical_loss
from flo.privacy.gradients.step import PrivateStep
from flo.privacy.patients.patients import Patients
from tests.privacy.slow_step import seeded, summed, weights_of

CODES = 7


def codes(count: int) -> Floats:
    return np.random.default_rng(4).integers(0, CODES, (count, 2)).astype(np.float64)


def looking_up(batch: int, most_records: int = 1) -> tuple[PrivateStep, Floats]:
    module = seeded(nn.Sequential(nn.Embedding(CODES, 3), nn.Flatten(), nn.Linear(6, 1)).double())
    weights = weights_of(module)
    step = PrivateStep(
        *(module, binary_loss, 0.5), examples=codes(64), batch=batch, most_records=most_records
    )
    return step, weights


def classifying() -> tuple[PrivateStep, Floats]:
    module = seeded(nn.Sequential(nn.Linear(2, 3)).double())
    weights = weights_of(module)
    return PrivateStep(module, categorical_loss, 0.5, examples=codes(64) / CODES), weights


def coded(inputs: Floats, labels: Floats) -> Patients:
    return Patients(inputs, labels, np.arange(len(labels)), len(labels))


@pytest.mark.parametrize("batch", [1, 2, 8, 16])
def test_a_model_of_codes_can_be_trained_in_micro_batches_of_any_size(batch: int) -> None:
    step, weights = looking_up(batch, batch)
    assert np.linalg.norm(summed(step, weights, coded(codes(5), np.ones(5)))) > 0


@pytest.mark.parametrize("code", [CODES, -1, math.nan, math.inf, 1e38])
def test_an_unknown_code_counts_as_the_nearest_and_moves_nobody_else(code: float) -> None:
    step, weights = looking_up(16)
    inputs, nearest = codes(5), codes(5)
    inputs[2, 1] = code
    nearest[2, 1] = 0 if math.isnan(code) else min(max(code, 0), CODES - 1)
    found = summed(step, weights, coded(inputs, np.ones(5)))
    np.testing.assert_array_equal(found, summed(step, weights, coded(nearest, np.ones(5))))


@pytest.mark.parametrize("label", [3.0, -1.0, math.nan, math.inf, 1e38])
def test_an_unknown_class_counts_as_the_nearest_and_moves_nobody_else(label: float) -> None:
    step, weights = classifying()
    nearest = 0 if math.isnan(label) else min(max(label, 0), 2)
    found, known = (
        summed(step, weights, coded(codes(5) / CODES, np.array([0.0, 1.0, one, 2.0, 0.0])))
        for one in (label, nearest)
    )
    np.testing.assert_array_equal(found, known)
