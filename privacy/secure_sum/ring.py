"""The ring of a masked sum: integers modulo 2^32 or 2^64, large enough that no sum wraps.

A hospital's rounded sum is clamped, coordinate by coordinate, to ±limit with limit = 2·GRID times
the study's largest declared size, before its noise is added. Clamping increases no distance between
two values, so the sensitivity of ``flo.privacy.mechanisms`` still holds; it only bounds the sum of
a hospital with far more patients than it declared. A cohort's sum is at most

    reach = hospitals · limit + 12·√(total noise variance).

The noise is a sum of discrete Gaussians, each subgaussian with its variance parameter (Canonne,
Kamath, Steinke 2020, Corollary 17). So one coordinate exceeds 12 deviations with probability at
most 2·e^-72 < 2^-102, and any of 2^40 coordinates in 2^20 attempts with probability below 2^-40. A
ring of more than 2·reach holds every sum. A wrap would corrupt the result but never the privacy:
reduction is post-processing.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from flo.arrays import Integers
from flo.privacy.mechanisms.mechanisms import GRID
from flo.protocol.messages import RINGS

Int32Array = npt.NDArray[np.int32]  # integers that fit 32 bits
Masked = npt.NDArray[Any]  # uint32 or uint64

_DEVIATIONS = 12


def clamp_bound(largest_size: int) -> int:
    """Return the bound in grid steps, in either direction, to which a hospital's sum is clamped."""
    return 2 * GRID * largest_size


def max_honest_sum(hospitals: int, largest_size: int, total_variance: int) -> int:
    """Return the bound in grid steps, in either direction, on a coordinate of the noisy sum."""
    return hospitals * clamp_bound(largest_size) + _DEVIATIONS * (math.isqrt(total_variance) + 1)


def bits(hospitals: int, largest_size: int, total_variance: int) -> int:
    """Return 32 or 64: the smaller ring that holds the cohort's sum.

    Raises:
        ValueError: 2^64 does not hold it either.
    """
    most = max_honest_sum(hospitals, largest_size, total_variance)
    for ring in RINGS:
        if most < 1 << (ring - 1):
            return ring
    raise ValueError(f"a sum of up to {most} grid steps does not fit a ring of 2^64")


def to_ring(values: Integers | Int32Array, ring: int) -> Masked:
    """Convert integers to ring elements (two's complement), as a copy."""
    return values.astype(f"<i{ring // 8}").view(RINGS[ring])


def from_ring(values: Masked, ring: int) -> Integers:
    """Convert ring elements to integers in [-2^(ring-1), 2^(ring-1))."""
    signed = np.dtype(f"<i{ring // 8}")
    return values.view(signed).astype(np.int64)


def as_int32_if_fits(values: Integers) -> Integers | Int32Array:
    """Return the same numbers in 32 bits, if all of them fit."""
    if len(values) and int(values.min()) >= -(2**31) and int(values.max()) < 2**31:
        return values.astype(np.int32)
    return values
