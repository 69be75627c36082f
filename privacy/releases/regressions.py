"""Regressions from a few noisy sums: scores and information at coefficients that are public.

In each round a patient has predictors x: 1, numbers scaled to [-1, 1], and for each category its
code's point of the regular simplex, of norm 1 (for two codes -1 or 1). So ‖x‖² <= R² = 1 + numbers
+ categories, and no entry is beyond 1. With the outcome y and c = ``INFORMATION`` the patient
contributes to each regression at coefficients β

- logistic, y in {0, 1}, p = 1/(1 + e^(-xβ)):   (y - p)·x,   4c·p(1 - p)·xxᵀ,   1/2, 0;
- linear, y scaled to [-1, 1]:                  y·x,         c·xxᵀ,             1/2, y²/2;
- Poisson, y and m = min(e^(xβ), 1) in units of the outcome's maximum:
                                                (y - m)·x,   c·m·xxᵀ,           1/2, (y - m)²/2;

or nothing if a value is missing. Of xxᵀ the upper triangle is sent, with the off-diagonal entries
times √2, so its norm is ‖x‖². Whatever β is, the norm is at most √(R² + c²R⁴ + 1/4 + 1/4). Blocks
are scaled as in ``flo.privacy.releases.statistics``, so that a patient's whole vector has norm 1; a
patient's records, should there be several, share a weight of 1.

How the next β and the estimate follow: ``flo.privacy.releases.fisher_scoring``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from flo.arrays import Floats, Mask
from flo.errors import StudyError
from flo.privacy.patients.patients import Patients
from flo.privacy.releases.catalogue import contrasts_of
from flo.privacy.releases.histograms import record_weights
from flo.study.columns import CategoryColumn, NumberColumn
from flo.study.document import Study
from flo.study.features import cell_of, scaled_number
from flo.study.parameters import Vector
from flo.study.statistics import MOST_CELLS, ROUNDS, Regression, coefficient_names

NORM = 1.0
INFORMATION = 0.3  # c: more of it is less noise in the information, and more in the scores
LARGEST_COEFFICIENT = 1e6  # that may be asked about
_COUNT, _SQUARE = 0.5, 0.5


@dataclass(frozen=True)
class RegressionBlock:
    """Where a regression lies. ``names``: of its d coefficients, the intercept first.

    ``start``: in a round's sum; ``first``: of its coefficients among those of all regressions.
    """

    part: Regression
    start: int
    first: int
    names: tuple[str, ...]
    scale: float
    share: float

    @property
    def size(self) -> int:
        """d, the number of coefficients."""
        return len(self.names)

    @property
    def end(self) -> int:
        """The first place after the block."""
        d = self.size
        return self.start + d + d * (d + 1) // 2 + 2

    @property
    def coefficients(self) -> slice:
        """Where its coefficients are among those of all regressions."""
        return slice(self.first, self.first + self.size)


@dataclass(frozen=True)
class Sums:
    """A round's sums of one regression. ``score``: (d,); ``information``: (d, d).

    ``patients``: with all values. ``squares``: of outcomes (linear) or residuals (Poisson).
    ``noise``: standard deviation of an entry of the score; ``information_noise``: of a diagonal
    entry of the information, whose other entries have 1/√2 of it.
    """

    score: Floats
    information: Floats
    patients: float
    squares: float
    noise: float
    information_noise: float


def share_of(study: Study) -> float:
    """Return the regressions' part of the study's budget, in [0, 1]."""
    asked = study.statistics
    if asked is None:
        raise StudyError(f"study {study.name} is not a statistics study")
    mine = sum(part.share for part in asked.parts if isinstance(part, Regression))
    return mine / sum(part.share for part in asked.parts)


@lru_cache(maxsize=32)
def layout(study: Study) -> tuple[RegressionBlock, ...]:
    """Return the study's regressions in order; empty if it has none. Raises StudyError."""
    asked = study.statistics
    if asked is None:
        raise StudyError(f"study {study.name} is not a statistics study")
    parts = [part for part in asked.parts if isinstance(part, Regression)]
    whole, found, start, first = sum(part.share for part in parts), list[RegressionBlock](), 0, 0
    for part in parts:
        share = part.share / whole
        scale, names = math.sqrt(share) / norm_of(part), coefficient_names(part, study.data)
        block = RegressionBlock(part, start, first, names, scale, share)
        found.append(block)
        start, first = block.end, first + block.size
    if ROUNDS * start > MOST_CELLS:
        raise StudyError(
            f"{ROUNDS} rounds of the regressions have {ROUNDS * start} numbers, limit {MOST_CELLS}",
            hint="use fewer predictors, or fewer codes",
        )
    return tuple(found)


def length(study: Study) -> int:
    """Return the number of coordinates of a round's release; 0 without regressions."""
    blocks = layout(study)
    return blocks[-1].end if blocks else 0


