"""The loss of a time to an event is its likelihood, and one patient moves its sum by the clip."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flo.privacy.gradients.bookkeeping import HazardLoss
from flo.study.time_to_event import TimeToEvent
from tests.flo.times import OUTCOME
from tests.privacy.gradients.neighbours import Drawn, clipped_sum, linear_step, moved, records

THREE = TimeToEvent(**OUTCOME)
LOSS = HazardLoss(THREE.followed, THREE.had_event)
CLIP = 0.35
LABELS = (math.nan, math.inf, -math.inf, 1e300, -5.0, 0.4, 7.0, *map(float, range(THREE.codes)))


@pytest.mark.parametrize("code", range(THREE.codes))
@pytest.mark.parametrize("score", [-3.0, 0.0, 2.0])
def test_it_is_the_likelihood_of_what_was_seen(code: int, score: float) -> None:
    """Survived periods, the event or half a period: -log of the product of their chances."""
    hazard = 1 / (1 + math.exp(-score))
    period, event = divmod(code, 2)
    chance = (1 - hazard) ** period
    if event:
        chance *= hazard
    elif period < THREE.periods:
        chance *= math.sqrt(1 - hazard)
    found = LOSS(torch.tensor([[score]], dtype=torch.float64), torch.tensor([float(code)]))
    assert float(found) == pytest.approx(-math.log(chance))


def test_it_is_computed_in_one_pass() -> None:
    assert STEP.way.name == "book-keeping"


WEIGHTS = np.array([0.3, -2.0, 0.5, -1.0])
STEP = linear_step(LOSS, CLIP)


@given(records(LABELS), st.integers(0, 19))
@settings(deadline=None, max_examples=60)
def test_one_patient_moves_the_sum_by_at_most_the_clip(drawn: Drawn, who: int) -> None:
    assert moved(STEP, WEIGHTS, drawn, who) <= CLIP * (1 + 2**-10)


def test_the_sum_is_that_of_clipped_gradients() -> None:
    rng = np.random.default_rng(2)
    inputs, codes = rng.uniform(-1, 1, (50, 3)), rng.integers(0, THREE.codes, 50)
    hazard = 1 / (1 + np.exp(-(inputs @ WEIGHTS[:3] + WEIGHTS[3])))
    residual = THREE.followed[codes] * hazard - THREE.had_event[codes]
    gradients = residual[:, None] * np.hstack([inputs, np.ones((50, 1))])
    norms = np.linalg.norm(gradients, axis=1, keepdims=True)
    expected = (gradients * np.minimum(1, CLIP / norms)).sum(0)
    drawn = list(zip(inputs.tolist(), codes.tolist(), strict=True))
    found = clipped_sum(STEP, WEIGHTS, drawn)
    assert found == pytest.approx(expected, abs=1e-6)
