"""Calibrated risks from the evaluation's release, at no further cost in privacy.

Clipping and noise leave a model's log odds s too large, too small or off by a constant. A Platt
(1999) fit, risk = π(s) = sigmoid(c + δ + b·(s - c)), repairs this. c is 0, or for one of several
classes the log odds of its share if all had the same; with images, whose log odds may all lie far
from it, c is that of the released mean position. The release has sums of waves over the positions u
of both classes (``flo.privacy.releases.score_waves``), which give the total of any function of u
over a class, with noise of known variance. So for g = 1 and for g = s, clipped to where patients
are, since noise grows with the largest g, the moments

    m_g = Σ over positives g·(1 - π) - Σ over negatives g·π

have mean 0 under any noise if π is right, and covariance V = noise + Σ g·g'·π·(1 - π), where the
second part is the labels'. Their quasi-posterior (Chernozhukov and Hong 2003,
doi:10.1016/S0304-4076(03)00100-3),

    -½·mᵀV⁻¹m - ½·log |V| + log prior(δ) + log prior(log b),

is evaluated on a grid that is moved and scaled until it covers the posterior. The risk of a score
is the posterior mean of π(s), and its band holds ``LEVEL`` of the posterior. With little noise this
is nearly the Platt fit of the evaluated patients; with much noise it stays near the prior:
Student's t with 4 degrees of freedom, which data can overrule. The band includes noise and the
number of patients, and not that the truth may be no logistic curve. Everything here is
post-processing.
"""

from __future__ import annotations

from collections.abc import Sequence
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
# Points of an axis of the first grid, of the moving ones and of the last; how far the first reaches
# in δ and log b, and the others in standard deviations; moves; weight at the border of the last.
_WIDE, _COARSE, _FINE, _FARTHEST, _REACH, _MOVES, _BORDER = 41, 21, 45, (20.0, 5.0), 5.0, 9, 0.01
# Prior: scale of δ, middle of b, and scale of log b. Nothing public tells the scale of the log odds
# of images. Chosen on heart, SUPPORT2 and LIDC.
_SHIFT, _SLOPE, _SLOPES, _SLOPES_OF_IMAGES, _FREEDOM = 0.6, 0.85, 0.4, 1.0, 4
_CLIPPED = 0.1  # share of positions at either end where g does not grow further
_LEAST = 1e-5  # smallest risk that is stated, and variance of a moment that counts as 0
_NEAREST, _LARGEST = 1e-9, 1e9  # log odds of a curve: smallest step, largest value

_Risks = Annotated[tuple[float, ...], Field(min_length=2, max_length=1000)]


class Calibration(Document):
    """Risk as a function of a model's log odds: a curve with its band.

    ``log_odds``: rising. ``risk``: of label 1, with ``low`` <= ``risk`` <= ``high``, none of which
    falls. ``level``: how often the band contains the risk that a Platt fit to all patients of the
    population would state; 0.5 to 0.999.
    """

    log_odds: _Risks
    risk: _Risks
    low: _Risks
    high: _Risks
    level: Annotated[float, Field(ge=0.5, le=0.999)]

    @model_validator(mode="after")
    def _is_curve(self) -> Calibration:
        curves = self.low, self.risk, self.high
        if any(len(curve) != len(self.log_odds) for curve in curves):
            raise ValueError("log_odds, risk, low and high are not of equal length")
        if not (np.diff(self.log_odds) >= _NEAREST).all():
            raise ValueError(f"log_odds do not rise by {_NEAREST:g} or more")
        if max(map(abs, self.log_odds)) > _LARGEST:
            raise ValueError(f"log_odds lie beyond ±{_LARGEST:g}")
        if any((np.diff(curve) < 0).any() for curve in curves):
            raise ValueError("risk, low or high falls")
        if not all(0 < low <= risk <= high < 1 for low, risk, high in zip(*curves, strict=True)):
            raise ValueError("0 < low <= risk <= high < 1 does not hold")
        return self

    def of(self, log_odds: Floats) -> tuple[Floats, Floats, Floats]:
        """Return (risk, low, high), each (n,) in (0, 1), of log odds (n,) of the model.

        The log odds of each curve are interpolated; beyond its ends it states those of the end.
        Higher log odds never have a lower risk.
        """
        return Curve(self).of(log_odds)


