"""One patient moves the sum of gradients of all classes by at most one clip."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from torch import nn

from flo.privacy.gradients.bookkeeping import categorical_loss
from flo.privacy.gradients.step import PrivateStep
from flo.privacy.patients.patients import Patients

CLIP, CLASSES = 0.35, 4
LABELS = (math.nan, math.inf, -math.inf, 1e300, -5.0, 0.4, 7.0, *map(float, range(CLASSES)))
WEIGHTS = np.random.default_rng(3).normal(size=CLASSES * 4)


def step() -> PrivateStep:
    module = nn.Sequential(nn.Linear(3, CLASSES, dtype=torch.float64))
    examples = np.random.default_rng(1).uniform(-1, 1, (20, 3))
    return PrivateStep(module, categorical_loss, CLIP, examples=examples, batch=16)


def patients(inputs: list[list[float]], labels: list[float]) -> Patients:
    rows = np.array(inputs, dtype=np.float64).reshape(-1, 3)
    return Patients(rows, np.array(labels), np.arange(len(labels)), len(labels))


STEP = step()
numbers = st.sampled_from([0.0, 1.0, -1.0, 1e3, -1e9, 1e300, math.nan, math.inf])
records = st.tuples(st.lists(numbers, min_size=3, max_size=3), st.sampled_from(LABELS))


@given(st.lists(records, min_size=1, max_size=20), st.integers(0, 19))
@settings(deadline=None, max_examples=60)
def test_one_patient_moves_the_sum_by_at_most_the_clip(
    drawn: list[tuple[list[float], float]], who: int
) -> None:
    def total(some: list[tuple[list[float], float]]) -> np.ndarray:
        found = patients([inputs for inputs, _ in some], [label for _, label in some])
        return STEP.clipped_sum(WEIGHTS, STEP.batches(found))

    who %= len(drawn)
    moved = np.linalg.norm(total(drawn) - total(drawn[:who] + drawn[who + 1 :]))
    assert moved <= CLIP * (1 + 2**-10)


def test_the_sum_is_that_of_gradients_that_are_clipped_over_all_classes() -> None:
    rng = np.random.default_rng(2)
    inputs, codes = rng.uniform(-1, 1, (50, 3)), rng.integers(0, CLASSES, 50)
    weights, bias = WEIGHTS[:-CLASSES].reshape(CLASSES, 3), WEIGHTS[-CLASSES:]
    residual = softmax(inputs @ weights.T + bias, axis=1) - np.eye(CLASSES)[codes]
    slopes = residual[:, :, None] * inputs[:, None, :]
    gradients = np.hstack([slopes.reshape(50, -1), residual])
    norms = np.linalg.norm(gradients, axis=1, keepdims=True)
    expected = (gradients * np.minimum(1, CLIP / norms)).sum(0)
    found = STEP.clipped_sum(
        WEIGHTS, STEP.batches(patients(inputs.tolist(), codes.astype(float).tolist()))
    )
    assert found == pytest.approx(expected, abs=1e-6)
