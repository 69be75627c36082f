"""Regressions from a few noisy sums: scores and information at coefficients that are public.

In each round a patient, with predictors x (intercept first, numbers scaled to [-1, 1], categories
as 0 or 1 for each code but the first) and outcome y, contributes for each regression

- logistic, y in {0, 1}, p = 1/(1 + e^(-xβ)):  (y - p)·x,  p(1 - p)·xxᵀ,  1/2;
- linear, y scaled to [-1, 1]:                  y·x,        xxᵀ/4,         1/2,  y²/2;

or nothing if a value is missing. ‖x‖² <= R² = 1 + numbers + categories, whatever β is. The upper
triangle of xxᵀ has norm at most ‖x‖², so the norm is at most √(R² + R⁴/16 + 1/4) for logistic, and
1/4 more under the root for linear. Blocks are scaled as in ``flo.privacy.releases.statistics``, so
that a patient's whole vector has norm 1.

The next β is a Newton step on the noisy sums (Fisher scoring); the estimate combines all rounds
whose scores are linear in β: all (linear), or nearly so: all but the first two (logistic). With
scores s_t and information H_t at β_t, averages over these rounds: β̂ = H̄⁻¹·mean(s_t + H_t·β_t), of
variance H̄⁻¹ (sampling, times the residual variance if linear) + H̄⁻¹·v·H̄⁻¹, v that of the noise in
a coordinate of mean(s_t + H_t·(β_t - β̂)). It does not know of noise in H̄ beyond that, so H̄ must be
clearly above it (``MOST_NOISE``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from flo.arrays import Floats, Mask
from flo.errors import StudyError
from flo.privacy.patients.patients import Patients
from flo.study.document import Study
from flo.study.features import cell_of, scaled_number
from flo.study.models import request_length
from flo.study.parameters import Vector
from flo.study.schema import CategoryColumn, NumberColumn
from flo.study.statistics import MOST_CELLS, Regression, coefficient_names

NORM = 1.0
MOST_NOISE = 1.0  # of the smallest eigenvalue of H̄, by the noise's usual largest one
_INFORMATION, _COUNT, _SQUARE = 0.25, 0.5, 0.5
_FIRST = 2  # rounds of a logistic one that are too far from the estimate to be part of it
_LARGEST_STEP = 4.0


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
        return self.start + d + d * (d + 1) // 2 + 1 + (self.part.family == "linear")


@dataclass(frozen=True)
class Released:
    """What one round released: the noisy sum, (length,), and the variance of its noise."""

    sums: Floats
    variance: float


@dataclass(frozen=True)
class Estimated:
    """Coefficients, (d,), and their covariance, (d, d), on the scaled predictors and outcome.

    ``patients``: how many had all values, noisy. ``known``: whether the noise is small enough.
    """

    coefficients: Floats
    covariance: Floats
    patients: float
    known: bool


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
        scale = math.sqrt(share) / _norm(part)
        block = RegressionBlock(
            part, start, first, coefficient_names(part, study.data), scale, share
        )
        found.append(block)
        start, first = block.end, first + block.size
    if start > MOST_CELLS:
        raise StudyError(
            f"the regressions have {start} numbers, limit {MOST_CELLS}",
            hint="use fewer predictors, or fewer codes",
        )
    return tuple(found)


def length(study: Study) -> int:
    """Return the number of coordinates of a round's release; 0 without regressions."""
    blocks = layout(study)
    return blocks[-1].end if blocks else 0


def exact(study: Study, patients: Patients, asked: Vector) -> Floats:
    """Return the exact sum at the coefficients ``asked``, (length,); a patient's norm is <= 1."""
    found = np.zeros(length(study))
    for block in layout(study):
        x, y, there = _values(study, block.part, patients)
        beta = np.nan_to_num(np.asarray(asked, dtype=np.float64))
        beta = beta[block.first : block.first + block.size]
        found[block.start : block.end] = block.scale * _sums(block, x[there], y[there], beta)
    return found


def _sums(block: RegressionBlock, x: Floats, y: Floats, beta: Floats) -> Floats:
    upper = np.triu_indices(block.size)
    count = _COUNT * len(y)
    if block.part.family == "linear":
        information = _INFORMATION * (x.T @ x)
        square = _SQUARE * float(y @ y)
        return np.concatenate([x.T @ y, information[upper], [count, square]])
    p = 1 / (1 + np.exp(-np.clip(x @ beta, -700, 700)))
    information = (x * (p * (1 - p))[:, None]).T @ x
    return np.concatenate([x.T @ (y - p), information[upper], [count]])


def _norm(part: Regression) -> float:
    squared = 1.0 + len(part.predictors)
    linear = _SQUARE**2 if part.family == "linear" else 0.0
    return math.sqrt(squared + squared**2 * _INFORMATION**2 + _COUNT**2 + linear)