class Curve:
    """A calibration as arrays, made once for many scores."""

    def __init__(self, calibration: Calibration) -> None:
        self._at = np.array(calibration.log_odds)
        curves = calibration.risk, calibration.low, calibration.high
        self._curves = [logit(np.array(curve)) for curve in curves]

    def of(self, log_odds: Floats) -> tuple[Floats, Floats, Floats]:
        """Return as ``Calibration.of``."""
        risk, low, high = (expit(np.interp(log_odds, self._at, one)) for one in self._curves)
        return risk, low, high


def fit(study: Study, weights: Vector, noisy: Floats, variance: float) -> Calibration | None:
    """Return the calibration of a model; None if no risk can be stated.

    That is so if the study counts in bins, which are too coarse, or if the release or the model is
    so far from any that patients could make that no fit is found. The estimate of the AUC, for
    which patients paid in the same release, is not lost by that.

    ``noisy`` (length,): a release of the evaluation or a sum of releases, with ``variance`` in
    every number. ``weights``: of the evaluated model.
    """
    if study.evaluation.bins:
        return None
    classes, spread = evaluation.of_everyone(study, noisy, variance)
    return fit_at(evaluation.Positions.of_model(study, weights), classes, spread)


def fit_each(
    study: Study, weights: Vector, noisy: Floats, variance: float
) -> tuple[Calibration, ...]:
    """Return the risk of each of several classes, as a function of its own score; of none if for
    one no risk can be stated.

    Each is fitted alone, so that their sum is about 1 and seldom 1. Log odds are stretched around
    those of a class if all were equally likely.
    """
    sums = evaluation.of_each_class(study, noisy, variance)
    positions, equal = evaluation.Positions.of_outputs(study, weights), 1 / study.data.outputs
    found = [
        fit_at(at, *of_class, middle=float(logit(equal)))
        for at, of_class in zip(positions, sums, strict=True)
    ]
    known = [one for one in found if one is not None]
    return tuple(known) if len(known) == len(found) else ()


def fit_at(
    positions: evaluation.Positions,
    classes: Floats,
    variance: float | Floats,
    *,
    middle: float = 0.0,
) -> Calibration | None:
    """Return the calibration for scores at these positions; None if no fit is found.

    ``classes`` (2, LENGTH): sums of negatives and positives, with ``variance`` in every number, or
    in each of negatives' and of positives' numbers, (2,). ``middle``: c, unless it is of images.
    """
    places = scores_at(positions, _PLACES)
    if positions.deviation is None:
        middle, slopes = _middle_score(classes), _SLOPES_OF_IMAGES
    else:
        slopes = _SLOPES
    moments = _Moments(places, test_function(positions, places), middle, classes, variance)
    found = _posterior(moments, np.array([_SHIFT, slopes]))
    points = points_of(positions)
    return None if found is None or len(points) < 2 else _curve(middle, points, *found)


def curves_of(
    last: Calibration | None, earlier: Sequence[Calibration], by_class: Sequence[Calibration]
) -> tuple[Calibration, ...]:
    """Return the calibration of each risk that is stated; empty if none is known.

    ``last``: of label 1, of the event by the last horizon, or of a quantity's expected value.
    ``earlier``: of the earlier horizons. ``by_class``: of each of several classes.
    """
    return tuple(by_class) if last is None else (*earlier, last)


def points_of(positions: evaluation.Positions) -> Floats:
    """Return the rising log odds of a curve's points: equal steps of position are dense where
    patients may be."""
    points = np.unique(scores_at(positions, _POINTS))
    return np.asarray(points[np.diff(points, prepend=-np.inf) >= _NEAREST])


def scores_at(positions: evaluation.Positions, parts: int) -> Floats:
    """Return the log odds at the middles of equal parts of [0, 1], clipped to ±``_LARGEST``."""
    return np.clip(positions.log_odds(_middles(parts)), -_LARGEST, _LARGEST)


