"""Exact samples of the discrete Gaussian, in integer arithmetic only.

Canonne, Kamath, Steinke, "The Discrete Gaussian for Differential Privacy" (NeurIPS 2020),
Algorithms 1-3: P[X = x] proportional to exp(-x^2 / (2 variance)) over the integers. No floating
point touches a sample, so the distance to the stated distribution is zero.
"""

from __future__ import annotations

from math import isqrt
from typing import Protocol

import numpy as np
import numpy.typing as npt

from flo.privacy.entropy import SystemStream


class UniformSource(Protocol):
    def below(self, bound: int) -> int:
        """Uniform integer in [0, bound)."""


class Noise(Protocol):
    """Where noise comes from. The wheel has one: ``SystemNoise``; tests bring their own."""

    def sample(self, variance: int, size: int) -> npt.NDArray[np.int64]:
        """``size`` independent discrete Gaussian integers of that variance parameter."""


class SystemNoise:
    """Noise from a stream that the operating system keys anew for every call."""

    def sample(self, variance: int, size: int) -> npt.NDArray[np.int64]:
        """Raises ValueError unless 1 <= variance < 2**100 (so that 64 bits hold every sample)."""
        if not 1 <= variance < 1 << 100:
            raise ValueError(f"variance {variance} is outside [1, 2**100)")
        stream = SystemStream()
        return np.array([discrete_gaussian(variance, stream) for _ in range(size)], dtype=np.int64)


def discrete_gaussian(variance: int, source: UniformSource) -> int:
    """One exact sample (CKS 2020, Algorithm 3), by rejection from a discrete Laplace."""
    scale = isqrt(variance) + 1
    while True:
        candidate = _discrete_laplace(scale, source)
        # exp(-(|y| - variance/scale)^2 / (2 variance)), as a fraction of integers
        excess = abs(candidate) * scale - variance
        if _bernoulli_exp(excess * excess, 2 * variance * scale * scale, source):
            return candidate


def _discrete_laplace(scale: int, source: UniformSource) -> int:
    """P[x] proportional to exp(-|x| / scale) (CKS 2020, Algorithm 2)."""
    while True:
        low = source.below(scale)
        if not _bernoulli_exp(low, scale, source):
            continue
        high = 0
        while _bernoulli_exp(1, 1, source):
            high += 1
        magnitude = low + scale * high
        negative = source.below(2) == 1
        if not (negative and magnitude == 0):
            return -magnitude if negative else magnitude


def _bernoulli_exp(numerator: int, denominator: int, source: UniformSource) -> bool:
    """True with probability exp(-numerator/denominator) (CKS 2020, Algorithm 1)."""
    whole, rest = divmod(numerator, denominator)
    for _ in range(whole):
        if not _bernoulli_exp_at_most_one(1, 1, source):
            return False
    return _bernoulli_exp_at_most_one(rest, denominator, source)


def _bernoulli_exp_at_most_one(numerator: int, denominator: int, source: UniformSource) -> bool:
    """The same for a fraction in [0, 1]: count how long Bernoulli(fraction / k) succeeds."""
    k = 1
    while source.below(denominator * k) < numerator:
        k += 1
    return k % 2 == 1
