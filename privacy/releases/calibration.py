"""Calibrated risks from the evaluation's release, at no further cost in privacy.

Clipping and noise leave a model's log odds s too large, too small or off by a constant. A Platt
(1999) fit, risk = π(s) = sigmoid(c + δ + b·(s - c)), repairs this. c is the mean log odds of
made-up patients; with images, which made-up ones do not resemble, that of the released mean
position. The release has sums of waves over the positions u of both classes
(``flo.privacy.releases.score_waves``), which give the total of any function of u over a class, with
noise of known variance. So for g = 1 and for g = s, clipped to the middle 80 % of positions, since
noise grows with the largest g, the moments

    m_g = Σ over positives g·(1 - π) - Σ over negatives g·π

have mean 0 under any noise if π is right, and covariance V = noise + Σ g·g'·π·(1 - π), where the
second part is the labels'. Their quasi-posterior (Chernozhukov and Hong 2003,
doi:10.1016/S0304-4076(03)00100-3),

    -½·mᵀV⁻¹m - ½·log |V| + log prior(δ) + log prior(log b),

is evaluated on a grid that is moved and scaled until it covers the posterior. The risk of a score
is the posterior mean of π(s), and its band holds ``LEVEL`` of the posterior. With little noise this
is the Platt fit of the evaluated patients; with much noise it stays near the prior: Student's t
with 4 degrees of freedom, which data can overrule. Everything here is post-processing.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field, model_validator
from scipy.special import expit, logit

from flo.arrays import Floats
from flo.documents.document import Document
from flo.privacy.releases import evaluation, score_waves
from flo.study.document import Study
from flo.study.parameters import Vector

LEVEL = 0.9  # share of the posterior within a band
_POINTS = 65  # of the published curve
_PLACES = 128  # positions at which functions are evaluated
# Points of an axis while the grid moves and in the end; reach in standard deviations; moves.
_COARSE, _FINE, _REACH, _MOVES = 25, 61, 5.0, 8
# Prior: scale of δ, middle of b, and scale of log b. Nothing public tells the scale of the log odds
# of images. Chosen on heart, SUPPORT2 and LIDC.
_SHIFT, _SLOPE, _SLOPES, _SLOPES_OF_IMAGES, _FREEDOM = 0.6, 0.85, 0.4, 1.0, 4
_CLIPPED = 0.1  # share of positions at either end where g does not grow further
_LEAST = 1e-6  # risk, and variance of a moment, that count as 0

_Risks = Annotated[tuple[float, ...], Field(min_length=2, max_length=1000)]


class Calibration(Document):
    """Risk as a function of a model's log odds: a curve with its band.

    ``log_odds``: rising. ``risk``: of label 1, with ``low`` <= ``risk`` <= ``high``, none of which
    falls. ``level``: how often the band contains the risk that a Platt fit to all patients of the
    population would state; in (0, 1).
    """

    log_odds: _Risks
    risk: _Risks
    low: _Risks
    high: _Risks
    level: Annotated[float, Field(gt=0, lt=1)]

    @model_validator(mode="after")
    def _is_curve(self) -> Calibration:
        curves = self.low, self.risk, self.high
        if any(len(curve) != len(self.log_odds) for curve in curves):
            raise ValueError("log_odds, risk, low and high are not of equal length")
        if not (np.diff(self.log_odds) > 0).all() or max(map(abs, self.log_odds)) > 1e100:
            raise ValueError("log_odds do not rise")
        if any((np.diff(curve) < 0).any() for curve in curves):
            raise ValueError("risk, low or high falls")
        if not all(0 < low <= risk <= high < 1 for low, risk, high in zip(*curves, strict=True)):
            raise ValueError("0 < low <= risk <= high < 1 does not hold")
        return self

    def of(self, log_odds: Floats) -> tuple[Floats, Floats, Floats]:
        """Return (risk, low, high), each (n,) in [0, 1], of log odds (n,) of the model.

        The log odds of each curve are interpolated, and extrapolated beyond its ends, so that
        higher log odds never have a lower risk.
        """
        risk, low, high = (
            _extended(log_odds, np.array(self.log_odds), logit(curve))
            for curve in (self.risk, self.low, self.high)
        )
        return expit(risk), expit(np.minimum(low, risk)), expit(np.maximum(high, risk))


def fit(study: Study, weights: Vector, noisy: Floats, variance: float) -> Calibration | None:
    """Return the calibration of a model; None if the study counts in bins, which are too coarse.

    ``noisy`` (length,): a release of the evaluation or a sum of releases, with ``variance`` in
    every number. ``weights``: of the evaluated model.
    """
    if study.evaluation.bins:
        return None
    classes, spread = evaluation.of_everyone(study, noisy, variance)
    positions = evaluation.Positions.of_model(study, weights)
    of_images = positions.deviation is None
    middle = _middle_score(classes) if of_images else positions.middle
    prior = np.array([_SHIFT, _SLOPES_OF_IMAGES if of_images else _SLOPES])
    moments = _Moments(positions.log_odds(_middles(_PLACES)), middle, classes, spread)
    shift, log_slope, weight = _posterior(moments, prior)
    # Equal steps of position are dense where patients may be.
    points = np.unique(positions.log_odds(_middles(_POINTS)))
    return _curve(middle, points, shift, log_slope, weight)


def _extended(at: Floats, known: Floats, values: Floats) -> Floats:
    """Interpolate ``values`` (k,) at ``at`` (n,); extend the end pieces beyond the ends."""
    slopes = np.diff(values) / np.diff(known)
    below, above = np.minimum(at - known[0], 0.0), np.maximum(at - known[-1], 0.0)
    return np.asarray(np.interp(at, known, values) + slopes[0] * below + slopes[-1] * above)


def _middles(parts: int) -> Floats:
    """Return the middles of equal parts of [0, 1], (parts,)."""
    return (np.arange(parts) + 0.5) / parts


def _middle_score(classes: Floats) -> float:
    """Return the log odds of the mean released position of images, whose position is the risk."""
    each = score_waves.coefficients(np.stack([np.ones(_PLACES), _middles(_PLACES)]))
    count, positions = each @ classes.sum(0)
    return float(logit(np.clip(positions / max(count, 1.0), 0.1, 0.9)))


def _posterior(moments: _Moments, scales: Floats) -> tuple[Floats, Floats, Floats]:
    """Return δ, log b and the normalised weight of each point of a grid over the posterior.

    ``scales`` (2,): of the prior of δ and of log b.
    """
    expected = np.array([0.0, np.log(_SLOPE)])

    def weighted(points: Floats) -> Floats:
        logs = moments.log_likelihood(points[:, 0], np.exp(points[:, 1]))
        logs += _log_prior((points - expected) / scales).sum(1)
        weight = np.exp(logs - logs.max())
        return np.asarray(weight / weight.sum())

    centre, spread = expected, np.diag(2 * scales)
    for _ in range(_MOVES):
        points = centre + _unit_grid(_COARSE) @ spread
        weight = weighted(points)
        centre, around = weight @ points, points - weight @ points
        # Half a step is added, so that a posterior between two points is found by the next grid.
        half = spread * _REACH / (_COARSE - 1)
        spread = _root((around.T * weight) @ around + half @ half)
    points = centre + _unit_grid(_FINE) @ spread
    return points[:, 0], points[:, 1], weighted(points)


def _unit_grid(size: int) -> Floats:
    """Return the points (size², 2) of a square grid that reaches ``_REACH`` to each side."""
    axis = np.linspace(-_REACH, _REACH, size)
    return np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)


class _Moments:
    """The moments m_g of a release, their covariance, and the likelihood of δ and b."""

    def __init__(self, scores: Floats, middle: float, classes: Floats, variance: float) -> None:
        """``scores`` (places,): log odds at the middles of equal parts of [0, 1]."""
        places = len(scores)
        self._apart, self._middle, self._variance = scores - middle, middle, variance
        self._of = score_waves.coefficients(np.eye(places))  # function (places,) -> coefficients
        first, last = self._apart[int(_CLIPPED * places)], self._apart[-int(_CLIPPED * places) - 1]
        self._tests = np.stack([np.ones(places), np.clip(self._apart, first, last)])
        negatives, positives = classes
        self._positive = self._tests @ self._of @ positives
        self._both = self._of @ (negatives + positives)

    def log_likelihood(self, shift: Floats, slope: Floats) -> Floats:
        """Return -½·mᵀV⁻¹m - ½·log |V| for each δ and b, (points,)."""
        risk = expit(self._middle + shift[:, None] + slope[:, None] * self._apart)
        moment, predicted = [], []
        for test, positive in zip(self._tests, self._positive, strict=True):
            moment.append(positive - (risk * test) @ self._both)
            predicted.append((risk * test) @ self._of)
        labels = risk * (1 - risk)
        known = self._tests @ self._of

        def covariance(one: int, other: int) -> Floats:
            left = (known[one] - predicted[one]) * (known[other] - predicted[other])
            noise = (left + predicted[one] * predicted[other]).sum(1)
            sampling = (labels * self._tests[one] * self._tests[other]) @ self._both
            if one == other:
                sampling = np.maximum(sampling, 0.0)
            return np.asarray(self._variance * noise + sampling)

        first, second = covariance(0, 0) + _LEAST, covariance(1, 1) + _LEAST
        most = 0.999 * np.sqrt(first * second)  # noisy totals may break Cauchy and Schwarz
        cross = np.clip(covariance(0, 1), -most, most)
        determinant = first * second - cross**2
        square = second * moment[0] ** 2 + first * moment[1] ** 2
        square -= 2 * cross * moment[0] * moment[1]
        return np.asarray(-0.5 * square / determinant - 0.5 * np.log(determinant))


def _log_prior(apart: Floats) -> Floats:
    """Return the log density of Student's t, less a constant, at ``apart`` scales."""
    return np.asarray(-0.5 * (_FREEDOM + 1) * np.log1p(apart**2 / _FREEDOM))


