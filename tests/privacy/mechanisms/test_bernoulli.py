"""The exact comparison is decided right by as few words as it needs."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest

from flo.privacy.mechanisms.discrete_gaussian import bernoulli
from tests.privacy.scripted_words import WORD, Script, first_bits

CHANCES = [
    (Fraction(1), Fraction(1, 3)),
    (Fraction(412, 429), Fraction(0)),
    (Fraction(567, 656), Fraction(7919, 10**30)),
    (Fraction(5, 7), Fraction(31)),
    (Fraction(412 * 2048), Fraction(10**9 + 7, 3 * 10**7)),
]


@pytest.mark.parametrize(("ratio", "exponent"), CHANCES)
def test_one_word_decides_beside_the_threshold(ratio: Fraction, exponent: Fraction) -> None:
    at = first_bits(ratio, exponent, 64)
    for uniform in (0, at // 2, at - 1):
        assert bernoulli(ratio, exponent, uniform, Script()) is True
    for uniform in (at + 1, (at + WORD) // 2, WORD - 1):
        assert bernoulli(ratio, exponent, uniform, Script()) is False


@pytest.mark.parametrize(("ratio", "exponent"), CHANCES)
def test_at_the_threshold_only_as_many_words_are_drawn_as_are_needed(
    ratio: Fraction, exponent: Fraction
) -> None:
    first, second, third = (first_bits(ratio, exponent, bits) % WORD for bits in (64, 128, 192))
    for words, answer in [
        ([second - 1], True),
        ([second + 1], False),
        ([0], True),
        ([WORD - 1], False),
        ([second, third - 1], True),
        ([second, third + 1], False),
    ]:
        source = Script(*words)
        assert bernoulli(ratio, exponent, first, source) is answer
        assert source.drawn == len(words)


@pytest.mark.parametrize("exponent", [Fraction(129), Fraction(10**9), Fraction(10**4000, 7)])
def test_a_hopeless_exponent_is_refused_at_once(exponent: Fraction) -> None:
    assert bernoulli(Fraction(2**20), exponent, 1, Script()) is False
    source = Script(1)  # U = 0 so far may yet be anything; one more word says no
    assert bernoulli(Fraction(2**20), Fraction(exponent + 256), 0, source) is False
    assert source.drawn == 1


@pytest.mark.parametrize("exponent", [Fraction(60), Fraction(300), Fraction(1500)])
def test_even_the_rarest_event_can_happen(exponent: Fraction) -> None:
    source = Script(then=0, limit=100)
    assert bernoulli(Fraction(1), exponent, 0, source) is True
    least = float(exponent) / math.log(2) / 64
    assert least - 2 <= source.drawn <= least + 1
