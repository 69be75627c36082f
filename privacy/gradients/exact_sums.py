"""Sums of micro-batches as integers, so that several processes add up to one result, bit by bit.

Float64 addition depends on its order; integer addition does not. Each micro-batch's float64 sum is
rounded to steps of clip · ``batch`` / 2^62, and the integers are added. A patient moves a
coordinate by at most the clip and a micro-batch has at most ``batch`` patients, so 63 bits hold its
sum. Totals are kept as two integers, the upper bits and the lower 30 of every summand, which 2^30
micro-batches cannot overflow.

Rounding: between adjacent data each micro-batch's coordinate may differ by one step more, beside
float64's 2^-52. With the largest ``batch``, 2^12, 10^7 micro-batches of 4·10^6 parameters together
differ by less than 2^-15 of the clip in L2. The mechanism's slack for float64 errors is 2^-10
(``flo.privacy.mechanisms.mechanisms``).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from flo.arrays import Floats, Integers

LARGEST_BATCH = 1 << 12
_REACH = 1 << 62
_LOW_BITS = 30
_AT_ONCE = 1 << 15  # numbers per step, few enough for the cache


def zeros(length: int) -> Integers:
    """Return the sum of no micro-batch, (2, ``length``)."""
    return np.zeros((2, length), dtype=np.int64)


def add(total: Integers, part: Floats, clip: float, batch: int) -> None:
    """Add one micro-batch's sum (p,) to ``total`` (2, p), in place: upper and lower bits."""
    for place in _blocks(len(part)):
        steps = np.rint(part[place] * (_REACH / batch / clip)).astype(np.int64)
        upper, lower = total[:, place]
        upper += steps >> _LOW_BITS
        lower += steps & ((1 << _LOW_BITS) - 1)


def to_real(total: Integers, clip: float, batch: int) -> Floats:
    """Convert such a total (2, p) to float64 (p,), in the unit of the clip."""
    real = np.empty(total.shape[1])
    for place in _blocks(len(real)):
        upper, lower = total[:, place]
        real[place] = (upper * 2.0**_LOW_BITS + lower) * (clip * batch / _REACH)
    return real


def _blocks(length: int) -> Iterator[slice]:
    for start in range(0, length, _AT_ONCE):
        yield slice(start, start + _AT_ONCE)