def _root(matrix: Floats) -> Floats:
    """Return the symmetric square root of a positive matrix (2, 2)."""
    values, vectors = np.linalg.eigh(matrix)
    return np.asarray(vectors * np.sqrt(np.maximum(values, 0.0)) @ vectors.T)


def _curve(
    middle: float, log_odds: Floats, shift: Floats, log_slope: Floats, weight: Floats
) -> Calibration:
    """Return the curve at ``log_odds`` (k,) of the weighted pairs of δ and log b."""
    each = middle + shift[:, None] + np.exp(log_slope)[:, None] * (log_odds - middle)
    shares, ends = ((1 - LEVEL) / 2, (1 + LEVEL) / 2), []
    for scores in each.T:
        order = np.argsort(scores)
        below = np.cumsum(weight[order]) - weight[order] / 2
        ends.append(expit(np.interp(shares, below, scores[order])))
    risk, (low, high) = weight @ expit(each), np.transpose(ends)
    # Interpolation between points of the grid may let an end fall by a trace.
    low, high = np.maximum.accumulate(low), np.maximum.accumulate(high)
    low, high = np.minimum(low, risk), np.maximum(high, risk)
    return Calibration(
        log_odds=tuple(log_odds.tolist()),
        **{
            name: tuple(np.round(np.clip(curve, _LEAST, 1 - _LEAST), 6).tolist())
            for name, curve in (("risk", risk), ("low", low), ("high", high))
        },
        level=LEVEL,
    )
