"""How much noise is in a published model: the covariance of its weights.

If the same patients were trained on again, only the noise would differ. How the noise of each round
becomes a difference of weights depends on the patients, on clipping, and on the number of rounds.
So the training is repeated ``DRAWS`` times on stand-ins for the patients
(``flo.privacy.releases.stand_ins``), each time with noise of the study's own deviation in second
moments and in each round: a parametric bootstrap (Efron, Tibshirani 1993, chapter 6). Labels are
drawn from the published model. For least squares, noise is added to the released sum again, and it
is solved again.

All of it is post-processing of releases, and costs no ε. The noise here decides nothing about
privacy; it follows from the study's digest, so that anybody finds the same.

``make proofs``, group ``gate``, compares the deviations with those of models that were trained
again on real patients. The noise of other models is not stated: of networks, of patients with many
records, of a robust aggregation, and of a model that continues others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expit, ndtr

from flo.arrays import Floats
from flo.privacy.releases import least_squares, second_moments, stand_ins, whitening
from flo.study.document import Study
from flo.study.parameters import Vector
from flo.study.schema import ImageColumn
from flo.study.synthetic import made_up_inputs

DRAWS, MOST_WEIGHTS = 100, 128
_PATIENTS, _MOST_STEPS = 2000, 500  # stand-ins; more rounds take minutes to repeat
_TINY, _ROUNDING = 1e-300, 1e-9


def is_known(study: Study) -> bool:
    """Return whether the noise of a study's model is stated."""
    return (
        study.trains
        and study.model.kind == "logistic"
        and study.mechanism.algorithm in ("whitened", "least-squares")
        and study.mechanism.aggregation == "sum"
        and study.continues is None
        and study.data.records_per_patient == "one"
        and not any(isinstance(column, ImageColumn) for column in study.data.columns)
        and second_moments.width(study) <= MOST_WEIGHTS
        and study.mechanism.steps <= _MOST_STEPS
    )


@dataclass(frozen=True)
class ModelNoise:
    """What releases say of a model. ``covariance``: of its weights by noise alone, (p, p).

    ``average``: the patients' mean inputs, as far as they are known, (p - 1,).
    """

    covariance: Floats
    average: Floats


@dataclass(frozen=True)
class TrainedOn:
    """Public numbers of a training. ``patients``: how many were planned; positive.

    ``in_moments``, ``in_training``: variance of the noise in each coordinate of the sums.
    """

    patients: float
    in_moments: float
    in_training: float


def of_whitened(study: Study, weights: Vector, matrix: Floats, on: TrainedOn) -> ModelNoise:
    """Return the noise of a model's weights (p,) that was trained on inputs times W, (p, p)."""
    d, scale = second_moments.width(study), second_moments.squared_scale(study)
    mean, share = stand_ins.moments(study, matrix, on.in_moments, on.patients)
    rows = stand_ins.stand_ins(study, mean, _PATIENTS)
    chance = ndtr(stand_ins.normal(study, "labels", (_PATIENTS,)))
    labels = (chance < expit(rows @ weights)).astype(np.float64)
    upper = np.triu_indices(d)
    released = (
        share * on.patients * (rows.T @ rows / len(rows))[upper] * second_moments.scales(d) / scale
    )
    each = math.sqrt(on.in_training) / on.patients
    drawn = np.empty((DRAWS, d))
    for number in range(DRAWS):
        noise = stand_ins.normal(study, f"moments {number}", (len(released),))
        total = released + math.sqrt(on.in_moments) * noise
        again = whitening.matrix_of(study, total, on.in_moments, on.patients)
        steps = each * stand_ins.normal(study, f"rounds {number}", (study.mechanism.steps, d))
        drawn[number] = again @ _trained(study, rows @ again, labels, share, steps)
    deviation = scale * math.sqrt(on.in_moments / 2) / (share * on.patients)
    return ModelNoise(np.cov(drawn.T), _average(study, mean[:-1, -1], deviation))


def of_least_squares(study: Study, total: Floats, variance: float) -> ModelNoise:
    """Return the noise of the weights (p,) that solve a noisy sum (length,)."""
    noise = math.sqrt(variance) * stand_ins.normal(study, "noise", (DRAWS, len(total)))
    drawn = np.array([least_squares.solve(study, total + one, variance) for one in noise])
    products = second_moments.matrix(total[: second_moments.length(study)], drawn.shape[1])
    count = max(float(products[-1, -1]), _TINY)
    average = _average(study, products[:-1, -1] / count, math.sqrt(variance / 2) / count)
    return ModelNoise(np.cov(drawn.T), average)


def _average(study: Study, noisy: Floats, deviation: float) -> Floats:
    """Return the patients' mean inputs (p - 1,), as far as noise of this deviation lets one know.

    Noisy means are drawn towards those of the made-up patients (James, Stein 1961, with no negative
    factor), and clipped to what an input can be.
    """
    possible = made_up_inputs(study.data)
    prior = possible.mean(axis=0)
    apart = max(float(np.sum((noisy - prior) ** 2)), _TINY)
    factor = max(0.0, 1 - max(len(noisy) - 2, 1) * deviation**2 / apart)
    found = prior + factor * (noisy - prior)
    return np.asarray(np.clip(found, possible.min(axis=0), possible.max(axis=0)))


def fits(study: Study, noise: Sequence[float] | None, average: Sequence[float] | None) -> bool:
    """Return whether a packed covariance and an average can be of this study's model.

    Both may be None. Not a covariance, but for rounding: one with an eigenvalue below zero.
    """
    if noise is None or average is None:
        return noise is average
    p = second_moments.width(study)
    if not is_known(study) or (len(noise), len(average)) != (p * (p + 1) // 2, p - 1):
        return False
    covariance = unpacked(np.array(noise))
    values = np.linalg.eigvalsh(covariance)
    return bool(np.diag(covariance).min() >= 0 and values[0] >= -_ROUNDING * values[-1])


def packed(covariance: Floats) -> Vector:
    """Return the lower triangle, row by row, (p(p + 1)/2,)."""
    return np.asarray(covariance[np.tril_indices(len(covariance))])


def unpacked(triangle: Floats) -> Floats:
    """Return the covariance (p, p) of its lower triangle."""
    p = round((math.sqrt(8 * len(triangle) + 1) - 1) / 2)
    found = np.zeros((p, p))
    found[np.tril_indices(p)] = triangle
    return found + np.tril(found, -1).T


def _trained(study: Study, rows: Floats, labels: Floats, share: float, noise: Floats) -> Floats:
    """Train on whitened rows (n, d) as hospitals and coordinator do; noise (steps, d).

    ``share``: of the planned patients, by whom sums are divided.
    """
    training = study.mechanism
    clip = training.clip * math.sqrt(rows.shape[1])
    lengths = np.linalg.norm(rows, axis=1)
    weights = velocity = tail = np.zeros(rows.shape[1])
    for step, drawn in enumerate(noise, 1):
        errors = expit(rows @ weights) - labels
        factors = np.minimum(1.0, clip / np.maximum(np.abs(errors) * lengths, 1e-300))
        gradient = share * (errors * factors) @ rows / len(rows)
        velocity = training.momentum * velocity + gradient + drawn
        weights = weights - training.learning_rate * velocity
        if step > training.steps // 2:
            tail = tail + weights
    return tail / (training.steps - training.steps // 2)
