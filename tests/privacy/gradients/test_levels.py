"""The loss of a quantity is a cross-entropy, and one patient moves its sum by at most the clip."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flo.privacy.gradients.bookkeeping import LevelLoss, loss_of
from flo.study.quantity import Quantity
from tests.flo.quantities import COUNT
from tests.privacy.gradients.neighbours import Drawn, clipped_sum, linear_step, moved, records

QUANTITY = Quantity(**COUNT)
STEPS, CLIP = QUANTITY.codes - 1, 0.2
LOSS = loss_of(QUANTITY)
LABELS = (math.nan, math.inf, -math.inf, 1e300, -5.0, 0.0, 0.4, 2.5, float(STEPS), STEPS + 1.0)
WEIGHTS = np.array([0.3, -2.0, 0.5, -1.0])


@pytest.mark.parametrize("code", [0.0, 0.3, 2.0, 4.0])
@pytest.mark.parametrize("score", [-3.0, 0.0, 2.0])
def test_it_is_the_cross_entropy_of_the_share_of_steps(code: float, score: float) -> None:
    foreseen, share = 1 / (1 + math.exp(-score)), code / STEPS
    expected = -share * math.log(foreseen) - (1 - share) * math.log(1 - foreseen)
    found = LOSS(torch.tensor([[score]], dtype=torch.float64), torch.tensor([code]))
    assert float(found) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("label", "nearest"),
    [(math.inf, 4.0), (-math.inf, 0.0), (1e300, 4.0), (-5.0, 0.0), (math.nan, 0.0)],
)
def test_a_label_that_cannot_be_counts_as_the_nearest(label: float, nearest: float) -> None:
    score = torch.tensor([[0.7]], dtype=torch.float64)
    found, expected = (LOSS(score, torch.tensor([one]).double()) for one in (label, nearest))
    assert float(found) == pytest.approx(float(expected))


STEP = linear_step(LOSS, CLIP)


def test_it_is_computed_in_one_pass() -> None:
    assert isinstance(LOSS, LevelLoss)
    assert STEP.way.name == "book-keeping"


@given(records(LABELS), st.integers(0, 19))
@settings(deadline=None, max_examples=60)
def test_one_patient_moves_the_sum_by_at_most_the_clip(drawn: Drawn, who: int) -> None:
    assert moved(STEP, WEIGHTS, drawn, who) <= CLIP * (1 + 2**-10)


def test_the_sum_is_that_of_clipped_gradients() -> None:
    rng = np.random.default_rng(2)
    inputs, codes = rng.uniform(-1, 1, (50, 3)), rng.uniform(0, STEPS, 50)
    residual = 1 / (1 + np.exp(-(inputs @ WEIGHTS[:3] + WEIGHTS[3]))) - codes / STEPS
    gradients = residual[:, None] * np.hstack([inputs, np.ones((50, 1))])
    norms = np.linalg.norm(gradients, axis=1, keepdims=True)
    expected = (gradients * np.minimum(1, CLIP / norms)).sum(0)
    drawn = list(zip(inputs.tolist(), codes.tolist(), strict=True))
    found = clipped_sum(STEP, WEIGHTS, drawn)
    assert found == pytest.approx(expected, abs=1e-6)