def _middles(parts: int) -> Floats:
    """Return the middles of equal parts of [0, 1], (parts,)."""
    return (np.arange(parts) + 0.5) / parts


def _middle_score(classes: Floats) -> float:
    """Return the log odds of the mean released position of images, whose position is the risk."""
    each = score_waves.coefficients(np.stack([np.ones(_PLACES), _middles(_PLACES)]))
    count, positions = each @ classes.sum(0)
    return float(logit(np.clip(positions / max(count, 1.0), 0.1, 0.9)))


def test_function(positions: evaluation.Positions, places: Floats) -> Floats:
    """Return g at ``places``, log odds of rising positions: log odds, clipped where patients are.

    Scores of a model that has hardly learnt differ less than the positions' ends suggest, so g is
    also clipped three deviations of made-up patients' scores from their mean.
    """
    ends = places[int(_CLIPPED * len(places))], places[-int(_CLIPPED * len(places)) - 1]
    inside = np.clip(places, *ends)
    if positions.deviation is not None:
        reach = 3 * positions.deviation
        inside = np.clip(inside, positions.middle - reach, positions.middle + reach)
    return np.asarray(inside)


def _posterior(moments: _Moments, scales: Floats) -> tuple[Floats, Floats, Floats] | None:
    """Return δ, log b and the normalised weight of each point of a grid over the posterior.

    ``scales`` (2,): of the prior of δ and of log b. None if the grid does not cover the posterior.
    """
    expected = np.array([0.0, np.log(_SLOPE)])

    def weighted(points: Floats) -> Floats:
        logs = moments.log_likelihood(points[:, 0], np.exp(points[:, 1]))
        logs += _log_prior((points - expected) / scales).sum(1)
        weight = np.exp(logs - logs.max())
        return np.asarray(weight / weight.sum())

    grid, spread, centre = _unit_grid(_WIDE), np.diag(np.array(_FARTHEST) / _REACH), expected
    for _ in range(_MOVES):
        points = centre + grid @ spread
        weight = weighted(points)
        centre, around = weight @ points, points - weight @ points
        # Half a step is added, so that a posterior between two points is found by the next grid.
        half = spread * _REACH / (round(len(grid) ** 0.5) - 1)
        spread = _root((around.T * weight) @ around + half @ half)
        grid = _unit_grid(_COARSE)
    grid = _unit_grid(_FINE)
    points = centre + grid @ spread
    weight = weighted(points)
    if weight[np.abs(grid).max(1) == _REACH].sum() > _BORDER:
        return None
    return points[:, 0], points[:, 1], weight


def _unit_grid(size: int) -> Floats:
    """Return the points (size², 2) of a square grid that reaches ``_REACH`` to each side."""
    axis = np.linspace(-_REACH, _REACH, size)
    return np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)


class _Moments:
    """The moments m_g of a release, their covariance, and the likelihood of δ and b."""

    def __init__(
        self,
        scores: Floats,
        test: Floats,
        middle: float,
        classes: Floats,
        variance: float | Floats,
    ) -> None:
        """``scores``, ``test`` (places,): log odds and g at middles of equal parts of [0, 1]."""
        places = len(scores)
        self._apart, self._middle = scores - middle, middle
        self._of_negative, self._of_positive = np.broadcast_to(variance, 2)
        self._of = score_waves.coefficients(np.eye(places))  # function (places,) -> coefficients
        self._tests = np.stack([np.ones(places), test - middle])
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
            right = predicted[one] * predicted[other]
            noise = (self._of_positive * left + self._of_negative * right).sum(1)
            sampling = (labels * self._tests[one] * self._tests[other]) @ self._both
            if one == other:
                sampling = np.maximum(sampling, 0.0)
            return np.asarray(noise + sampling)

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
    low, high = np.transpose(ends)
    return curve_of(log_odds, weight @ expit(each), low, high)


def curve_of(log_odds: Floats, risk: Floats, low: Floats, high: Floats) -> Calibration:
    """Return the calibration with these risks and bands (k,) at rising ``log_odds`` (k,)."""
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
