"""Regressions from their noisy rounds: coefficients, intervals, p-values and a Wald test."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import chdtrc, ndtr

from flo.arrays import Floats
from flo.privacy.releases.fisher_scoring import Released, Why, estimate
from flo.privacy.releases.regressions import RegressionBlock, patients_noise, simplex
from flo.statistics.estimates import NOTHING, Estimate, Z, of_patients
from flo.study.columns import CategoryColumn, NumberColumn
from flo.study.document import Study
from flo.study.schema import Schema

_WEAK = 0.4  # entries of the weakest direction that name a predictor


@dataclass(frozen=True)
class Coefficient:
    """``value``: per unit of the predictor, or of a code beside the first one. ``ratio``: e^value,
    of odds (logistic) or rates (Poisson).

    ``p``: two-sided, of the value 0; None if it is not readable.
    """

    name: str
    value: Estimate
    ratio: Estimate | None
    p: float | None


@dataclass(frozen=True)
class RegressionRead:
    """``patients``: with all values. ``wald``: χ², degrees of freedom and p that all coefficients
    but the intercept are 0; None if they are not readable. ``unknown``: empty, or why nothing is;
    ``weakest``: the predictors of which least is known.
    """

    name: str
    family: str
    outcome: str
    patients: Estimate
    coefficients: tuple[Coefficient, ...]
    wald: tuple[float, int, float] | None
    unknown: Why
    weakest: tuple[str, ...]


def read_regression(
    study: Study, block: RegressionBlock, rounds: Sequence[Released]
) -> RegressionRead:
    """Read one regression from its rounds; if there are none, the run was cut short."""
    part = block.part
    if not rounds:
        ratio = None if part.family == "linear" else NOTHING
        nothing = tuple(Coefficient(name, NOTHING, ratio, None) for name in block.names)
        return RegressionRead(
            part.name, part.family, part.outcome, NOTHING, nothing, None, "cut-short", ()
        )
    found = estimate(block, rounds)
    change = to_units(block, study.data)
    values = change @ found.coefficients
    covariance = change @ found.covariance @ change.T
    numbers = {c.name: c for c in study.data.columns if isinstance(c, NumberColumn)}
    if part.family == "linear":
        outcome = numbers[part.outcome]
        half = (outcome.maximum - outcome.minimum) / 2
        values, covariance = values * half, covariance * half**2
        values[0] += outcome.minimum + half
    elif part.family == "poisson":
        values[0] += math.log(numbers[part.outcome].maximum)
    known = not found.unknown
    coefficients = tuple(
        _coefficient(block, name, float(value), math.sqrt(max(float(variance), 0.0)), known)
        for name, value, variance in zip(block.names, values, np.diag(covariance), strict=True)
    )
    noise = max(patients_noise(block, one.variance) for one in rounds) / found.of
    return RegressionRead(
        part.name,
        part.family,
        part.outcome,
        of_patients(found.patients, noise),
        coefficients,
        _wald(values, covariance) if known else None,
        found.unknown,
        _weakest(block, study.data, found.weakest),
    )


def to_units(block: RegressionBlock, data: Schema) -> Floats:
    """Return the matrix from coefficients of the release to those of ``block.names``, (d, d)."""
    change, place = np.eye(block.size), 1
    for column in _predictors(block, data):
        if isinstance(column, NumberColumn):
            slope = 2 / (column.maximum - column.minimum)
            change[place, place] = slope
            change[0, place] = -slope * column.minimum - 1
            place += 1
        else:
            corners = simplex(len(column.codes))
            mine = slice(place, place + len(column.codes) - 1)
            change[mine, mine] = corners[1:] - corners[0]
            change[0, mine] = corners[0]
            place += len(column.codes) - 1
    return change


def _predictors(block: RegressionBlock, data: Schema) -> list[NumberColumn | CategoryColumn]:
    columns = {c.name: c for c in data.columns if isinstance(c, NumberColumn | CategoryColumn)}
    return [columns[name] for name in block.part.predictors]


def _weakest(block: RegressionBlock, data: Schema, direction: Floats) -> tuple[str, ...]:
    """Return the predictors with large entries in a direction."""
    found, place = list[str](), 1
    for column in _predictors(block, data):
        size = 1 if isinstance(column, NumberColumn) else len(column.codes) - 1
        if float(np.linalg.norm(direction[place : place + size])) >= _WEAK:
            found.append(column.name)
        place += size
    return tuple(found)


def _coefficient(
    block: RegressionBlock, name: str, value: float, error: float, known: bool
) -> Coefficient:
    of_ratios = block.part.family != "linear"
    if not known or error == 0:
        return Coefficient(name, NOTHING, NOTHING if of_ratios else None, None)
    low, high = value - Z * error, value + Z * error
    ratio = None
    if of_ratios:
        middle, least, most = (math.exp(min(max(one, -700), 700)) for one in (value, low, high))
        ratio = Estimate(middle, least, most)
    p = 2 * float(ndtr(-abs(value) / error))
    return Coefficient(name, Estimate(value, low, high), ratio, p)


def _wald(values: Floats, covariance: Floats) -> tuple[float, int, float]:
    slopes, of_slopes = values[1:], covariance[1:, 1:]
    statistic = float(slopes @ np.linalg.solve(of_slopes, slopes))
    return statistic, len(slopes), float(chdtrc(len(slopes), max(statistic, 0.0)))
