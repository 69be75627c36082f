"""Regressions from their noisy rounds: coefficients, intervals, p-values and a Wald test."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import chi2, norm

from flo.arrays import Floats
from flo.privacy.releases.regressions import RegressionBlock, Released, estimate
from flo.statistics.estimates import NOTHING, Estimate, Z, of_patients
from flo.study.document import Study
from flo.study.schema import NumberColumn


@dataclass(frozen=True)
class Coefficient:
    """``value``: per unit of the predictor. ``ratio``: e^value, of a logistic one.

    ``p``: two-sided, of the value 0; None if it is not readable.
    """

    name: str
    value: Estimate
    ratio: Estimate | None
    p: float | None


@dataclass(frozen=True)
class RegressionRead:
    """``patients``: with all values. ``wald``: χ², degrees of freedom and p that all coefficients
    but the intercept are 0; None if they are not readable.
    """

    name: str
    family: str
    outcome: str
    patients: Estimate
    coefficients: tuple[Coefficient, ...]
    wald: tuple[float, int, float] | None


def read_regression(
    study: Study,
    block: RegressionBlock,
    rounds: Sequence[Released],
    numbers: Mapping[str, NumberColumn],
) -> RegressionRead:
    """Read one regression. ``numbers``: the study's number columns by name."""
    found = estimate(study, block, rounds)
    change = _to_units(block, numbers)
    values = change @ found.coefficients
    covariance = change @ found.covariance @ change.T
    if block.part.family == "linear":
        outcome = numbers[block.part.outcome]
        half = (outcome.maximum - outcome.minimum) / 2
        values, covariance = values * half, covariance * half**2
        values[0] += outcome.minimum + half
    coefficients = tuple(
        _coefficient(block, name, float(value), math.sqrt(max(float(variance), 0.0)), found.known)
        for name, value, variance in zip(block.names, values, np.diag(covariance), strict=True)
    )
    noise = sum(one.variance for one in rounds) / len(rounds) ** 2 / block.scale**2 / 0.25
    patients = of_patients(found.patients, noise)
    part = block.part
    wald = _wald(values, covariance) if found.known else None
    return RegressionRead(part.name, part.family, part.outcome, patients, coefficients, wald)


def _to_units(block: RegressionBlock, numbers: Mapping[str, NumberColumn]) -> Floats:
    """Return the matrix from coefficients of scaled predictors to those per unit, (d, d)."""
    change = np.eye(block.size)
    for place, name in enumerate(block.names):
        if place and (column := numbers.get(name)):
            slope = 2 / (column.maximum - column.minimum)
            change[place, place] = slope
            change[0, place] = -slope * column.minimum - 1
    return change


def _coefficient(
    block: RegressionBlock, name: str, value: float, error: float, known: bool
) -> Coefficient:
    logistic = block.part.family == "logistic"
    if not known or error == 0:
        return Coefficient(name, NOTHING, NOTHING if logistic else None, None)
    low, high = value - Z * error, value + Z * error
    ratio = None
    if logistic:
        middle, least, most = (math.exp(min(max(one, -700), 700)) for one in (value, low, high))
        ratio = Estimate(middle, least, most)
    p = 2 * float(norm.sf(abs(value) / error))
    return Coefficient(name, Estimate(value, low, high), ratio, p)


def _wald(values: Floats, covariance: Floats) -> tuple[float, int, float]:
    slopes, of_slopes = values[1:], covariance[1:, 1:]
    statistic = float(slopes @ np.linalg.solve(of_slopes, slopes))
    return statistic, len(slopes), float(chi2.sf(max(statistic, 0.0), len(slopes)))
