"""Refit of a published model on one hospital's training patients: rules without IO.

A published model has seen many hospitals through noise; this hospital's patients are few, but exact
and its own. The refit moves the last layer from the published weights towards what these patients
say, as far as cross-validation supports it:

    1. calibrate: log odds = a + b·s for the published log odds s, by maximum likelihood with a free
       intercept a and log b ~ N(0, 0.5²), so that the slope is shrunk towards 1 (Platt 1999;
       Steyerberg et al. 2004, doi:10.1002/sim.1844, for a prediction model at another hospital);
    2. refit: minimise the logistic loss plus λ/2·‖w - b·w_published‖², intercept free, for each
       penalty λ of ``PENALTIES``; λ = ∞ is the calibrated model, λ = 0 would forget the published
       one; a layer of more than ``MOST_FEATURES`` inputs is calibrated only;
    3. average the weights of all penalties with weights ∝ exp(the log-likelihood of 5-fold
       cross-validation by patient): pseudo-Bayesian model averaging (Geisser, Eddy 1979,
       doi:10.1080/01621459.1979.10481632). Log odds are linear in the weights, so this averages
       log odds. A single best penalty would be chosen by chance at small hospitals.

The result depends on every patient of this hospital without any noise: it is **not private**.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from flo.arrays import Floats, Mask
from flo.privacy.patients.patients import Patients

PENALTIES = (3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)
MOST_FEATURES = 2000  # a wider last layer is calibrated only: its curvature is a square matrix
FEWEST_OF_A_CLASS = 5  # training patients with, and without, the label
_FOLDS = 5
_IRRATIONALS = (math.sqrt(2), math.sqrt(3))
_REPEATED, _FEW = 2, 500  # small hospitals are cross-validated twice, since folds differ more
_SLOPE_DEVIATION = 0.5  # of log b
_FREE = 1e-4  # penalty of an intercept, which keeps the optimum finite


class TooFewPatients(Exception):
    """Too few training patients to refit a model on."""


@dataclass(frozen=True)
class Refit:
    """Weights of the last layer, (k + 1,), the intercept last.

    ``calibrated``: the published weights after step 1. ``finished``: the average of step 3.
    ``slope``: b. ``kept``: share of the average that the calibrated model has, 0 to 1. ``penalty``:
    the penalty with the largest share; infinite for the calibrated model.
    """

    calibrated: Floats
    finished: Floats
    slope: float
    kept: float
    penalty: float


def refit(features: Floats, patients: Patients, published: Floats) -> Refit:
    """Refit a last layer ``published`` (k + 1,) on training patients' ``features`` (records, k).

    Raises:
        TooFewPatients: fewer than ``FEWEST_OF_A_CLASS`` with the label, or without it.
    """
    without, having = _of_each_class(patients)
    if min(without, having) < FEWEST_OF_A_CLASS:
        raise TooFewPatients(
            f"{having} have the label and {without} do not; {FEWEST_OF_A_CLASS} of each are needed"
        )
    inputs, labels = with_intercept(features), patients.labels
    slope, candidates = _candidates(inputs, labels, published)
    likelihood = np.zeros(len(candidates))
    for train, test in _splits(patients):
        _, fitted = _candidates(inputs[train], labels[train], published)
        likelihood -= [_loss(inputs[test] @ weights, labels[test]) for weights in fitted]
    likelihood /= _repeats(patients)
    shares = np.exp(likelihood - likelihood.max())
    shares /= shares.sum()
    return Refit(
        candidates[0],
        shares @ np.array(candidates),
        slope,
        float(shares[0]),
        (np.inf, *sorted(PENALTIES, reverse=True))[int(shares.argmax())],
    )


def _of_each_class(patients: Patients) -> tuple[int, int]:
    """Return how many patients have a record with label 0, and with label 1."""
    without, having = (len(np.unique(patients.patient[patients.labels == c])) for c in (0, 1))
    return without, having


def ridge(inputs: Floats, labels: Floats, penalty: float, centre: Floats, start: Floats) -> Floats:
    """Minimise the logistic loss + penalty/2·‖w - centre‖² over w (k,), whose last number is free.

    ``inputs`` (n, k): the last column ones. ``start`` (k,): where the search begins.
    """
    penalties = np.full(inputs.shape[1], penalty)
    penalties[-1] = _FREE

    def loss(weights: Floats) -> tuple[float, Floats]:
        scores, apart = inputs @ weights, weights - centre
        slope = inputs.T @ (expit(scores) - labels) + penalties * apart
        return _loss(scores, labels) + 0.5 * float(penalties @ apart**2), slope

    def curvature(weights: Floats) -> Floats:
        return _information(inputs, inputs @ weights) + np.diag(penalties)

    return _minimum(loss, curvature, start)


def with_intercept(features: Floats) -> Floats:
    """Append a column of ones: (n, k) to (n, k + 1)."""
    return np.hstack([features, np.ones((len(features), 1))])


def _candidates(inputs: Floats, labels: Floats, published: Floats) -> tuple[float, list[Floats]]:
    """Return the slope of step 1, and the calibrated weights followed by those of each penalty."""
    intercept, slope = _calibrated(inputs @ published, labels)
    centre = slope * published
    centre[-1] += intercept
    found = [centre]
    if inputs.shape[1] > MOST_FEATURES:
        return slope, found
    for penalty in sorted(PENALTIES, reverse=True):
        found.append(ridge(inputs, labels, penalty, centre, found[-1]))
    return slope, found


def _calibrated(scores: Floats, labels: Floats) -> tuple[float, float]:
    """Return intercept a and slope b of step 1 for log odds ``scores`` (n,)."""
    prior = np.array([_FREE, _SLOPE_DEVIATION**-2])

    def columns(at: Floats) -> Floats:
        return np.stack([np.ones_like(scores), np.exp(at[1]) * scores], axis=1)

    def loss(at: Floats) -> tuple[float, Floats]:
        both = columns(at)
        moved = both.sum(axis=1) + (at[0] - 1)
        slope = both.T @ (expit(moved) - labels) + prior * at
        return _loss(moved, labels) + 0.5 * float(prior @ at**2), slope

    def curvature(at: Floats) -> Floats:  # Fisher's expected one, which is positive definite
        both = columns(at)
        return _information(both, both.sum(axis=1) + (at[0] - 1)) + np.diag(prior)

    found = _minimum(loss, curvature, np.zeros(2))
    return float(found[0]), float(np.exp(found[1]))


def _minimum(
    loss: Callable[[Floats], tuple[float, Floats]],
    curvature: Callable[[Floats], Floats],
    start: Floats,
) -> Floats:
    found = minimize(loss, start, jac=True, hess=curvature, method="trust-exact")
    return np.asarray(found.x, dtype=np.float64)


def _information(inputs: Floats, scores: Floats) -> Floats:
    """Return Fisher's information of the logistic loss, (k, k)."""
    risk = expit(scores)
    return np.asarray((inputs * (risk * (1 - risk))[:, None]).T @ inputs, dtype=np.float64)


def _loss(scores: Floats, labels: Floats) -> float:
    """Return the logistic loss of log odds, summed over records."""
    return float(np.logaddexp(0, scores).sum() - labels @ scores)


def _splits(patients: Patients) -> Iterator[tuple[Mask, Mask]]:
    """Yield (training, test) masks of records, patients kept together; the same at every call.

    Folds follow multiples of an irrational number (Weyl 1916), which spread evenly over patients in
    any order of the file.
    """
    for irrational in _IRRATIONALS[: _repeats(patients)]:
        position = np.arange(1, patients.count + 1) * irrational % 1
        fold = (_FOLDS * position).astype(np.int64)[patients.patient]
        for number in range(_FOLDS):
            yield fold != number, fold == number


def _repeats(patients: Patients) -> int:
    return _REPEATED if patients.count <= _FEW else 1
