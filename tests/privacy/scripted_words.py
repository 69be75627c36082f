"""Words a test plays back to the sampler, and the exact values it must then obey."""

from __future__ import annotations

import math
import random
from decimal import Context, Decimal
from fractions import Fraction
from functools import lru_cache

import numpy as np

from flo.privacy.mechanisms import discrete_gaussian as gaussian
from flo.privacy.mechanisms.entropy import Words

FALSE_ALARM = 1e-6
WORD = 1 << 64
BLOCKS = 1024


class Script:
    """Plays back the given words, then up to ``limit`` times ``then``; then it fails."""

    def __init__(self, *words: int, then: int = 0, limit: int = 0) -> None:
        self._words = list(words)
        self._then = then
        self._left = limit
        self.drawn = 0

    def words(self, count: int) -> Words:
        taken, self._words = self._words[:count], self._words[count:]
        missing = count - len(taken)
        assert missing <= self._left, "more words were asked for than needed"
        self._left -= missing
        self.drawn += count
        return np.array([*taken, *[self._then] * missing], dtype=np.uint64)


class Seeded:
    """The same uniform words every time."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def words(self, count: int) -> Words:
        return np.frombuffer(self._random.randbytes(8 * count), dtype="<u8")


@lru_cache(maxsize=8192)
def gauss(x: int, variance: int) -> Fraction:
    """exp(-x²/(2·variance)) to a relative 10^-140: exact, for every purpose here."""
    context = Context(prec=150)
    return Fraction(context.exp(context.divide(Decimal(-x * x), Decimal(2 * variance))))


SURE_UP, SURE_DOWN = 1 + Fraction(1, 10**130), 1 - Fraction(1, 10**130)


def first_bits(ratio: Fraction, exponent: Fraction, bits: int) -> int:
    """The first bits of ratio·exp(-exponent)."""
    context = Context(prec=200)
    power = context.divide(Decimal(-exponent.numerator), Decimal(exponent.denominator))
    return math.floor(ratio * Fraction(context.exp(power)) * (1 << bits))


def place(stairs: gaussian._Staircase, x: int, *, negative: bool = False) -> int:
    """A first word that proposes ±x, or the tail for an x beyond the blocks."""
    block = min(x >> stairs.width_bits, BLOCKS)
    choice = int(np.searchsorted(stairs.block_of, block))
    offset = 0 if block == BLOCKS else x & ((1 << stairs.width_bits) - 1)
    return choice << 48 | int(negative) << 47 | offset


def words_of(stairs: gaussian._Staircase, first: int, uniform: int) -> list[int]:
    """The word of a proposal and the next one, which together hold the 64 bits ``uniform``."""
    rest = 64 - stairs.bits
    return [
        first | uniform >> rest << stairs.width_bits,
        (uniform & ((1 << rest) - 1)) << stairs.bits,
    ]


def tail_words(stairs: gaussian._Staircase, x: int) -> list[int]:
    """The words that choose x's section of the tail, then x in it."""
    section = x.bit_length() - 11 - stairs.width_bits
    bits = x.bit_length() - 1
    assert section < 64
    assert bits <= 64
    return [1 << section, (x - (1 << bits)) << (64 - bits)]
