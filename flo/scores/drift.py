"""Are outcomes as often as stated? A detector of noisy sums by period, with a stated rate of false
alarms.

In each period t patients are counted who are counted in no other. A patient has a stated risk p and
an outcome y, and the period's release gives

    S = Σ (y - p) + N_S,   W = Σ p(1 - p) + N_W,

with independent noise of variances s² and v², drawn after the patients are known. Records of one
patient share a weight of 1, which by Jensen only makes what follows smaller. Not covered: a patient
whom two hospitals count has one outcome, which is no chance any more at the second. If many are, a
tolerance near 1 raises more false alarms than stated (``tests.proofs.monitored``).

*Unchanged* is any probability q of each patient's outcome, given all that came before, whose odds
are within a factor θ of those of p, in either direction and another for each patient. Then
|q - p| <= τ p(1 - p) with τ = θ - 1. For odds of θ times p's,

    q - p = (θ - 1) p(1 - p) / (1 + (θ - 1)p);   for 1/θ, p - q = (θ - 1) p(1 - p) / (θ - (θ - 1)p),

and both denominators are at least 1.

For l ≠ 0 let ψ = e^|l| - 1 - |l|, c = τ|l| + ψ(1 + τ), and

    L(l) = exp(l S - c W - l²s²/2 - c²v²/2).

*Unchanged outcomes give E L(l) <= 1, given all before.* Take l > 0; for l < 0 exchange y and 1 - y,
p and 1 - p, which leaves p(1 - p) as it is. y - q is at most 1 and has variance q(1 - q), so
E exp(l(y - q)) <= exp(ψ q(1 - q)) (Bennett 1962). With d = q - p,

    q(1 - q) = p(1 - p) + d(1 - 2p) - d² <= (1 + τ) p(1 - p),

so E exp(l(y - p)) <= exp((lτ + ψ(1 + τ)) p(1 - p)) = exp(c p(1 - p)). The product over patients,
each given those before, has a mean of at most 1 without noise. The noise is independent of the
patients and of each other and sub-Gaussian: E exp(a N) <= exp(a²s²/2) for the Gaussian, for the
discrete Gaussian (Canonne, Kamath, Steinke 2020, "The discrete Gaussian for differential privacy")
and for sums of them. A variance that is stated too large only makes L smaller.

With M_0 = 0 and M_t = (M_{t-1} + 1)·L_t for each of K values of l, the mean of the M_t is an
e-detector (Shin, Ramdas, Rinaldo 2024, "E-detectors: a nonparametric framework for sequential
change detection"): less t it is a supermartingale, so E M_T <= E T at the time T of the alarm,
which is raised when the mean reaches A. So *E T >= A periods*, and as the mean is at most n at
min(T, n), an alarm comes within n periods with a probability of at most n/A. After an alarm all M
are 0 again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp, ndtri

from flo.arrays import Floats
from flo.scores.change_detector import NOTHING

_SIZES = np.array([0.1, 0.2, 0.4])  # of l: for few patients behind much noise, and for many
LOADINGS = np.concatenate([_SIZES, -_SIZES])
_USUAL_RISK, _LARGEST_RISK = 0.25, 0.6  # m: for the figure in the middle; for its interval


@dataclass(frozen=True)
class Period:
    """``more``: S, ``expected_variance``: W, both noisy. ``noise``: s², ``variance_noise``: v²."""

    more: float
    expected_variance: float
    noise: float
    variance_noise: float


@dataclass(frozen=True)
class Evidence:
    """``log_e``: log of the mean of M after a period, or ``NOTHING``; ``alarm``: raised then.

    ``direction``: 1 if it is for more outcomes than stated, -1 if for fewer.
    """

    log_e: float
    alarm: bool
    direction: int


def log_factors(one: Period, tolerance: float) -> Floats:
    """Return log L of a period by loading, (K,). ``tolerance``: θ, at least 1."""
    tau, size = tolerance - 1, np.abs(LOADINGS)
    c = tau * size + (np.expm1(size) - size) * (1 + tau)
    found: Floats = (
        LOADINGS * one.more
        - c * one.expected_variance
        - LOADINGS**2 * one.noise / 2
        - c**2 * one.variance_noise / 2
    )
    return found


def follow(periods: Iterable[Period], tolerance: float, alarm: float) -> Iterator[Evidence]:
    """Yield the evidence after each period. ``alarm``: A, the mean periods to a false alarm."""
    log_m = np.full(len(LOADINGS), NOTHING)
    for one in periods:
        log_m = np.logaddexp(log_m, 0.0) + log_factors(one, tolerance)
        log_e = float(logsumexp(log_m) - np.log(len(log_m)))
        raised = log_e >= np.log(alarm)
        yield Evidence(max(log_e, NOTHING), bool(raised), int(np.sign(LOADINGS[np.argmax(log_m)])))
        if raised:
            log_m = np.full(len(LOADINGS), NOTHING)


def odds_factor(one: Period, level: float = 0.9) -> tuple[float, float, float] | None:
    """Return about which factor the odds of outcomes differ by from stated ones, with an interval.

    If all odds are θ times the stated ones, S/W is about (θ - 1)/(1 + (θ - 1)m), where m is the
    mean of stated risks, weighted by p(1 - p). The interval is for any m up to ``_LARGEST_RISK``,
    and for noise and sampling; its upper end may be inf. None where W is not three deviations of
    its noise above 0: then nobody can tell.
    """
    w = one.expected_variance
    if w <= 3 * np.sqrt(one.variance_noise) or w <= 0:
        return None
    r = one.more / w
    spread = w * max(1.0, 1 + r) + one.noise + r * r * one.variance_noise
    half = float(ndtri((1 + level) / 2) * np.sqrt(spread)) / w
    low = min(_odds(r - half, m) for m in (0.0, _LARGEST_RISK))
    return low, _odds(r, _USUAL_RISK), max(_odds(r + half, m) for m in (0.0, _LARGEST_RISK))


def _odds(r: float, m: float) -> float:
    return max(0.0, 1 + r / (1 - r * m)) if r * m < 1 else math.inf
