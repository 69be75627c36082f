"""Risks at a study's horizons from the evaluation's release, at no further cost in privacy.

Training knows one hazard for all periods, and clipping and noise leave the scores s too large or
too small. With the classes of ``flo.study.time_to_event`` and s₀, the log odds of the hazard
that the study expects, the hazard of period j is taken to be

    h_j(s) = sigmoid(s₀ + δ_j + b·(s - s₀)).

The release has sums of waves over the positions of all classes, which give the total of any
function of the score over a class. So for g = 1 in each period, and g = s over all periods,

    m_j = Σ over the events of period j of 1 - Σ over all who were there, for the share f of it, of
          f·h_j(s),        m_s = Σ_j (the same with g)

have mean 0 under any noise if the hazards are right, and covariance V = noise + Σ f·g·g'·h·(1 - h).
Whoever was last seen within a period was there for half of it (Cutler, Ederer 1958). θ = (δ, log b)
is fitted to them (``flo.privacy.releases.moment_fit``). The normal prior draws the risks towards
those that the study expects: all δ together by ``_LEVEL``, each by ``_PERIODS``. The risk by a
horizon is 1 - Π (1 - h_j) over the periods before it, and its band holds 90 % of a normal
distribution of its log odds (delta method). The band includes noise and the number of patients, and
not that hazards may be no logistic curves. Everything here is post-processing.
"""

from __future__ import annotations

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
from flo.privacy.releases.moment_fit import fitted
from flo.privacy.releases.score_waves import Z
from flo.study.document import Study
from flo.study.parameters import Vector
from flo.study.time_to_event import TimeToEvent

_PLACES = 128  # positions at which functions are evaluated
# Prior: standard deviations of all δ together, as clipping moves them, and of each, as hazards of
# periods differ; middle and deviation of log b, as of a calibration of yes and no.
_LEVEL, _PERIODS, _SLOPE, _SLOPES = 1.5, 1.0, 0.85, 0.4


def fit(study: Study, weights: Vector, noisy: Floats, variance: float) -> tuple[Calibration, ...]:
    """Return a calibration for each horizon: of a score to the risk of the event by then.

    None of them if no fit is found: release or model are so far from any that patients could make.
    ``noisy`` (length,): a release of the evaluation or a sum of releases, with ``variance`` in
    every number. ``weights``: of the evaluated model.
    """
    assert study.data.times is not None
    classes, spread = evaluation.of_everyone(study, noisy, variance)
    positions = Positions.of_model(study, weights)
    moments = _Moments(study.data.times, positions, classes, spread)
    found = fitted(moments, *_prior(moments.periods))
    points = points_of(positions)
    if found is None or len(points) < 2:
        return ()
    horizons = range(1, study.data.times.periods + 1)
    return tuple(_curve(points, moments.expected, *found, periods) for periods in horizons)


class _Moments:
    """The moments m, their derivatives by θ = (δ, log b), and their covariance."""

    def __init__(
        self, outcome: TimeToEvent, positions: Positions, classes: Floats, variance: float
    ) -> None:
        self.periods, self._variance = outcome.periods, variance
        self._scores, self.expected = scores_at(positions, _PLACES), outcome.first_log_odds
        self._apart = self._scores - self.expected
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
        log_odds = self.expected + theta[:-1, None] + slope * self._apart  # (periods, places)
        hazard = expit(log_odds)
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
                derivatives[row, -1] -= bent[j] @ (test * slope * self._apart)
            # Noise may leave fewer than nobody there, and break Cauchy's and Schwarz's inequality.
            own, square = (max(float(bent[j] @ of), 0.0) for of in (tests[0], self._test**2))
            most = np.sqrt(own * square)
            sampling[j, j], sampling[-1, -1] = own, sampling[-1, -1] + square
            sampling[j, -1] = sampling[-1, j] = np.clip(bent[j] @ self._test, -most, most)
        noise = np.tensordot(whole, whole, axes=([1, 2], [1, 2]))
        return moments, derivatives, self._variance * noise + sampling


def _prior(periods: int) -> tuple[Floats, Floats]:
    """Return the middle of θ (p + 1,) and its precision."""
    spread = np.diag(np.append(np.full(periods, _PERIODS), _SLOPES) ** 2.0)
    spread[:periods, :periods] += _LEVEL**2
    middle = np.append(np.zeros(periods), np.log(_SLOPE))
    return middle, np.asarray(np.linalg.inv(spread), dtype=np.float64)


def _curve(
    points: Floats, expected: float, theta: Floats, covariance: Floats, periods: int
) -> Calibration:
    """Return the calibration of the risk by the end of so many periods, at rising log odds.

    ``expected``: s₀.
    """
    slope, apart = np.exp(theta[-1]), points - expected
    log_hazard = expected + theta[:periods, None] + slope * apart  # (periods, points)
    survival = log_expit(-log_hazard).sum(0)
    risk = logit(np.clip(-np.expm1(survival), 1e-12, 1 - 1e-12))
    steep = expit(log_hazard) / np.maximum(-np.expm1(survival), 1e-12)
    gradient = np.zeros((len(theta), len(points)))
    gradient[:periods] = steep
    gradient[-1] = (steep * slope * apart).sum(0)
    half = Z * np.sqrt(np.einsum("ip,ij,jp->p", gradient, covariance, gradient))
    return curve_of(points, expit(risk), expit(risk - half), expit(risk + half))
