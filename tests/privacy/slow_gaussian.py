"""A second, independent sampler to hold the fast one against: slow, scalar, integers only.

Canonne, Kamath, Steinke, "The Discrete Gaussian for Differential Privacy" (NeurIPS 2020),
Algorithms 1-3, word for word.
"""

from __future__ import annotations

import random
from math import isqrt


def slow_samples(variance: int, size: int, seed: int) -> list[int]:
    """``size`` exact samples; the same for the same seed."""
    source = random.Random(seed)
    return [discrete_gaussian(variance, source) for _ in range(size)]


def discrete_gaussian(variance: int, source: random.Random) -> int:
    """One exact sample (CKS 2020, Algorithm 3), by rejection from a discrete Laplace."""
    scale = isqrt(variance) + 1
    while True:
        candidate = _discrete_laplace(scale, source)
        # exp(-(|y| - variance/scale)^2 / (2 variance)), as a fraction of integers
        excess = abs(candidate) * scale - variance
        if _bernoulli_exp(excess * excess, 2 * variance * scale * scale, source):
            return candidate


def _discrete_laplace(scale: int, source: random.Random) -> int:
    """P[x] proportional to exp(-|x| / scale) (CKS 2020, Algorithm 2)."""
    while True:
        low = source.randrange(scale)
        if not _bernoulli_exp(low, scale, source):
            continue
        high = 0
        while _bernoulli_exp(1, 1, source):
            high += 1
        magnitude = low + scale * high
        negative = source.randrange(2) == 1
        if not (negative and magnitude == 0):
            return -magnitude if negative else magnitude


def _bernoulli_exp(numerator: int, denominator: int, source: random.Random) -> bool:
    """True with probability exp(-numerator/denominator) (CKS 2020, Algorithm 1)."""
    whole, rest = divmod(numerator, denominator)
    for _ in range(whole):
        if not _bernoulli_exp_at_most_one(1, 1, source):
            return False
    return _bernoulli_exp_at_most_one(rest, denominator, source)


def _bernoulli_exp_at_most_one(numerator: int, denominator: int, source: random.Random) -> bool:
    """The same for a fraction in [0, 1]: count how long Bernoulli(fraction / k) succeeds."""
    k = 1
    while source.randrange(denominator * k) < numerator:
        k += 1
    return k % 2 == 1
