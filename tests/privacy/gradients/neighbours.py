"""A step of a linear model, and by how much one hostile patient moves its clipped sum."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from hypothesis import strategies as st
from torch import nn

from flo.arrays import Floats
from flo.privacy.gradients.bookkeeping import Loss
from flo.privacy.gradients.step import PrivateStep
from flo.privacy.patients.patients import Patients

Drawn = list[tuple[list[float], float]]
_NUMBERS = st.sampled_from([0.0, 1.0, -1.0, 1e3, -1e9, 1e300, math.nan, math.inf])


def linear_step(loss: Loss, clip: float, outputs: int = 1) -> PrivateStep:
    """Of three inputs."""
    module = nn.Sequential(nn.Linear(3, outputs, dtype=torch.float64))
    examples = np.random.default_rng(1).uniform(-1, 1, (20, 3))
    return PrivateStep(module, loss, clip, examples=examples, batch=16)


def records(labels: Sequence[float]) -> st.SearchStrategy[Drawn]:
    """Records of hostile inputs with one of these labels, one a patient."""
    one = st.tuples(st.lists(_NUMBERS, min_size=3, max_size=3), st.sampled_from(labels))
    return st.lists(one, min_size=1, max_size=20)


def clipped_sum(step: PrivateStep, weights: Floats, drawn: Drawn) -> Floats:
    rows = np.array([inputs for inputs, _ in drawn], dtype=np.float64).reshape(-1, 3)
    labels = np.array([label for _, label in drawn], dtype=np.float64)
    found = Patients(rows, labels, np.arange(len(labels)), len(labels))
    return step.clipped_sum(weights, step.batches(found))


def moved(step: PrivateStep, weights: Floats, drawn: Drawn, who: int) -> float:
    """The norm of what the sum changes by without one of the patients."""
    who %= len(drawn)
    without = drawn[:who] + drawn[who + 1 :]
    return float(
        np.linalg.norm(clipped_sum(step, weights, drawn) - clipped_sum(step, weights, without))
    )
