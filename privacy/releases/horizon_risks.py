"""Risks at a study's horizons from the evaluation's release, at no further cost in privacy.

Training knows one hazard for all periods, and clipping and noise leave the scores s too large or
too small. With the classes of ``flo.study.outcome``, the hazard of period j is taken to be

    h_j(s) = sigmoid(δ_j + b·s).

The release has sums of waves over the positions of all classes, which give the total of any
function of the score over a class. So for g = 1 in each period, and g = s over all periods,

    m_j = Σ over the events of period j of 1 - Σ over all who were there, for the share f of it, of
          f·h_j(s),        m_s = Σ_j (the same with g)

have mean 0 under any noise if the hazards are right, and covariance V = noise + Σ f·g·g'·h·(1 - h).
Whoever was last seen within a period was there for half of it (Cutler, Ederer 1958). With a normal
prior of δ and log b, θ = (δ, log b) maximises

    -½·mᵀV⁻¹m - ½·log |V| + log prior

by scoring steps, each halved until it gains; its covariance is (JᵀV⁻¹J + P)⁻¹, J the derivatives of
m, P the prior's precision. The risk by a horizon is 1 - Π (1 - h_j) over the periods before it, and
its band holds 90 % of a normal distribution of its log odds (delta method). The band includes noise
and the number of patients, and not that hazards may be no logistic curves. Everything here is
post-processing.
"""

from __future__ import annotations

import logging

import numpy as np
from scipy.special import expit, log_expit, logit

from flo.arrays import Floats
from flo.privacy.releases import evaluation, score_waves
from flo.privacy.releases.calibration import (
    Calibration,
    curve_of,
    points_of,
    scores_at,
    test_function,
)
from flo.privacy.releases.evaluation import Positions
from flo.privacy.releases.score_waves import Z
from flo.study.document import Study
from flo.study.outcome import TimeToEvent
from flo.study.parameters import Vector

log = logging.getLogger("flo.privacy.releases.horizon_risks")

_PLACES = 128  # positions at which functions are evaluated
# Prior: δ around 0, as hazards of periods differ; log b as of a calibration of yes and no.
_PERIODS, _SLOPE, _SLOPES = 1.5, 0.85, 0.4
_STEPS, _HALVINGS, _CLOSE = 200, 20, 1e-9  # of scoring; of a step; of the objective


def fit(study: Study, weights: Vector, noisy: Floats, variance: float) -> tuple[Calibration, ...]:
    """Return a calibration for each horizon: of a score to the risk of the event by then.

    None of them if no fit is found: release or model are so far from any that patients could make.
    ``noisy`` (length,): a release of the evaluation or a sum of releases, with ``variance`` in
    every number. ``weights``: of the evaluated model.
    """
    assert study.data.outcome is not None
    classes, spread = evaluation.of_everyone(study, noisy, variance)
    positions = Positions.of_model(study, weights)
    moments = _Moments(study.data.outcome, positions, classes, spread)
    found = _fitted(moments)
    points = points_of(positions)
    if found is None or len(points) < 2:
        return ()
    return tuple(
        _curve(points, *found, periods) for periods in range(1, study.data.outcome.periods + 1)
    )


