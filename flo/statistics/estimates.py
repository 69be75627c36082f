"""Estimates with intervals, and linear functions of noisy coordinates.

Every statistic here is a smooth function of a block's coordinates, whose noise is independent and
of one variance v. To first order the noise adds v·‖gradient‖² to its variance (delta method).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

from flo.arrays import Floats

LEVEL = 0.95
Z = NormalDist().inv_cdf((1 + LEVEL) / 2)
# A denominator below this many standard deviations of its own noise says nothing: above it, that it
# is shown hardly depends on its noise, which would bias what is shown.
LEAST_SIGNAL = 8.0
_WIDEST_SHARE = 0.3


@dataclass(frozen=True)
class Estimate:
    """A value and the ends of its 95 % interval; ``readable``: whether they say anything."""

    value: float
    low: float
    high: float
    readable: bool = True

    @property
    def width(self) -> float:
        """Width of the interval."""
        return self.high - self.low


NOTHING = Estimate(math.nan, math.nan, math.nan, readable=False)


@dataclass(frozen=True)
class Linear:
    """A value and its gradient by the coordinates of one group, (width,)."""

    value: float
    gradient: Floats

    def plus(self, other: Linear, factor: float = 1.0) -> Linear:
        """Return this + factor · other."""
        return Linear(self.value + factor * other.value, self.gradient + factor * other.gradient)

    def over(self, other: Linear) -> Linear:
        """Return this / other, to first order."""
        ratio = self.value / other.value
        return Linear(ratio, (self.gradient - ratio * other.gradient) / other.value)

    def squared(self) -> Linear:
        """Return this², to first order."""
        return Linear(self.value**2, 2 * self.value * self.gradient)

    def noise(self, variance: float) -> float:
        """Return the variance that noise of this variance in each coordinate gives the value."""
        return variance * float(self.gradient @ self.gradient)

    def is_signal(self, variance: float) -> bool:
        """Return whether the value is clearly above its noise, so that one may divide by it."""
        return self.value > LEAST_SIGNAL * math.sqrt(self.noise(variance))


def interval(value: float, variance: float, low: float, high: float, widest: float) -> Estimate:
    """Return a value with its interval, both clipped to [low, high].

    ``widest``: an interval wider than this says too little.
    """
    half = Z * math.sqrt(max(variance, 0.0))
    ends = (min(max(value - half, low), high), min(max(value + half, low), high))
    return Estimate(min(max(value, low), high), *ends, readable=2 * half <= widest)


def of_patients(value: float, variance: float) -> Estimate:
    """Return a number of patients with its interval; a negative one is none that noise hides."""
    half = Z * math.sqrt(max(variance, 0.0))
    return Estimate(max(value, 0.0), max(value - half, 0.0), max(value, 0.0) + half)


def share_variance(count: float, total: float) -> float:
    """Return the sampling variance of a proportion, from noisy numbers of patients.

    Two patients are added on either side (Agresti, Coull 1998), so that a noisy count near zero
    still has one.
    """
    total = max(total, 1.0)
    p = (min(max(count, 0.0), total) + 2) / (total + 4)
    return p * (1 - p) / total


def counted(cell: Linear, everyone: float, variance: float) -> Estimate:
    """Return a number of patients, which would be another if others of the source had come.

    ``everyone``: of how many, noisy; ``variance``: of the noise of a coordinate.
    """
    sampled = max(everyone, 1.0) ** 2 * share_variance(cell.value, everyone)
    return of_patients(cell.value, cell.noise(variance) + sampled)


def proportion(cell: Linear, there: Linear, variance: float) -> Estimate:
    """Return a share of the patients ``there``; NOTHING if noise hides how many those are."""
    if not there.is_signal(variance):
        return NOTHING
    share, sampled = cell.over(there), share_variance(cell.value, there.value)
    return interval(share.value, share.noise(variance) + sampled, 0.0, 1.0, _WIDEST_SHARE)