def _values(study: Study, part: Regression, patients: Patients) -> tuple[Floats, Floats, Mask]:
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
            codes = np.arange(1, len(column.codes))
            parts.append((cell[:, None] == codes).astype(np.float64))
        there &= known
    if part.outcome == study.data.label:
        outcome = np.where(patients.labels == 1, 1.0, 0.0)
    elif isinstance(columns[part.outcome], NumberColumn):
        outcome, known = scaled_number(study.data, part.outcome, patients.inputs)
        there &= known
    else:
        cell = cell_of(study.data, part.outcome, patients.inputs, 1)
        there &= cell < 2
        outcome = np.where(cell == 1, 1.0, 0.0)
    return np.hstack(parts), outcome, there


def rounds_of(sums: Vector, variances: Sequence[float]) -> list[Released]:
    """Return the rounds whose sums lie one after another in ``sums``, with their variances."""
    each = np.asarray(sums, dtype=np.float64).reshape(len(variances), -1)
    return [Released(one, variance) for one, variance in zip(each, variances, strict=True)]


# -- from sums to coefficients ---------------------------------------------------------------------


def next_coefficients(study: Study, rounds: Sequence[Released]) -> Floats:
    """Return what the next round asks about, (coefficients,); zeros before any round."""
    found = np.zeros(request_length(study, "regression"))
    for number in range(len(rounds)):
        for block in layout(study):
            place = slice(block.first, block.first + block.size)
            if block.part.family == "logistic":
                found[place] = _stepped(block, rounds[number], found[place])
    return found


def estimate(study: Study, block: RegressionBlock, rounds: Sequence[Released]) -> Estimated:
    """Return the coefficients of a regression after all rounds."""
    place = slice(block.first, block.first + block.size)
    asked = [next_coefficients(study, rounds[:n])[place] for n in range(len(rounds))]
    logistic = block.part.family == "logistic"
    used = range(min(_FIRST, len(rounds) - 1) if logistic else 0, len(rounds))
    read = {n: _read(block, rounds[n]) for n in used}
    factor = 1.0 if logistic else _INFORMATION
    information = np.mean([read[n][1] for n in used], axis=0) / factor
    noise = math.sqrt(sum(rounds[n].variance for n in used)) / len(used) / block.scale
    values, vectors = np.linalg.eigh(information)
    loud = 2 * noise / factor * math.sqrt(block.size)
    known = bool(values[0] > loud / MOST_NOISE)
    inverse = (vectors / np.maximum(values, loud)) @ vectors.T
    if logistic:
        target = np.mean([read[n][0] + read[n][1] @ asked[n] for n in used], axis=0)
        found = inverse @ target
        apart = [float((asked[n] - found) @ (asked[n] - found)) for n in used]
        residual = 1.0
    else:
        target = np.mean([read[n][0] for n in used], axis=0)
        found = inverse @ target
        apart = [float(found @ found) / factor**2 for _ in used]
        residual = _residual(block, [rounds[n] for n in used], found, target, information)
    each = [rounds[n].variance * (1 + more) for n, more in zip(used, apart, strict=True)]
    of_noise = sum(each) / len(used) ** 2 / block.scale**2
    covariance = residual * inverse + of_noise * inverse @ inverse
    patients = float(np.mean([read[n][2] for n in used]))
    return Estimated(found, covariance, patients, known)


def _residual(
    block: RegressionBlock,
    rounds: Sequence[Released],
    found: Floats,
    target: Floats,
    information: Floats,
) -> float:
    """Return the variance of a linear regression's residuals, from noisy sums."""
    squares = [released.sums[block.end - 1] / block.scale / _SQUARE for released in rounds]
    patients = np.mean([_read(block, released)[2] for released in rounds])
    total = float(np.mean(squares)) - 2 * float(found @ target) + float(found @ information @ found)
    return max(total, 0.0) / max(float(patients) - block.size, 1.0)


def _stepped(block: RegressionBlock, released: Released, asked: Floats) -> Floats:
    score, information, _ = _read(block, released)
    noise = math.sqrt(released.variance) / block.scale
    values, vectors = np.linalg.eigh(information)
    inverse = (vectors / np.maximum(values, 3 * noise)) @ vectors.T
    step = inverse @ score
    size = float(np.linalg.norm(step))
    return np.asarray(asked + step * min(1.0, _LARGEST_STEP / max(size, 1e-300)))


def _read(block: RegressionBlock, released: Released) -> tuple[Floats, Floats, float]:
    """Return a round's score (d,), information as it was summed (d, d), and number of patients."""
    d, values = block.size, released.sums[block.start : block.end] / block.scale
    information = np.zeros((d, d))
    information[np.triu_indices(d)] = values[d : d + d * (d + 1) // 2]
    information += np.triu(information, 1).T
    return values[:d], information, float(values[d + d * (d + 1) // 2]) / _COUNT
