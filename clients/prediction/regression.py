"""An ordinary logistic regression without privacy, as the baseline for a study."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy.optimize import minimize
from scipy.special import logsumexp

from flo.arrays import Floats, Integers
from flo.privacy.patients.patients import Patients
from flo.study.classes import Classes, against_others
from flo.study.outcome import Outcome
from flo.study.quantity import Quantity
from flo.study.time_to_event import TimeToEvent

_PENALTY = 3.0  # L2; of 1, 3, 10 and 30 the best for both baselines on the heart data


def unprotected(
    training: Sequence[Patients], outcome: Outcome | None = None
) -> Callable[[Floats], Floats]:
    """Train on patients of one or several hospitals; return log odds (n,) of inputs (n, d).

    With an ``outcome`` they are of the hazard in each of its periods, the same in all, or of the
    share of a quantity's steps that is reached; of several classes (n, classes), of each class
    against all others.
    """
    inputs = np.concatenate([patients.inputs for patients in training])
    labels = np.concatenate([patients.labels for patients in training])
    if isinstance(outcome, Classes):
        return _multinomial(inputs, labels.astype(np.int64), outcome.codes)
    followed = np.ones(len(labels))
    if isinstance(outcome, Quantity):
        labels = labels / (outcome.codes - 1)
    elif isinstance(outcome, TimeToEvent):
        codes = labels.astype(np.int64)
        followed, labels = outcome.followed[codes], outcome.had_event[codes]
    inputs = np.hstack([inputs, np.ones((len(inputs), 1))])
    penalties = _penalties(inputs)

    def loss(weights: Floats) -> tuple[float, Floats]:
        margin = inputs @ weights
        value = followed @ np.logaddexp(0, margin) - labels @ margin
        value += 0.5 * penalties @ weights**2
        expected = followed * 0.5 * (1 + np.tanh(margin / 2))
        slope = inputs.T @ (expected - labels) + penalties * weights
        return float(value), slope

    found = minimize(loss, np.zeros(inputs.shape[1]), jac=True, method="L-BFGS-B")
    return lambda rows: rows @ found.x[:-1] + found.x[-1]


def _multinomial(inputs: Floats, labels: Integers, classes: int) -> Callable[[Floats], Floats]:
    """Return the log odds (n, classes) of a multinomial logistic regression."""
    inputs = np.hstack([inputs, np.ones((len(inputs), 1))])
    penalties, told = _penalties(inputs), np.eye(classes)[labels]

    def loss(flat: Floats) -> tuple[float, Floats]:
        weights = flat.reshape(-1, classes)
        outputs = inputs @ weights
        whole = logsumexp(outputs, axis=1)
        value = whole.sum() - (outputs * told).sum() + 0.5 * penalties @ (weights**2).sum(1)
        apart = np.exp(outputs - whole[:, None]) - told
        return float(value), (inputs.T @ apart + penalties[:, None] * weights).ravel()

    start = np.zeros(inputs.shape[1] * classes)
    found = minimize(loss, start, jac=True, method="L-BFGS-B").x.reshape(-1, classes)
    return lambda rows: against_others(rows @ found[:-1] + found[-1])


def _penalties(inputs: Floats) -> Floats:
    """Return those of inputs with a last column of ones, whose weight is free, so that risks are
    right on average."""
    penalties = np.full(inputs.shape[1], _PENALTY)
    penalties[-1] = 0.0
    return penalties
