"""Sums of micro-batches as integers, so that several processes add up to one result, bit by bit.

Float64 addition depends on its order; integer addition does not. Each micro-batch's float64 sum is
rounded to steps of clip · ``batch`` / 2^62, and the integers are added. A patient moves a
coordinate by at most the clip and a micro-batch has at most ``batch`` patients, so 63 bits hold its
sum. Totals are kept as two integers, the upper bits and the lower 30 of every summand, which 2^31
micro-batches cannot overflow.

Rounding: a coordinate of a micro-batch moves by at most half a step, beside float64's 2^-52. With
the largest ``batch``, 2^16, 10^7 micro-batches of 4·10^6 parameters together move by less than
2^-12 of the clip in L2, which the mechanism's slack of 2^-10 covers
(``flo.privacy.mechanisms.mechanisms``).
"""

from __future__ import annotations

import numpy as np

from flo.arrays import Floats, Integers

LARGEST_BATCH = 1 << 16
_REACH = 1 << 62
_LOW_BITS = 30


def zeros(length: int) -> Integers:
    """Return the sum of no micro-batch, (2, ``length``)."""
    return np.zeros((2, length), dtype=np.int64)


def add(total: Integers, part: Floats, clip: float, batch: int) -> None:
    """Add one micro-batch's sum (p,) to ``total`` (2, p), in place: upper and lower bits."""
    steps = np.rint(part * (_REACH / batch / clip)).astype(np.int64)
    upper, lower = total
    upper += steps >> _LOW_BITS
    lower += steps & ((1 << _LOW_BITS) - 1)


def to_real(total: Integers, clip: float, batch: int) -> Floats:
    """Convert such a total (2, p) to float64 (p,), in the unit of the clip."""
    upper, lower = total
    return np.asarray((upper * 2.0**_LOW_BITS + lower) * (clip * batch / _REACH))
