"""The loss of a time to an event is its likelihood, and one patient moves its sum by the clip."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from flo.privacy.gradients.bookkeeping import HazardLoss
from flo.privacy.gradients.step import PrivateStep
from flo.privacy.patients.patients import Patients
from flo.study.time_to_event import TimeToEvent
from tests.flo.times import OUTCOME

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


def step() -> PrivateStep:
    module = nn.Sequential(nn.Linear(3, 1, dtype=torch.float64))
    return PrivateStep(
        module, LOSS, CLIP, examples=np.random.default_rng(1).uniform(-1, 1, (20, 3)), batch=16
    )


def patients(inputs: list[list[float]], labels: list[float]) -> Patients:
    rows = np.array(inputs, dtype=np.float64).reshape(-1, 3)
    return Patients(rows, np.array(labels), np.arange(len(labels)), len(labels))


def test_it_is_computed_in_one_pass() -> None:
    assert step().way.name == "book-keeping"


STEP = step()
numbers = st.sampled_from([0.0, 1.0, -1.0, 1e3, -1e9, 1e300, math.nan, math.inf])
records = st.tuples(st.lists(numbers, min_size=3, max_size=3), st.sampled_from(LABELS))


@given(st.lists(records, min_size=1, max_size=20), st.integers(0, 19))
@settings(deadline=None, max_examples=60)
def test_one_patient_moves_the_sum_by_at_most_the_clip(
    drawn: list[tuple[list[float], float]], who: int
) -> None:
    weights = np.array([0.3, -2.0, 0.5, -1.0])

    def total(some: list[tuple[list[float], float]]) -> np.ndarray:
        found = patients([inputs for inputs, _ in some], [label for _, label in some])
        return STEP.clipped_sum(weights, STEP.batches(found))

    who %= len(drawn)
    moved = np.linalg.norm(total(drawn) - total(drawn[:who] + drawn[who + 1 :]))
    assert moved <= CLIP * (1 + 2**-10)


def test_the_sum_is_that_of_clipped_gradients() -> None:
    rng = np.random.default_rng(2)
    inputs, codes = rng.uniform(-1, 1, (50, 3)), rng.integers(0, THREE.codes, 50)
    weights = np.array([0.3, -2.0, 0.5, -1.0])
    hazard = 1 / (1 + np.exp(-(inputs @ weights[:3] + weights[3])))
    residual = THREE.followed[codes] * hazard - THREE.had_event[codes]
    gradients = residual[:, None] * np.hstack([inputs, np.ones((50, 1))])
    norms = np.linalg.norm(gradients, axis=1, keepdims=True)
    expected = (gradients * np.minimum(1, CLIP / norms)).sum(0)
    found = STEP.clipped_sum(
        weights, STEP.batches(patients(inputs.tolist(), codes.astype(float).tolist()))
    )
    assert found == pytest.approx(expected, abs=1e-6)
