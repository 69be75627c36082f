"""Values that belong to a model's scores, from the evaluation's release, at no further cost.

With G_k the share that a value reaches of step k (``flo.study.quantity``), of length d_k in units
of the range, and s the model's score, the share that is expected is taken to be

    p_k(s) = sigmoid(β_k + δ_k + w·(a + c·(s - a))),    w = √(1 + 0.346·var(β + δ)),

β_k falling evenly from the first step to the last, and a the mean score that was released. A mean
of logistic curves that lie apart is about a flatter one (Zeger, Liang, Albert 1988,
doi:10.2307/2531734): that of all p_k is about sigmoid(a + c·(s - a)). The model was trained to
foresee the mean of all G_k, so δ is small on average and c near one, as in a calibration of yes and
no, however well values can be foreseen.

The release has sums of waves over the positions of all levels, which give the total of any function
of the score over a level. A record counts at level l for the weight w_l, and G_k is the sum of w_l
over the levels l >= k. So

    m_k = Σ (G_k - p_k(s)),        m_s = Σ g(s)·Σ_k d_k·(G_k - p_k(s)),

over all patients, g the score where patients are, have mean 0 under any noise if p is right. Their
covariance is the noise, and of the patients at most Σ h·h'·p_k·(1 - p_j) for steps j <= k, h being
1 or g: a step is reached only beyond the ones below it. θ = (δ, log c) is fitted to them
(``flo.privacy.releases.moment_fit``) under a normal prior.

The expected value is v_0 plus the range times Σ d_k·p_k(s), and its band holds 90 % of a normal
distribution of its log odds as a share of the range (delta method). The band includes noise and the
number of patients, and not that shares may be no logistic curves. Everything is post-processing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logit

from flo.arrays import Floats, Mask
from flo.documents.text import in_digits
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
from flo.study.quantity import FLATTER, Quantity, even_places

_ROUNDED = 1e-4  # how far a published share may be from that of the steps
_PLACES = 128  # positions at which functions are evaluated
# Prior: standard deviations of all δ together, of δ along β, as values can be foreseen well or
# badly, and of each; middle and deviation of log c. How they were chosen: docs/decisions/0048.
_LEVEL, _WIDER, _STEPS, _SLOPE, _SLOPES = 0.3, 2.5, 0.8, 0.8, 0.25


@dataclass(frozen=True)
class Values:
    """What belongs to scores (n,), in a quantity's unit: the ``expected`` value with its band
    ``low`` to ``high``, and the values that one and nine of ten patients are below.
    ``is_too_wide``: whether less is known of the expected value than eight of ten patients differ
    by, so that only ranks are known."""

    expected: Floats
    low: Floats
    high: Floats
    tenth: Floats
    ninetieth: Floats
    is_too_wide: Mask

    def in_words(self, unit: str) -> list[str]:
        """Return each in words; ``rank only`` where no more is known."""
        return [
            "rank only"
            if wide
            else f"{in_digits(low, 3)} to {in_digits(high, 3)} {unit}; at least eight of ten "
            f"patients {in_digits(least, 3)} to {in_digits(most, 3)}"
            for wide, low, high, least, most in zip(
                *(self.is_too_wide, self.low, self.high, self.tenth, self.ninetieth), strict=True
            )
        ]


@dataclass(frozen=True)
class Foreseen:
    """``expected``: of a score, the share of the range between the first and the last level.
    ``steps``: of each step between levels, the share that is reached; from the first on."""

    expected: Calibration
    steps: tuple[Calibration, ...]

    def values(self, quantity: Quantity, log_odds: Floats, *, rounded: bool = True) -> Values:
        """Return what belongs to scores (n,) of a model of this quantity.

        ``rounded``: p10 and p90 of a count are whole numbers.
        """
        points = np.array(self.expected.log_odds)
        reached = np.stack([step.of(points)[0] for step in self.steps])
        tenth, ninetieth = (
            np.interp(log_odds, points, quantity.exceeded_by(share, reached))
            for share in (0.9, 0.1)
        )
        expected, low, high = (quantity.at_share(one) for one in self.expected.of(log_odds))
        too_wide = high - low > ninetieth - tenth
        if rounded:
            tenth, ninetieth = quantity.outwards(tenth, ninetieth)
        return Values(expected, low, high, tenth, ninetieth, too_wide)

    def agrees(self, quantity: Quantity) -> bool:
        """Return whether the expected values are those of the steps, but for rounding."""
        if any(step.log_odds != self.expected.log_odds for step in self.steps):
            return False
        whole = quantity.lengths @ np.array([step.risk for step in self.steps])
        apart = whole / quantity.lengths.sum() - np.array(self.expected.risk)
        return bool(np.abs(apart).max() <= _ROUNDED)


def fit(study: Study, weights: Vector, noisy: Floats, variance: float) -> Foreseen | None:
    """Return what values belong to scores; None if no fit is found.

    ``noisy`` (length,): a release of the evaluation or a sum of releases, with ``variance`` in
    every number. ``weights``: of the evaluated model.
    """
    quantity = study.data.quantity
    assert quantity is not None
    classes, spread = evaluation.of_everyone(study, noisy, variance)
    positions = Positions.of_model(study, weights)
    moments = _Moments(quantity, positions, classes, spread)
    found, points = fitted(moments, *_prior(moments.steps)), points_of(positions)
    if found is None or len(points) < 2:
        return None
    theta, covariance = found
    log_odds, gradient = moments.log_odds(theta, points)
    p, lengths = expit(log_odds), moments.lengths
    mean = lengths @ p
    moved = np.einsum("k,kp,ktp->tp", lengths, p * (1 - p), gradient)
    of_mean = moved / np.maximum(mean * (1 - mean), 1e-12)
    return Foreseen(
        _curve(points, mean, of_mean, covariance),
        tuple(
            _curve(points, own, by_theta, covariance)
            for own, by_theta in zip(p, gradient, strict=True)
        ),
    )


class _Moments:
    """The moments m, their derivatives by θ = (δ, log c), and their covariance."""

    def __init__(
        self, quantity: Quantity, positions: Positions, classes: Floats, variance: float
    ) -> None:
        self.steps, self._variance, self._classes = quantity.codes - 1, variance, classes
        self._scores = scores_at(positions, _PLACES)
        self._of = score_waves.coefficients(np.eye(_PLACES))  # (places, LENGTH)
        self._people = classes.sum(0) @ self._of.T
        reached = np.arange(quantity.codes) > np.arange(self.steps)[:, None]
        self._reached = reached.astype(float)  # (steps, levels)
        self.lengths = quantity.lengths / quantity.lengths.sum()
        test = test_function(positions, self._scores)
        self._tested = test * self.lengths[:, None]  # (steps, places)
        mean = float(self._people @ test) / max(float(self._people.sum()), 1.0)
        self._middle = float(np.clip(mean, test[0], test[-1]))

    def log_odds(self, theta: Floats, scores: Floats) -> tuple[Floats, Floats]:
        """Return the log odds of p (K, n) at scores (n,), and their derivatives by θ, (K, θ, n)."""
        steps = len(theta) - 1
        places = even_places(steps) + theta[:-1]
        wide = 1 + FLATTER * places.var()
        apart = wide**0.5 * np.exp(theta[-1]) * (scores - self._middle)
        moved = wide**0.5 * self._middle + apart
        by_place = FLATTER * (places - places.mean()) / steps / wide
        gradient = np.empty((steps, steps + 1, len(scores)))
        gradient[:, :-1] = np.eye(steps)[:, :, None] + by_place[:, None] * moved
        gradient[:, -1] = apart
        return places[:, None] + moved, gradient

    def at(self, theta: Floats) -> tuple[Floats, Floats, Floats]:
        """Return m (K + 1,), its derivatives (K + 1, K + 1), and V."""
        log_odds, gradient = self.log_odds(theta, self._scores)
        p = expit(log_odds)
        # What each level adds to a moment at each place.
        own = self._reached[:, :, None] - p[:, None, :]
        last = np.einsum("kp,klp->lp", self._tested, own)
        whole = np.concatenate([own, last[None]]) @ self._of  # (K + 1, levels, LENGTH)
        moments = np.tensordot(whole, self._classes, axes=2)

        bent = p * (1 - p) * self._people
        of_each = -np.einsum("kp,ktp->kt", bent, gradient)
        of_last = -np.einsum("kp,ktp->t", self._tested * bent, gradient)

        # A later step is reached only beyond an earlier one: p_k(1 - p_j) for j <= k.
        both = np.minimum(p[:, None], p[None]) * (1 - np.maximum(p[:, None], p[None]))
        tests = np.concatenate(
            [np.repeat(np.eye(self.steps)[:, :, None], _PLACES, 2), self._tested[None]]
        )
        joint = np.einsum("ajp,jkp,bkp->abp", tests, both, tests, optimize=True) @ self._people
        noise = np.tensordot(whole, whole, axes=([1, 2], [1, 2]))
        covariance = self._variance * noise + _nearest_covariance(joint)
        return moments, np.concatenate([of_each, of_last[None]]), covariance


def _prior(steps: int) -> tuple[Floats, Floats]:
    """Return the middle of θ (K + 1,) and its precision."""
    base = even_places(steps)
    spread = np.diag(np.append(np.full(steps, _STEPS), _SLOPES) ** 2.0)
    spread[:steps, :steps] += _LEVEL**2 + _WIDER**2 * np.outer(base, base)
    middle = np.append(np.zeros(steps), np.log(_SLOPE))
    return middle, np.asarray(np.linalg.inv(spread), dtype=np.float64)


def _nearest_covariance(matrix: Floats) -> Floats:
    """Return the matrix without negative eigenvalues, which noisy totals may give it."""
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    return np.asarray((vectors * np.maximum(values, 0.0)) @ vectors.T)


def _curve(points: Floats, share: Floats, gradient: Floats, covariance: Floats) -> Calibration:
    """Return the curve of shares (n,), whose log odds have the ``gradient`` (θ, n)."""
    middle = logit(np.clip(share, 1e-12, 1 - 1e-12))
    half = Z * np.sqrt(np.maximum(np.einsum("ip,ij,jp->p", gradient, covariance, gradient), 0.0))
    return curve_of(points, expit(middle), expit(middle - half), expit(middle + half))