def norm_of(part: Regression) -> float:
    """Return the bound on the norm of a patient's contribution to a regression."""
    squared = 1.0 + len(part.predictors)
    return math.sqrt(squared + (INFORMATION * squared) ** 2 + _COUNT**2 + _SQUARE**2)


def exact(study: Study, patients: Patients, asked: Vector) -> Floats:
    """Return the exact sum at the coefficients ``asked``, (length,); a patient's norm is <= 1."""
    found = np.zeros(length(study))
    weight = record_weights(patients.patient, patients.count)
    beta = np.nan_to_num(np.asarray(asked, dtype=np.float64))
    beta = np.clip(beta, -LARGEST_COEFFICIENT, LARGEST_COEFFICIENT)
    for block in layout(study):
        x, y, there = design(study, block.part, patients)
        mine = _sums(block.part, x[there], y[there], beta[block.coefficients], weight[there])
        found[block.start : block.end] = block.scale * mine
    return found


def _sums(part: Regression, x: Floats, y: Floats, beta: Floats, weight: Floats) -> Floats:
    count = _COUNT * float(weight.sum())
    if part.family == "linear":
        expected, informed = np.zeros(len(y)), np.ones(len(y))
    elif part.family == "logistic":
        expected = 1 / (1 + np.exp(-np.clip(x @ beta, -700, 700)))
        informed = expected * (1 - expected)
    else:
        expected = np.exp(np.minimum(x @ beta, 0.0))
        informed = expected
    score = x.T @ (weight * (y - expected))
    information = _factor(part) * (x * (weight * informed)[:, None]).T @ x
    squares = _SQUARE * float(weight @ (y - expected) ** 2) if part.family != "logistic" else 0.0
    upper = (information * _spread(len(beta)))[np.triu_indices(len(beta))]
    return np.concatenate([score, upper, [count, squares]])


def read_sums(block: RegressionBlock, released: Floats, variance: float) -> Sums:
    """Read a regression's part of a round's noisy sum; ``variance``: of each coordinate of it."""
    d, values = block.size, released[block.start : block.end] / block.scale
    information = np.zeros((d, d))
    information[np.triu_indices(d)] = values[d:-2]
    information /= _spread(d) * _factor(block.part)
    information += np.triu(information, 1).T
    noise, information_noise = noise_of(block, variance)
    return Sums(
        score=values[:d],
        information=information,
        patients=float(values[-2]) / _COUNT,
        squares=float(values[-1]) / _SQUARE,
        noise=noise,
        information_noise=information_noise,
    )


def noise_of(block: RegressionBlock, variance: float) -> tuple[float, float]:
    """Return ``noise`` and ``information_noise`` of a round's ``Sums``."""
    noise = math.sqrt(variance) / block.scale
    return noise, noise / _factor(block.part)


def patients_noise(block: RegressionBlock, variance: float) -> float:
    """Return the variance of the noise of a round's number of patients."""
    return variance / block.scale**2 / _COUNT**2


def _factor(part: Regression) -> float:
    """Return by what the information is multiplied; of a logistic one it is at most xxᵀ/4."""
    return INFORMATION * (4 if part.family == "logistic" else 1)


def _spread(d: int) -> Floats:
    """Return the factors of the entries of a symmetric matrix: 1 on the diagonal, else √2."""
    return np.full((d, d), math.sqrt(2)) - (math.sqrt(2) - 1) * np.eye(d)


def design(study: Study, part: Regression, patients: Patients) -> tuple[Floats, Floats, Mask]:
    """Return predictors (n, d), outcomes (n,), and which patients have all values, (n,)."""
    there = np.ones(len(patients.labels), dtype=np.bool_)
    columns = {column.name: column for column in study.data.columns}
    parts = [np.ones((len(there), 1))]
    for name in part.predictors:
        column = columns[name]
        if isinstance(column, NumberColumn):
            value, known = scaled_number(study.data, name, patients.inputs)
            parts.append(value[:, None])
        else:
            assert isinstance(column, CategoryColumn)
            cell = cell_of(study.data, name, patients.inputs, 1)
            known = cell < len(column.codes)
            parts.append(simplex(len(column.codes))[np.where(known, cell, 0)])
        there &= known
    if part.outcome == study.data.label:
        return np.hstack(parts), np.where(patients.labels == 1, 1.0, 0.0), there
    column = columns[part.outcome]
    if isinstance(column, NumberColumn):
        outcome, known = scaled_number(study.data, part.outcome, patients.inputs)
        if part.family == "poisson":
            half = (column.maximum - column.minimum) / 2
            outcome = (column.minimum + half * (outcome + 1)) / column.maximum
    else:
        cell = cell_of(study.data, part.outcome, patients.inputs, 1)
        known, outcome = cell < 2, np.where(cell == 1, 1.0, 0.0)
    return np.hstack(parts), outcome, there & known


def simplex(codes: int) -> Floats:
    """Return the corners of a regular simplex around 0, (codes, codes - 1), each of norm 1."""
    return contrasts_of(codes).T * math.sqrt(codes / (codes - 1))
