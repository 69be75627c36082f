"""Whitening of a study's inputs by noisy second moments, so that no learning rate has to be tuned.

With S = Σ G/r² over the patients (``flo.privacy.releases.second_moments``), N its noise of standard
deviation s off the diagonal, n the planned number of patients, G₀ the same mean over the study's
made-up patients, and d the number of inputs with the intercept:

    C = (S + N + m·G₀) / (n + m),   m = 3·√2·s·√d / (mean eigenvalue of G₀),
    W = (r²·C)^(-e) · λ^(e - 1/2),  λ the largest eigenvalue of r²·C,

where eigenvalues of C are floored at √2·s·√d / (n + m). The made-up patients count as m patients,
three times as many as the noise is worth; directions that could be noise alone are not stretched.
Training takes place on z = xW. With e = 1/2 its second moments are about the identity; with
e = 1/4, for studies in which noise leaves little (``exponent``), they are halfway: directions in
which patients hardly differ stay short, and with them their noise. Their largest eigenvalue is
about 1 in either case, so that one range of step sizes suits every study. The numbers 3 and 600 and
the floor were chosen on two data sets (docs/decisions/0022); shrinking towards a fixed target:
Ledoit, Wolf (2004). A network starts as a nearly linear model, so that the same settings suit it
(docs/decisions/0024).

W is post-processing of a noisy release. No other patient changes a patient's z by a bit, whatever W
a coordinator sends: records are multiplied in blocks of one shape, if a test on made-up records
shows that in this library a row's product depends on nothing else; otherwise by adding d products
in a fixed order for each number. A large W makes gradients longer than the clip, and with it the
error of their norms, 10^-11 of the clip for a record (``flo.privacy.gradients.contributions``): the
mechanism's slack of 2^-10 covers 10^8 records of a site.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache

import numpy as np

from flo.arrays import Floats
from flo.privacy.patients.patients import Patients
from flo.privacy.releases import second_moments
from flo.protocol.messages import LARGEST_WEIGHT
from flo.study import usual
from flo.study.document import Study
from flo.study.models import OUTPUT_NORM, layers, parameter_count
from flo.study.parameters import Vector
from flo.study.synthetic import made_up_inputs

_SHRINKAGE, _FLOOR = 3.0, 1.0  # in units of the noise
_ROWS, _WIDTHS = 1024, 32  # records in a block; its columns are padded to a multiple of this
_SHIFTS = (1, 2, 3, 7, 64, 500)  # of rows within a block, to test whether their place matters


def planned_patients(study: Study, hospitals: Iterable[str]) -> float:
    """Return n: how many patients of these hospitals the study plans to train on; public."""
    return usual.TRAINED * sum(study.planned_at(hospitals).values())


def exponent(study: Study) -> float:
    """Return e: 1/4 where n·ε², n the planned patients of all hospitals, is at most 600.

    Always 1/4 for the time to an event and for several classes (docs/decisions/0047, 0049).
    """
    if study.data.times is not None or study.data.classes is not None:
        return 0.25
    patients = planned_patients(study, (hospital.id for hospital in study.hospitals))
    return 0.25 if patients * study.mechanism.epsilon**2 <= usual.LITTLE else 0.5


def matrix_of(study: Study, total: Floats, variance: float, patients: float) -> Floats:
    """Return W, (d, d) and symmetric, from a noisy sum of second moments, (d(d + 1)/2,).

    ``variance``: of the noise in each coordinate; positive. ``patients``: n, their public planned
    number. The entries are clipped to ± ``LARGEST_WEIGHT``.
    """
    d, r2 = second_moments.width(study), second_moments.squared_scale(study)
    target = _made_up_moments(study)
    noise = math.sqrt(variance * d)  # √2·s·√d, as s is of a product off the diagonal
    target_patients = _SHRINKAGE * noise / (np.trace(target) / d)
    everyone = patients + target_patients
    mean = (second_moments.matrix(total, d) + target_patients * target) / everyone
    values, vectors = np.linalg.eigh(mean)
    values = r2 * np.maximum(values, _FLOOR * noise / everyone)
    e = exponent(study)
    found = (vectors * (values**-e * values[-1] ** (e - 0.5))) @ vectors.T
    return np.asarray(np.clip(found, -LARGEST_WEIGHT, LARGEST_WEIGHT), dtype=np.float64)


def whitened(patients: Patients, matrix: Floats) -> Patients:
    """Return the patients with z = (x, 1)·W as inputs, (records, d) for inputs (records, d - 1)."""
    d = len(matrix)
    size = -(-d // _WIDTHS) * _WIDTHS
    multiply = _multiplied if _rows_are_independent(size) else _added_up
    inputs, padded = np.empty((len(patients.inputs), d)), np.zeros((size, size))
    block = np.zeros((_ROWS, size))
    padded[:d, :d] = matrix
    for start in range(0, len(inputs), _ROWS):
        rows = patients.inputs[start : start + _ROWS]
        block[: len(rows), : d - 1], block[: len(rows), d - 1] = rows, 1.0
        inputs[start : start + _ROWS] = multiply(block, padded)[: len(rows), :d]
    return Patients(inputs, patients.labels, patients.patient, patients.count)


def _multiplied(block: Floats, matrix: Floats) -> Floats:
    with np.errstate(over="ignore", invalid="ignore"):  # a patient who is not finite counts 0
        return block @ matrix


def _added_up(block: Floats, matrix: Floats) -> Floats:
    z = np.zeros_like(block)
    with np.errstate(over="ignore", invalid="ignore"):
        for j, row in enumerate(matrix):
            z += block[:, j, None] * row
    return z


@lru_cache(maxsize=16)
def _rows_are_independent(d: int) -> bool:
    """Return whether a row's product is the same to the bit in any place and beside any rows."""
    block = dense(_ROWS, d)
    matrix, alone = dense(d, d), np.zeros_like(block)
    whole = _multiplied(block, matrix)
    beside = block.copy()
    beside[::2] = np.array([math.nan, 1e300, 0.0, math.inf])[np.arange(_ROWS // 2) % 4, None]
    alone[-1] = block[-1]
    return (
        all(
            np.array_equal(_multiplied(np.roll(block, by, axis=0), matrix), np.roll(whole, by, 0))
            for by in _SHIFTS
        )
        and np.array_equal(_multiplied(beside, matrix)[1::2], whole[1::2])
        and np.array_equal(_multiplied(alone, matrix)[-1], whole[-1])
    )


def dense(rows: int, d: int) -> Floats:
    """Return numbers in [-1, 1] of which none is zero and no two are alike, (rows, d)."""
    return np.asarray(np.sin(np.sqrt(2) * np.arange(1, rows * d + 1)).reshape(rows, d))


def of_inputs(study: Study, weights: Vector, matrix: Vector) -> Floats:
    """Return the model of the inputs, (p,), of a model of z, (p,).

    The first layer's weights on z are V, (outputs, d), with which it has no bias; those on the
    inputs are V·W, whose last column is the bias. A logistic model is such a layer.
    ``matrix``: W in any shape of d² numbers. The result is clipped to ± ``LARGEST_WEIGHT``.
    """
    d, outputs = second_moments.width(study), layers(study)[0].sizes[1]
    first, others = weights[: outputs * d], weights[outputs * d :]
    found = first.reshape(outputs, d) @ matrix.reshape(d, d).T
    whole = np.concatenate([found[:, :-1].ravel(), found[:, -1], others])
    return np.asarray(np.clip(whole, -LARGEST_WEIGHT, LARGEST_WEIGHT), dtype=np.float64)


def on_whitened(study: Study, weights: Vector, matrix: Vector) -> Floats:
    """Return the model of z, (p,), of a model of the inputs, (p,): the inverse of ``of_inputs``."""
    d, outputs = second_moments.width(study), layers(study)[0].sizes[1]
    given, w = np.asarray(weights, dtype=np.float64), np.asarray(matrix, dtype=np.float64)
    slopes, rest = given[: outputs * (d - 1)], given[outputs * (d - 1) :]
    first = np.column_stack([slopes.reshape(outputs, d - 1), rest[:outputs]])
    found = np.linalg.solve(w.reshape(d, d), first.T).T
    whole = np.concatenate([found.ravel(), rest[outputs:]])
    return np.asarray(np.clip(whole, -LARGEST_WEIGHT, LARGEST_WEIGHT), dtype=np.float64)


def divided(study: Study, asked: Vector) -> tuple[Vector, Floats]:
    """Split what a training request carries into the model of z, (p,), and W, (d, d)."""
    d, p = second_moments.width(study), parameter_count(study)
    return asked[:p], asked[p:].reshape(d, d).astype(np.float64, copy=False)


def steepness(study: Study) -> float:
    """Return by how much the model's output, where it starts, enlarges gradients on z.

    1 for a logistic model. A network's first layer has gradients ``OUTPUT_NORM`` times as long,
    and its other layers do not: most of what the clip leaves points where logistic regression would
    go. The clip is enlarged by as much, and a step reduced by its square, so that the settings of
    ``flo.study.usual`` suit both.
    """
    return 1.0 if study.model.kind == "logistic" else OUTPUT_NORM


def _made_up_moments(study: Study) -> Floats:
    """Return G₀, (d, d)."""
    inputs = made_up_inputs(study.data)
    rows = np.hstack([inputs, np.ones((len(inputs), 1))])
    return np.asarray(rows.T @ rows / (len(rows) * second_moments.squared_scale(study)))
