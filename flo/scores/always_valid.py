"""Is a mean above or below zero? A test and an interval that hold at every look.

For d_1, d_2, ... in [-1, 1], in the order in which they become known, let m_i be the mean of d_i
given all before, S_t = Σ d_i, A_t = Σ m_i and V_t = Σ d_i², i <= t, and for 0 < λ < 1

    L_t = exp(λ (S_t - A_t) - ψ(λ) V_t),   ψ(λ) = -log(1 - λ) - λ.

As exp(λ x - ψ(λ) x²) <= 1 + λ x for all x >= -1 (Fan, Grama and Liu 2015, lemma 4.1), and
1 + λ m <= exp(λ m), the mean of L_t given all before t is at most L_{t-1}: L is a nonnegative
supermartingale that begins at 1, and so is its mean over several λ. By Ville's inequality that mean
ever reaches 1/α with a probability of at most α. So with probability 1 - α, A_t / t is above the
number below which the mean reaches 1/α, at all t together, however often one looks, whenever one
stops, and whether or not the m_i change (Howard, Ramdas, McAuliffe and Sekhon 2021, theorem 4, with
predictions of 0 and a mixture over λ). Above and below are symmetric.

No d_i may be counted twice, and none may be left out for what it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp

from flo.arrays import Floats

_BETS = np.array([0.5, 0.2, 0.05])  # λ, from few outcomes or large differences to many
_COSTS = -np.log1p(-_BETS) - _BETS  # ψ(λ)
_STEPS = 30  # of a bisection: bounds to 1e-8


@dataclass(frozen=True)
class Bounds:
    """``low``, ``high`` hold the mean so far, at all looks together with probability 1 - α."""

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
    """Return after how many differences the mean so far was first known to be above 0; None: never.

    One side only, with all of α.
    """
    log_of_each = np.outer(_BETS, np.cumsum(differences))
    log_of_each -= np.outer(_COSTS, np.cumsum(differences**2))
    reached = np.flatnonzero(_mean(log_of_each) >= -np.log(alpha))
    return int(reached[0]) + 1 if reached.size else None


def _lower(differences: Floats, alpha: float) -> float:
    count, total = len(differences), float(differences.sum())
    spread = _COSTS * float((differences**2).sum())
    low, high = -1.0, 1.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if _mean(_BETS * (total - count * middle) - spread) >= -np.log(alpha):
            low = middle
        else:
            high = middle
    return low


def _mean(log_of_each: Floats) -> Floats:
    """Return the logarithm of the mean over λ, the first axis."""
    mean: Floats = logsumexp(log_of_each, axis=0) - np.log(len(_BETS))
    return mean