class _Moments:
    """The moments m, their derivatives by θ = (δ, log b), and their covariance."""

    def __init__(
        self, outcome: TimeToEvent, positions: Positions, classes: Floats, variance: float
    ) -> None:
        self.periods, self._variance = outcome.periods, variance
        self._scores = scores_at(positions, _PLACES)
        self._test = test_function(positions, self._scores)
        self._of = score_waves.coefficients(np.eye(_PLACES))  # (places, LENGTH)
        self._classes = classes
        codes, period = np.arange(outcome.codes), np.arange(outcome.periods)
        # The share of each period for which each class was there, (periods, codes).
        self._there = np.clip(outcome.followed[codes] - period[:, None], 0.0, 1.0)
        self._had = codes == 2 * period[:, None] + 1
        self._at_risk = self._there @ (classes @ self._of.T)  # (periods, places)

    def at(self, theta: Floats) -> tuple[Floats, Floats, Floats]:
        """Return m (p + 1,), its derivatives (p + 1, p + 1), and V."""
        slope = np.exp(theta[-1])
        hazard = expit(theta[:-1, None] + slope * self._scores)  # (periods, places)
        tests = np.stack([np.ones(_PLACES), self._test])
        # What each class adds to the moments of a period at each place, less its hazard.
        whole = np.zeros((self.periods + 1, *self._classes.shape))
        for j in range(self.periods):
            for place, test in ((j, tests[0]), (-1, tests[1])):
                own = self._had[j][:, None] * (test @ self._of)
                expected = self._there[j][:, None] * ((test * hazard[j]) @ self._of)
                whole[place] += own - expected
        moments = np.tensordot(whole, self._classes, axes=2)
        bent = self._at_risk * hazard * (1 - hazard)
        derivatives = np.zeros((self.periods + 1, self.periods + 1))
        sampling = np.zeros_like(derivatives)
        for j in range(self.periods):
            for row, test in ((j, tests[0]), (self.periods, tests[1])):
                derivatives[row, j] -= bent[j] @ test
                derivatives[row, -1] -= bent[j] @ (test * slope * self._scores)
            # Noise may leave fewer than nobody there, and break Cauchy's and Schwarz's inequality.
            own, square = (max(float(bent[j] @ of), 0.0) for of in (tests[0], self._test**2))
            most = np.sqrt(own * square)
            sampling[j, j], sampling[-1, -1] = own, sampling[-1, -1] + square
            sampling[j, -1] = sampling[-1, j] = np.clip(bent[j] @ self._test, -most, most)
        noise = np.tensordot(whole, whole, axes=([1, 2], [1, 2]))
        return moments, derivatives, self._variance * noise + sampling


def _fitted(moments: _Moments) -> tuple[Floats, Floats] | None:
    """Return θ (p + 1,) and its covariance; None if the release or the model is not finite."""
    middle = np.append(np.zeros(moments.periods), np.log(_SLOPE))
    precision = np.diag(np.append(np.full(moments.periods, _PERIODS), _SLOPES) ** -2.0)

    def likely(theta: Floats) -> tuple[float, Floats, Floats]:
        """Return the objective, the direction of a scoring step, and the curvature."""
        m, derivatives, covariance = moments.at(theta)
        weighted = np.linalg.pinv(covariance, hermitian=True)
        apart = theta - middle
        _, volume = np.linalg.slogdet(covariance)
        value = -0.5 * (m @ weighted @ m + volume + apart @ precision @ apart)
        curved = derivatives.T @ weighted @ derivatives + precision
        uphill = -derivatives.T @ weighted @ m - precision @ apart
        return float(value), np.linalg.solve(curved, uphill), curved

    theta = middle
    try:
        value, step, curved = likely(theta)
        for _ in range(_STEPS):
            for halvings in range(_HALVINGS):
                there = theta + step / 2**halvings
                found = likely(there)
                if found[0] > value + _CLOSE:
                    break
            else:
                return theta, np.asarray(np.linalg.inv(curved), dtype=np.float64)
            theta, (value, step, curved) = there, found
    except np.linalg.LinAlgError:
        log.warning("the evaluation's release tells no risks: its numbers are not finite")
        return None
    log.warning("the evaluation's release tells no risks: no hazards fit it")
    return None


def _curve(points: Floats, theta: Floats, covariance: Floats, periods: int) -> Calibration:
    """Return the calibration of the risk by the end of so many periods, at rising log odds."""
    slope = np.exp(theta[-1])
    log_hazard = theta[:periods, None] + slope * points  # (periods, points)
    survival = log_expit(-log_hazard).sum(0)
    risk = logit(np.clip(-np.expm1(survival), 1e-12, 1 - 1e-12))
    steep = expit(log_hazard) / np.maximum(-np.expm1(survival), 1e-12)
    gradient = np.zeros((len(theta), len(points)))
    gradient[:periods] = steep
    gradient[-1] = (steep * slope * points).sum(0)
    half = Z * np.sqrt(np.einsum("ip,ij,jp->p", gradient, covariance, gradient))
    return curve_of(points, expit(risk), expit(risk - half), expit(risk + half))
