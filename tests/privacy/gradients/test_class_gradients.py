"""One patient moves the sum of gradients of all classes by at most one clip."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax

from flo.privacy.gradients.bookkeeping import categorical_loss
from tests.privacy.gradients.neighbours import Drawn, clipped_sum, linear_step, moved, records

CLIP, CLASSES = 0.35, 4
LABELS = (math.nan, math.inf, -math.inf, 1e300, -5.0, 0.4, 7.0, *map(float, range(CLASSES)))
WEIGHTS = np.random.default_rng(3).normal(size=CLASSES * 4)


STEP = linear_step(categorical_loss, CLIP, CLASSES)


@given(records(LABELS), st.integers(0, 19))
@settings(deadline=None, max_examples=60)
def test_one_patient_moves_the_sum_by_at_most_the_clip(drawn: Drawn, who: int) -> None:
    assert moved(STEP, WEIGHTS, drawn, who) <= CLIP * (1 + 2**-10)


def test_the_sum_is_that_of_gradients_that_are_clipped_over_all_classes() -> None:
    rng = np.random.default_rng(2)
    inputs, codes = rng.uniform(-1, 1, (50, 3)), rng.integers(0, CLASSES, 50)
    weights, bias = WEIGHTS[:-CLASSES].reshape(CLASSES, 3), WEIGHTS[-CLASSES:]
    residual = softmax(inputs @ weights.T + bias, axis=1) - np.eye(CLASSES)[codes]
    slopes = residual[:, :, None] * inputs[:, None, :]
    gradients = np.hstack([slopes.reshape(50, -1), residual])
    norms = np.linalg.norm(gradients, axis=1, keepdims=True)
    expected = (gradients * np.minimum(1, CLIP / norms)).sum(0)
    drawn = list(zip(inputs.tolist(), codes.tolist(), strict=True))
    found = clipped_sum(STEP, WEIGHTS, drawn)
    assert found == pytest.approx(expected, abs=1e-6)
