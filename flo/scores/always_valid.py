"""Is a mean above or below zero? A test and an interval that hold at every look.

For d_1, d_2, ... in [-1, 1], in the order in which they become known, and a number m in [-1, 1]:

    K_t(m) = mean over λ of Π_{i <= t} (1 + λ (d_i - m) / (1 + |m|)),   0 < λ < 1

Every factor is positive. Where the mean of each d_i, given those before, is at most m, every factor
has a mean of at most 1, so K(m) is a nonnegative supermartingale that begins at 1. By Ville's
inequality it ever reaches 1/α with a probability of at most α, however often one looks and whenever
one stops (Waudby-Smith and Ramdas 2024, "Estimating means of bounded random variables by betting",
section 3, with a fixed mixture over λ). K_t(m) falls as m rises, so the m that were rejected up to
t lie below one bound. Above and below are symmetric.

No d_i may be counted twice, and none may be left out for what it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp

from flo.arrays import Floats

_BETS = np.array([0.98, 0.4, 0.15, 0.05])  # λ: for some 500, 10,000, 100,000, 1,000,000 outcomes
_STEPS = 24  # of a bisection of [-1, 1]: bounds to 1e-7


@dataclass(frozen=True)
class Bounds:
    """``low``, ``high`` hold the mean at every look with probability 1 - α."""

    low: float
    high: float


def bounds(differences: Floats, alpha: float) -> Bounds:
    """Return the interval after all ``differences`` (n,) of [-1, 1], each side with α / 2.

    Raises ValueError: one is outside [-1, 1] or no number; or α is not in (0, 1).
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha is {alpha}, and must be between 0 and 1")
    if not np.all(np.abs(differences) <= 1):  # also false for NaN
        raise ValueError("a difference is not a number of -1 to 1")
    return Bounds(_lower(differences, alpha / 2), -_lower(-differences, alpha / 2))


def first_known(differences: Floats, alpha: float) -> int | None:
    """Return after how many differences the mean was first known to be above 0; None: never.

    One side only, with all of α.
    """
    reached = np.flatnonzero(_log_capital(differences, 0.0) >= -np.log(alpha))
    return int(reached[0]) + 1 if reached.size else None


def _lower(differences: Floats, alpha: float) -> float:
    low, high = -1.0, 1.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        capital = _log_capital(differences, middle)
        if capital.size and capital.max() >= -np.log(alpha):
            low = middle
        else:
            high = middle
    return low


def _log_capital(differences: Floats, mean: float) -> Floats:
    """Return the logarithm of K_t(mean) for t = 1 to n."""
    gains = np.log1p(_BETS[:, None] * (differences - mean) / (1 + abs(mean)))
    capital: Floats = logsumexp(np.cumsum(gains, axis=1), axis=0) - np.log(len(_BETS))
    return capital
