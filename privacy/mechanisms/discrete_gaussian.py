"""Exact samples of the discrete Gaussian, many at a time.

Target: P[X = x] proportional to f(x) = exp(-x²/(2·variance)) over all integers (Canonne, Kamath,
Steinke, "The Discrete Gaussian for Differential Privacy", 2020). The distance to the target is
zero: every decision is made on integers, and where float arithmetic could decide wrongly, exact
arithmetic decides.

Rejection from a staircase over |x|. Blocks i = 0 .. 1023 hold the integers [i·w, (i+1)·w), w a
power of two of at most 1/64 standard deviation (or 1). Integer weights W_i ≥ K·f(i·w), and weight 1
for the tail, add up to 2^16; K is the largest integer for which they can.

    1. One word proposes: 16 bits choose a block (or the tail) with probability W_i/2^16, log2 w
       bits an x in it, one bit a sign. Negative zero is rejected, since zero would otherwise be
       proposed twice.
    2. 64 bits U decide: accept with probability A = K·f(x)/W_i ≤ 1. The other 47 - log2 w bits of
       the word are the first ones of U. If they are below those of the block's floor, a lower bound
       of A·2^64 over the block, x is accepted at once, whatever the rest of U is (97 to 99 % of
       proposals; 92 % at the largest variance, where 4 bits are left).
    3. Otherwise the rest of U comes from another word. A·2^64 is computed in float64, with a
       relative error far below 2^-30; if U lies outside that margin, the comparison decides. Inside
       it (one in 10^9), U is extended and compared with A in correctly rounded decimal arithmetic,
       until they differ.
    4. The tail (|x| ≥ 8 standard deviations): section j = 0, 1, .. holds [T·2^j, T·2^(j+1)) with T
       = 1024·w and is chosen with probability 2^-(j+1), x uniformly in it; accept with probability
       K·1024·2^(2j+1)·f(x), by the exact comparison of 3.

So every x is proposed and accepted with probability K·f(x)/(w·2^17): proportional to f(x).

The samples are a function of the words alone, the same on every machine: W_i, K and the floors,
which say how many words are drawn, come from correctly rounded decimal arithmetic, and floats
decide only where exact arithmetic would decide the same. A secure sum needs that, to remove noise
that a hospital added (``flo.privacy.secure_sum.components``).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Context, Decimal
from fractions import Fraction
from functools import lru_cache
from typing import Protocol

import numpy as np
import numpy.typing as npt

from flo.arrays import Integers
from flo.privacy.mechanisms.entropy import SystemStream, Words

_BLOCKS = 1024
_TOTAL = 1 << 16
_MARGIN = 2.0**-30
_HEIGHT_BITS = 46  # of heights: the largest K times the largest height fits 64 bits
_DIGITS = 60  # of the arithmetic that computes heights
# Samples per step: few enough for the cache, and enough that threads rarely wait for Python. Part
# what a seed means: with another number, hospital and coordinator make other noise from it.
_AT_ONCE = 1 << 17
_SIGN = 47  # the bit of a word that is the sign; the lower ones are the first of U, then the offset


class WordSource(Protocol):
    """Source of random bits: independent, uniform, and none returned twice."""

    def words(self, count: int) -> Words:
        """Return ``count`` uniform 64-bit words."""


class Noise(Protocol):
    """Source of noise. The wheel contains only ``SystemNoise``; tests supply their own."""

    def sample(self, variance: int, size: int) -> Integers:
        """Return ``size`` independent discrete Gaussian integers of that variance, a new array."""

    def choose(self, probability: float, count: int) -> npt.NDArray[np.bool_]:
        """Return ``count`` independent Booleans, each True with ``probability``."""


class SystemNoise:
    """Noise from a stream with a new key from the operating system for every call."""

    def sample(self, variance: int, size: int) -> Integers:
        """Return shape (size,). Raises ValueError unless 1 <= variance < 2**100 (fits 64 bits)."""
        return sample(variance, size, SystemStream())

    def choose(self, probability: float, count: int) -> npt.NDArray[np.bool_]:
        """Return shape (count,).

        Exact for a ``probability`` in (0, 1) that is a multiple of 2^-64; ValueError for others.
        """
        threshold = int(probability * 2**64)
        if not (0 < probability < 1 and threshold == probability * 2**64):
            raise ValueError(f"probability {probability} is not a multiple of 2^-64 in (0, 1)")
        return SystemStream().words(count) < np.uint64(threshold)


def sample(variance: int, size: int, source: WordSource) -> Integers:
    """Return ``size`` exact samples from ``source``; the module docstring has the steps."""
    made = np.empty(size, dtype=np.int64)
    for place, block in placed(blocks(variance, size, source), size):
        made[place] = block
    return made


def placed(pieces: Iterator[Integers], length: int) -> Iterator[tuple[slice, Integers]]:
    """Yield each piece of a vector with its place. Raises ValueError: they have another length."""
    start = 0
    for piece in pieces:
        yield slice(start, start + len(piece)), piece
        start += len(piece)
    if start != length:
        raise ValueError(f"a vector of {length} numbers came in pieces of {start}")


def blocks(variance: int, size: int, source: WordSource) -> Iterator[Integers]:
    """Return the same samples as ``sample``, in order, a few at a time."""
    if not 1 <= variance < 1 << 100:
        raise ValueError(f"variance {variance} is outside [1, 2**100)")
    return _blocks(_staircase(variance), size, source)


def _blocks(stairs: _Staircase, size: int, source: WordSource) -> Iterator[Integers]:
    for start in range(0, size, _AT_ONCE):
        missing = min(_AT_ONCE, size - start)
        while missing:
            found = _candidates(stairs, missing + missing // 16 + 16, source)[:missing]
            missing -= len(found)
            yield found


@dataclass(frozen=True)
class _Staircase:
    variance: int
    width_bits: int  # w = 2^width_bits
    scale: int  # K
    weights: Integers  # W_i, then the tail's
    block_of: npt.NDArray[np.uint16]  # 16 bits -> block; _BLOCKS means the tail
    floors: Words  # U below this: every x in the block is accepted
    limits: Words  # the same for the bits of a word below its sign: first bits of U, then an offset

    @property
    def bits(self) -> int:
        """How many bits of U are in the word that proposes: 4 to 47."""
        return _SIGN - self.width_bits


@lru_cache(maxsize=16)
def _staircase(variance: int) -> _Staircase:
    width_bits = max(0, (variance.bit_length() - 1) // 2 - 6)
    width = 1 << width_bits
    heights = np.array([height + 1 for height in _heights(variance, width, 0, _HEIGHT_BITS)])

    def weights(scale: int) -> Integers:
        return -(-scale * heights >> _HEIGHT_BITS)

    low, high = 1, _TOTAL
    while high - low > 1:  # the largest scale whose weights, with 1 for the tail, fit
        middle = (low + high) // 2
        low, high = (middle, high) if weights(middle).sum() < _TOTAL else (low, middle)
    chosen = weights(low)
    chosen[0] += _TOTAL - 1 - chosen.sum()
    ends = _heights(variance, width, width - 1, 64)
    lowest = [max(0, low * (end - 1) // w) for end, w in zip(ends, chosen.tolist(), strict=True)]
    floors = np.array([*lowest, 0], dtype=np.uint64)
    unused = np.uint64(64 - _SIGN + width_bits)
    return _Staircase(
        variance,
        width_bits,
        low,
        np.append(chosen, 1),
        np.repeat(np.arange(_BLOCKS + 1, dtype=np.uint16), np.append(chosen, 1)),
        floors,
        floors >> unused << np.uint64(width_bits),
    )


def _heights(variance: int, width: int, offset: int, bits: int) -> list[int]:
    """Return f(i·w + offset)·2^bits for each block i, rounded down, or up by a rounding error.

    f((i+1)·w + o) = f(i·w + o)·q·r^(2i+1), with q = exp(-w·o/variance), r = exp(-w²/(2·variance)).
    """
    context = Context(prec=_DIGITS)

    def power(dividend: int) -> Decimal:
        return context.exp(context.divide(Decimal(-dividend), Decimal(2 * variance)))

    height = context.multiply(Decimal(1 << bits), power(offset * offset))
    step, squared = power(width * (width + 2 * offset)), power(2 * width * width)
    made = list[int]()
    for _ in range(_BLOCKS):
        made.append(math.floor(height))
        height, step = context.multiply(height, step), context.multiply(step, squared)
    return made


def _candidates(stairs: _Staircase, count: int, source: WordSource) -> Integers:
    """Run steps 1-4 for ``count`` proposals; return the accepted ones, in order."""
    place = source.words(count)
    block = stairs.block_of.take((place >> np.uint64(48)).view(np.int64)).astype(np.int64)
    below = place & np.uint64((1 << _SIGN) - 1)
    accepted = below < stairs.limits.take(block)
    value = (below & np.uint64((1 << stairs.width_bits) - 1)).view(np.int64)
    value += block << stairs.width_bits
    sign = (place.view(np.int64) << 16) >> 63  # -1 where bit 47 is set, else 0
    unsure = np.flatnonzero(~accepted)
    first = below[unsure] >> np.uint64(stairs.width_bits)
    rest = source.words(len(unsure)) >> np.uint64(stairs.bits)
    uniform = first << np.uint64(64 - stairs.bits) | rest
    accepted[unsure], value[unsure] = _decide(stairs, block[unsure], value[unsure], uniform, source)
    accepted &= (sign == 0) | (value != 0)
    value ^= sign
    value -= sign  # two's complement
    return value[accepted]


def _decide(
    stairs: _Staircase,
    block: Integers,
    value: Integers,
    uniform: Words,
    source: WordSource,
) -> tuple[npt.NDArray[np.bool_], Integers]:
    """Decide in floats outside the margin of step 3, exactly inside it and in the tail."""
    weight = stairs.weights[block]
    exponent = value.astype(np.float64) ** 2 / float(2 * stairs.variance)
    threshold = np.exp(-exponent) * (stairs.scale / weight) * 2.0**64
    drawn = uniform.astype(np.float64)
    margin = threshold * _MARGIN + 4
    accepted = drawn < threshold  # correct outside the margin; inside, decided below
    for i in np.flatnonzero((np.abs(drawn - threshold) <= margin) | (block == _BLOCKS)):
        ratio, x = Fraction(stairs.scale, int(weight[i])), int(value[i])
        if block[i] == _BLOCKS:
            section = _heads(source)
            start = _BLOCKS << (stairs.width_bits + section)
            x = start + _below_power(start.bit_length() - 1, source)
            ratio = Fraction(stairs.scale * _BLOCKS * 2 ** (2 * section + 1))
        accepted[i] = bernoulli(
            ratio, Fraction(x * x, 2 * stairs.variance), int(uniform[i]), source
        )
        value[i] = x if accepted[i] else 0
    return accepted, value


def bernoulli(ratio: Fraction, exponent: Fraction, uniform: int, source: WordSource) -> bool:
    """Return True with probability ratio·exp(-exponent), exactly; ``uniform``: first 64 bits."""
    bits = 64
    while True:
        low, high = _exp_between(exponent, bits)
        low, high = ratio * low, ratio * high
        if Fraction(uniform + 1, 1 << bits) <= low:
            return True
        if Fraction(uniform, 1 << bits) >= high:
            return False
        uniform = (uniform << 64) | int(source.words(1)[0])
        bits += 64


def _exp_between(exponent: Fraction, bits: int) -> tuple[Fraction, Fraction]:
    """Return bounds of exp(-exponent), accurate to about ``bits`` bits.

    ``Decimal.exp`` rounds correctly.
    """
    if exponent > 2 * bits:
        return Fraction(0), Fraction(1, 1 << (2 * bits))
    digits = bits // 3 + 20
    context = Context(prec=digits)
    power = context.divide(Decimal(-exponent.numerator), Decimal(exponent.denominator))
    middle = Fraction(context.exp(power))
    slack = middle * (1 + exponent) / 10 ** (digits - 3)
    return middle - slack, middle + slack


def _heads(source: WordSource) -> int:
    """Count how often a fair coin shows heads before tails."""
    word = int(source.words(1)[0])
    return 64 + _heads(source) if word == 0 else (word & -word).bit_length() - 1


def _below_power(bits: int, source: WordSource) -> int:
    """Return a uniform integer below 2**bits."""
    count = -(-bits // 64)
    drawn = int.from_bytes(source.words(count).tobytes(), "little")
    return drawn >> (64 * count - bits)
