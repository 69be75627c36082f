"""The noise itself: the exact distribution, keyed by the operating system, never repeated.

A test that says "false alarm p" fails with probability p although nothing is wrong: it draws real
noise. All others are deterministic: scripted or seeded words, exact rational arithmetic.
"""

from __future__ import annotations

import dataclasses
import math
import os
import random
import re
import subprocess
import sys
from collections.abc import Sequence
from decimal import Context, Decimal
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy import stats

import flo
from flo.privacy import discrete_gaussian as gaussian
from flo.privacy.discrete_gaussian import SystemNoise, bernoulli, sample
from flo.privacy.entropy import SystemStream, Words
from tests.privacy.slow_gaussian import slow_samples

ROOMS = ("cli", "clients", "infra", "privacy", "server")
FALSE_ALARM = 1e-6
WORD = 1 << 64
BLOCKS = 1024
# 127² and (2^50 - 2^40)² put the tail's start nearest to the centre: just above 8 deviations.
VARIANCES = [1, 2, 5000, 127**2, 10**6 + 7, 2380879860100, 2**99, (2**50 - 2**40) ** 2, 2**100 - 1]

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]


# Sources of words


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


# Exact values


@lru_cache(maxsize=8192)
def gauss(x: int, variance: int) -> Fraction:
    """exp(-x²/(2·variance)) to a relative 10^-140: exact, for every purpose here."""
    context = Context(prec=150)
    return Fraction(context.exp(context.divide(Decimal(-x * x), Decimal(2 * variance))))


SURE_UP, SURE_DOWN = 1 + Fraction(1, 10**130), 1 - Fraction(1, 10**130)


def place(stairs: gaussian._Staircase, x: int, *, negative: bool = False) -> int:
    """A first word that proposes ±x, or the tail for an x beyond the blocks."""
    block = min(x >> stairs.width_bits, BLOCKS)
    choice = int(np.searchsorted(stairs.block_of, block))
    offset = 0 if block == BLOCKS else x & ((1 << stairs.width_bits) - 1)
    return choice << 48 | int(negative) << 47 | offset


def tail_words(stairs: gaussian._Staircase, x: int) -> list[int]:
    """The words that choose x's section of the tail, then x in it."""
    section = x.bit_length() - 11 - stairs.width_bits
    bits = x.bit_length() - 1
    assert section < 64
    assert bits <= 64
    return [1 << section, (x - (1 << bits)) << (64 - bits)]


# The distribution


def follows(observed: Counts, expected: Floats) -> bool:
    """Chi-square, the rarest cells pooled to at least 20 expected. False alarm 1e-6."""
    order = np.argsort(expected, kind="stable")
    pooled = order[: int(np.searchsorted(np.cumsum(expected[order]), 20)) + 1]
    kept = np.setdiff1d(order, pooled)
    seen = np.append(observed[kept], observed[pooled].sum())
    wanted = np.append(expected[kept], expected[pooled].sum())
    assert len(kept) >= 3
    return bool(stats.chisquare(seen, wanted).pvalue > FALSE_ALARM)


def exact_masses(variance: int) -> tuple[int, Floats]:
    """P[X = x] for |x| <= reach, which leaves out less than 1e-50."""
    reach = 16 * (math.isqrt(variance) + 1)
    weights = [math.exp(-x * x / (2 * variance)) for x in range(-reach, reach + 1)]
    return reach, np.array(weights) / math.fsum(weights)


@pytest.mark.parametrize("variance", [1, 2, 7, 50, 300, 5000])
def test_samples_follow_the_exact_distribution_into_its_tails(variance: int) -> None:
    size = 300_000
    samples = SystemNoise().sample(variance, size)
    reach, masses = exact_masses(variance)
    assert int(np.abs(samples).max()) <= reach  # false alarm below 1e-45
    observed = np.bincount(samples + reach, minlength=2 * reach + 1)
    assert follows(observed, masses * size)  # false alarm 1e-6 for each variance


def cell_edges(variance: int) -> list[int]:
    """60 cells of equal mass and 8 more for each tail, out to five deviations."""
    deviations = [*stats.norm.ppf(np.arange(1, 60) / 60), *np.arange(2.5, 5.1, 0.35)]
    deviations += [-d for d in deviations[59:]]
    return sorted(round(d * math.sqrt(variance)) for d in deviations)


@pytest.mark.parametrize("variance", [10**6 + 7, 2380879860100, 2**70 + 1, 2**99, 2**100 - 1])
def test_samples_follow_the_exact_distribution_at_large_variance(variance: int) -> None:
    size = 400_000
    edges = cell_edges(variance)
    samples = SystemNoise().sample(variance, size)
    observed = np.bincount(np.searchsorted(edges, samples, side="right"), minlength=len(edges) + 1)
    # A cell holds edges[i] .. edges[i+1] - 1. The integral between half-integers is its mass up to
    # a relative 1/variance (midpoint rule), far below what a million samples resolve.
    cuts = (np.array(edges, dtype=np.float64) - 0.5) / math.sqrt(variance)
    masses = np.diff(stats.norm.cdf(cuts), prepend=0, append=1)
    assert follows(observed, masses * size)  # false alarm 1e-6 for each variance


@pytest.mark.parametrize("variance", [10**6 + 7, 10**12 + 39, 2**70 + 1])
def test_moments_hold_at_large_variance(variance: int) -> None:
    size = 200_000
    scaled = SystemNoise().sample(variance, size).astype(np.float64) / math.sqrt(variance)
    # False alarm 1e-6 each for mean, variance and the share beyond two standard deviations.
    z = float(stats.norm.isf(5e-7))
    assert abs(scaled.mean()) < z / math.sqrt(size)
    spread = stats.chi2(size).cdf(float((scaled**2).sum()))
    assert 5e-7 < spread < 1 - 5e-7
    far = stats.binom(size, 2 * float(stats.norm.sf(2)))
    assert far.ppf(5e-7) <= int((np.abs(scaled) > 2).sum()) <= far.isf(5e-7)


def test_samples_are_independent_of_the_one_before() -> None:
    size = 400_000
    samples = SystemNoise().sample(10**6 + 7, size).astype(np.float64)
    z = float(stats.norm.isf(5e-7))  # false alarm 1e-6 each for value and magnitude
    for series in (samples, np.abs(samples)):
        assert abs(np.corrcoef(series[1:], series[:-1])[0, 1]) < z / math.sqrt(size - 1)


def test_the_slow_sampler_follows_the_exact_distribution() -> None:
    size = 20_000
    reach, masses = exact_masses(7)
    observed = np.bincount(np.array(slow_samples(7, size, 3)) + reach, minlength=2 * reach + 1)
    assert follows(observed, masses * size)  # seeded: no false alarm


def test_fast_and_slow_sampler_agree() -> None:
    variance = 10**6 + 7
    edges = cell_edges(variance)
    slow = np.array(slow_samples(variance, 15_000, 5))
    fast = SystemNoise().sample(variance, 300_000)
    table = np.array(
        [
            np.bincount(np.searchsorted(edges, samples, side="right"), minlength=len(edges) + 1)
            for samples in (slow, fast)
        ]
    )
    rare = table.sum(axis=0) < 500  # both tails
    table = np.column_stack([table[:, ~rare], table[:, rare].sum(axis=1)])
    assert table.sum() == 315_000
    assert stats.chi2_contingency(table).pvalue > FALSE_ALARM  # false alarm 1e-6


@pytest.mark.parametrize("variance", [10**6 + 7, 2**80 + 1, 2**99])
def test_noise_never_falls_on_a_grid_coarser_than_one_step(variance: int) -> None:
    samples = SystemNoise().sample(variance, 64_000)
    # Every remainder is equally likely, up to exp(-2 π² variance / 64²); false alarm 1e-6.
    counts = np.bincount(np.mod(samples, 64), minlength=64)
    assert stats.chisquare(counts).pvalue > FALSE_ALARM
    # ... also among the largest, where a float of that size would be even; false alarm 2^-99.
    largest = samples[np.argsort(np.abs(samples))[-100:]]
    assert len(set((largest % 2).tolist())) == 2


@pytest.mark.parametrize("variance", [10**6 + 7, 2**99])
def test_no_seam_shows_where_blocks_meet(variance: int) -> None:
    width = 1 << gaussian._staircase(variance).width_bits
    samples = SystemNoise().sample(variance, 200_000)
    cells = min(width, 64)
    # x mod w is uniform up to exp(-2 π² 64²), w being at most 1/64 deviation; false alarm 1e-6.
    counts = np.bincount(np.mod(samples, width) // (width // cells), minlength=cells)
    assert stats.chisquare(counts).pvalue > FALSE_ALARM


# The staircase, in exact arithmetic


@pytest.mark.parametrize("variance", VARIANCES)
def test_the_weights_use_up_sixteen_bits(variance: int) -> None:
    stairs = gaussian._staircase(variance)
    assert int(stairs.weights.sum()) == 2**16
    assert len(stairs.weights) == BLOCKS + 1
    assert int(stairs.weights[BLOCKS]) == 1
    assert np.array_equal(np.bincount(stairs.block_of), stairs.weights)


@pytest.mark.parametrize("variance", VARIANCES)
def test_a_block_is_at_most_a_sixty_fourth_of_a_deviation_wide(variance: int) -> None:
    width = 1 << gaussian._staircase(variance).width_bits
    assert width == 1 or 64**2 * width**2 <= variance * (1 + Fraction(1, 2**50))
    assert 128**2 * width**2 > variance  # nor much narrower: 1024 of them reach 8 deviations


def blocks_in_reach(stairs: gaussian._Staircase) -> int:
    """How many blocks start within 64 deviations. Beyond, K·f is below 2^-2900: no exact work."""
    return min(BLOCKS, (math.isqrt(4096 * stairs.variance) >> stairs.width_bits) + 1)


@pytest.mark.parametrize("variance", VARIANCES)
def test_every_block_is_at_least_as_high_as_the_target(variance: int) -> None:
    stairs = gaussian._staircase(variance)
    assert int(stairs.weights.min()) >= 1
    for i, weight in enumerate(stairs.weights.tolist()[: blocks_in_reach(stairs)]):
        # exp falls with |x|: the first integer of the block is its highest.
        assert weight >= stairs.scale * gauss(i << stairs.width_bits, variance) * SURE_UP


@pytest.mark.parametrize("variance", VARIANCES)
def test_below_the_floor_every_integer_of_the_block_is_accepted(variance: int) -> None:
    stairs = gaussian._staircase(variance)
    width = 1 << stairs.width_bits
    reach = blocks_in_reach(stairs)
    for i, floor in enumerate(stairs.floors.tolist()[:reach]):
        lowest = gauss(i * width + width - 1, variance) * SURE_DOWN
        assert floor <= WORD * stairs.scale * lowest / int(stairs.weights[i])
    assert not stairs.floors[reach:].any()
    assert int(stairs.floors[BLOCKS]) == 0


@pytest.mark.parametrize("variance", VARIANCES)
def test_the_tail_never_needs_a_probability_above_one(variance: int) -> None:
    stairs = gaussian._staircase(variance)
    start = BLOCKS << stairs.width_bits
    assert start**2 >= 64 * variance
    for section in range(6):
        highest = gauss(start << section, variance) * SURE_UP
        assert stairs.scale * BLOCKS * 2 ** (2 * section + 1) * highest <= 1


@pytest.mark.parametrize("variance", VARIANCES)
def test_the_staircase_is_as_high_as_sixteen_bits_allow(variance: int) -> None:
    stairs = gaussian._staircase(variance)
    higher = (stairs.scale + 1) * (1 + Fraction(gaussian._MARGIN))
    reach = blocks_in_reach(stairs)
    starts = [i << stairs.width_bits for i in range(reach)]
    needed = sum(max(1, math.ceil(higher * gauss(start, variance))) for start in starts)
    assert needed + BLOCKS - reach + 1 > 2**16


# Proposal times acceptance


BITS = 256
FILL = 0x5555_5555_5555_5555  # not all zeros or ones: it must differ from a threshold's bits


def acceptance(stairs: gaussian._Staircase, first: int, *tail: int) -> Fraction:
    """The probability with which the sampler accepts a proposal, measured to 2^-256 by bisection.

    It accepts exactly the U below a threshold, and U is what this scripts, word by word.
    """

    def accepts(uniform: int) -> bool:
        words = [uniform >> shift & (WORD - 1) for shift in range(BITS - 64, -1, -64)]
        source = Script(first, words[0], *tail, *words[1:], then=FILL, limit=9)
        return len(gaussian._candidates(stairs, 1, source)) == 1

    low, high = 0, 1 << BITS
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if accepts(middle) else (low, middle)
    return Fraction(low, 1 << BITS)


def proposed(stairs: gaussian._Staircase, x: int) -> Fraction:
    """The probability of the proposal +x, from the module's steps 1 and 4."""
    block = min(x >> stairs.width_bits, BLOCKS)
    choices = int((stairs.block_of == block).sum())
    if block < BLOCKS:
        return Fraction(choices, 1 << (17 + stairs.width_bits))
    section = x.bit_length() - 11 - stairs.width_bits
    width = BLOCKS << (stairs.width_bits + section)
    return Fraction(choices, width << (17 + section + 1))


def mass_is_in_proportion(stairs: gaussian._Staircase, x: int, *, negative: bool = False) -> bool:
    """Proposal times acceptance of ±x against f(x) times the same constant for every x."""
    beyond = tail_words(stairs, x) if x >= BLOCKS << stairs.width_bits else []
    measured = acceptance(stairs, place(stairs, x, negative=negative), *beyond)
    constant = Fraction(stairs.scale, 2 ** (17 + stairs.width_bits))
    wanted = constant * gauss(x, stairs.variance) / proposed(stairs, x)
    return abs(measured - wanted) <= Fraction(4, 1 << BITS)


def test_at_small_variance_every_integer_has_its_exact_mass() -> None:
    stairs = gaussian._staircase(7)
    for x in range(19):
        assert mass_is_in_proportion(stairs, x)
    for x in (1, 2, 5, 12):
        assert mass_is_in_proportion(stairs, x, negative=True)
    # Minus zero is never accepted, or zero would have twice its mass.
    assert acceptance(stairs, place(stairs, 0, negative=True)) == 0


def test_at_small_variance_the_sampler_proposes_every_integer_as_often_as_its_weight() -> None:
    stairs = gaussian._staircase(7)
    choices = np.arange(2**16, dtype=np.uint64) << np.uint64(48)
    signs = np.array([0, 1], dtype=np.uint64) << np.uint64(47)
    places = (choices[:, None] | signs).ravel().tolist()
    # U = 0 accepts all that has a chance of 2^-64 or more.
    script = Script(*places, *[0] * len(places), then=FILL, limit=5000)
    seen, counts = np.unique(gaussian._candidates(stairs, len(places), script), return_counts=True)
    weights = stairs.weights.tolist()
    likely = [
        x for x in range(BLOCKS) if stairs.scale * gauss(x, 7) / weights[x] > Fraction(1, WORD)
    ]
    assert dict(zip(seen.tolist(), counts.tolist(), strict=True)) == {
        x * sign: weights[x] for x in likely for sign in (1, -1)
    }


@pytest.mark.parametrize("variance", [127**2, 10**6 + 7, 2**99, (2**50 - 2**40) ** 2])
def test_at_large_variance_every_integer_has_its_exact_mass(variance: int) -> None:
    stairs = gaussian._staircase(variance)
    width = 1 << stairs.width_bits
    blocks = [0, width - 1, width, 77 * width + width // 3, 300 * width, BLOCKS * width - 1]
    start = BLOCKS * width
    for x in [*blocks, start, start + width + 1, 2 * start - 1, 2 * start, 2 * start + 9]:
        assert mass_is_in_proportion(stairs, x)


@pytest.mark.parametrize("margin", [0.2, 0.9])
def test_a_wider_margin_costs_speed_and_never_exactness(
    monkeypatch: pytest.MonkeyPatch, margin: float
) -> None:
    usual = gaussian._staircase(10**6 + 7)
    monkeypatch.setattr(gaussian, "_MARGIN", margin)
    stairs = gaussian._staircase.__wrapped__(10**6 + 7)  # past the cache, which stays as it is
    assert stairs.scale < usual.scale
    for x in (0, 5, 8, 800, 2403, 8191, 8192, 8193):
        assert mass_is_in_proportion(stairs, x)


@pytest.mark.parametrize("variance", [1, 7, 300, 10**6 + 7, 2**99])
def test_floats_decide_nothing_that_exact_arithmetic_decides_otherwise(
    monkeypatch: pytest.MonkeyPatch, variance: int
) -> None:
    stairs = gaussian._staircase(variance)
    usual_words, exact_words = Seeded(variance), Seeded(variance)
    usual = gaussian._candidates(stairs, 6000, usual_words)
    # No floor, and a margin that leaves no U to the floats unless its chance is below 2^-70.
    # The exact comparison needs a 65th bit with probability 2^-64, so the words are the same.
    monkeypatch.setattr(gaussian, "_MARGIN", 2.0**70)
    without = dataclasses.replace(stairs, floors=np.zeros_like(stairs.floors))
    exact = gaussian._candidates(without, 6000, exact_words)
    assert usual.tolist() == exact.tolist()
    assert usual_words.words(1) == exact_words.words(1)


def near(threshold: Fraction) -> list[int]:
    """64-bit words around a threshold: at it, and on both sides of the margin's two edges."""
    middle = float(threshold)
    margin = middle * gaussian._MARGIN + 4
    words = {math.floor(threshold) + step for step in (-5, -4, -1, 0, 1, 4, 5)}
    for edge in (middle - margin, middle + margin):
        for at in (edge, math.nextafter(edge, 0), math.nextafter(edge, math.inf)):
            words |= {round(at) + step for step in (-1, 0, 1)}
        spacing = math.ulp(edge)
        words |= {round(edge + k * spacing / 2) for k in range(-4, 5)}
    return sorted(word for word in words if 0 <= word < WORD)


@pytest.mark.parametrize("variance", [1, 300, 10**6 + 7, 2380879860100, 2**99])
def test_the_words_at_a_threshold_and_at_its_margins_are_decided_right(variance: int) -> None:
    stairs = gaussian._staircase(variance)
    width = 1 << stairs.width_bits
    blocks = [*range(12), *range(12, BLOCKS, 41)]
    values = [x for i in blocks for x in sorted({i * width, i * width + width // 2 + width % 2})]
    rows: list[tuple[int, int, int, bool]] = []
    for x in values:
        block = min(x // width, BLOCKS - 1)
        chance = stairs.scale * gauss(x, variance) / int(stairs.weights[block])
        for word in near(WORD * chance):
            uniform = Fraction(word << 128 | FILL << 64 | FILL, 1 << 192)
            rows.append((block, x, word, uniform < chance))
    accepted, _ = gaussian._decide(
        stairs,
        np.array([row[0] for row in rows], dtype=np.uint16),
        np.array([row[1] for row in rows], dtype=np.int64),
        np.array([row[2] for row in rows], dtype=np.uint64),
        Script(then=FILL, limit=2 * len(values)),
    )
    assert any(row[3] for row in rows)
    assert not all(row[3] for row in rows)
    wrong = [row for row, answer in zip(rows, accepted.tolist(), strict=True) if answer != row[3]]
    assert wrong == []


# The exact comparison


CHANCES = [
    (Fraction(1), Fraction(1, 3)),
    (Fraction(412, 429), Fraction(0)),
    (Fraction(567, 656), Fraction(7919, 10**30)),
    (Fraction(5, 7), Fraction(31)),
    (Fraction(412 * 2048), Fraction(10**9 + 7, 3 * 10**7)),
]


def first_bits(ratio: Fraction, exponent: Fraction, bits: int) -> int:
    """The first bits of ratio·exp(-exponent)."""
    context = Context(prec=200)
    power = context.divide(Decimal(-exponent.numerator), Decimal(exponent.denominator))
    return math.floor(ratio * Fraction(context.exp(power)) * (1 << bits))


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


# Scripted proposals


def propose(stairs: gaussian._Staircase, source: Script) -> list[int]:
    return [int(x) for x in gaussian._candidates(stairs, 1, source)]


@pytest.mark.parametrize("variance", [7, 10**6 + 7, 2**99])
def test_a_proposal_is_block_sign_and_place_in_the_block(variance: int) -> None:
    stairs = gaussian._staircase(variance)
    for x in (1, 5 << stairs.width_bits, (1 << stairs.width_bits) * 9 - 1):
        assert propose(stairs, Script(place(stairs, x), 0)) == [x]
        assert propose(stairs, Script(place(stairs, x, negative=True), 0)) == [-x]
        assert propose(stairs, Script(place(stairs, x), WORD - 1)) == []


@pytest.mark.parametrize("variance", [1, 7, 10**6 + 7, 2**99])
def test_minus_zero_is_thrown_away(variance: int) -> None:
    stairs = gaussian._staircase(variance)
    floor = int(stairs.floors[0])
    for uniform in (0, floor - 1, floor + 2**30):  # below the floor, and within the margin above
        assert propose(stairs, Script(place(stairs, 0), uniform)) == [0]
        assert propose(stairs, Script(place(stairs, 0, negative=True), uniform)) == []


@pytest.mark.parametrize("variance", [127**2, (2**50 - 2**40) ** 2])
@pytest.mark.parametrize("section", [0, 1, 2])
def test_the_tail_takes_a_section_then_any_integer_in_it(variance: int, section: int) -> None:
    stairs = gaussian._staircase(variance)
    start = BLOCKS << (stairs.width_bits + section)
    tail = 0xFFFF << 48  # the last of the 16-bit choices
    minus = 1 << 47
    high_bits = (WORD - 1) >> 20 << 20  # heads are counted from the lowest bit
    for heads in (1 << section, high_bits | 1 << section):
        # U = 0, and zeros for as long as more are asked for: accepted whatever the chance.
        for word, x in [(0, start), (1 << 63, start * 3 // 2), (WORD - 1, 2 * start - 1)]:
            assert propose(stairs, Script(tail, 0, heads, word, then=0, limit=100)) == [x]
            assert propose(stairs, Script(tail | minus, 0, heads, word, then=0, limit=100)) == [-x]
        # 2^-26 is more than any chance in the tail.
        assert propose(stairs, Script(tail, 1 << 38, heads, 0)) == []


def test_the_tail_decides_by_its_own_probability() -> None:
    stairs = gaussian._staircase(127**2)
    for x in (1024, 1100):
        ratio, exponent = Fraction(stairs.scale * 2048), Fraction(x * x, 2 * 127**2)
        at = first_bits(ratio, exponent, 64)
        words = tail_words(stairs, x)
        assert at > 1
        assert propose(stairs, Script(place(stairs, 1024), at - 1, *words)) == [x]
        assert propose(stairs, Script(place(stairs, 1024), at + 1, *words)) == []


@pytest.mark.parametrize("variance", [1, 127**2, 2**100 - 1])
def test_a_section_beyond_all_bounds_is_rejected_at_once(variance: int) -> None:
    stairs = gaussian._staircase(variance)
    for section in (40, 63, 64, 70, 6400):
        heads = [0] * (section // 64) + [1 << section % 64]
        count = -(-(10 + stairs.width_bits + section) // 64)
        # Place and U, the section's words, those of an integer that wide; and as the bound of the
        # acceptance is 2^(2·section + 32) times a tiny power, about section/64 more of U.
        source = Script(0xFFFF << 48, 1, *heads, then=FILL, limit=count + section // 64 + 2)
        assert propose(stairs, source) == []
        assert source.drawn >= 2 + len(heads) + count


def test_a_tail_among_others_leaves_them_as_they_are() -> None:
    stairs = gaussian._staircase(127**2)
    places = [place(stairs, 3), place(stairs, 1024), place(stairs, 9, negative=True)]
    uniforms = [0, 0, 0]
    assert gaussian._candidates(
        stairs, 3, Script(*places, *uniforms, *tail_words(stairs, 1030))
    ).tolist() == [3, 1030, -9]
    uniforms = [0, WORD - 1, WORD - 1]
    assert gaussian._candidates(
        stairs, 3, Script(*places, *uniforms, *tail_words(stairs, 1030))
    ).tolist() == [3]


# The call


@pytest.mark.parametrize("variance", [0, -1, 2**100])
def test_a_variance_that_64_bits_cannot_hold_is_refused(variance: int) -> None:
    with pytest.raises(ValueError, match="variance"):
        SystemNoise().sample(variance, 1)


def test_the_least_and_the_largest_variance_are_served() -> None:
    assert len(SystemNoise().sample(1, 10)) == 10
    samples = SystemNoise().sample(2**100 - 1, 1000)
    assert 2**49 < int(np.abs(samples).max()) < 2**54  # false alarm below 1e-50


def test_shapes_and_types() -> None:
    for variance in (1, 100, 2**99):
        for size in (0, 1, 5, 17, 50_000):
            samples = SystemNoise().sample(variance, size)
            assert samples.shape == (size,)
            assert samples.dtype == np.int64


def test_no_sample_draws_no_word() -> None:
    assert sample(100, 0, Script()).shape == (0,)


@pytest.mark.parametrize("variance", [1, 10**9, 2**99])
def test_a_sample_is_a_function_of_its_words_only(variance: int) -> None:
    one = sample(variance, 5000, Seeded(4))
    np.random.seed(1)
    sample(3, 10, Seeded(9))
    assert one.tolist() == sample(variance, 5000, Seeded(4)).tolist()
    assert one.tolist() != sample(variance, 5000, Seeded(5)).tolist()


def test_no_seed_of_any_library_repeats_the_noise() -> None:
    streams = []
    for _ in range(2):
        random.seed(7)
        np.random.seed(7)
        torch.manual_seed(7)
        streams.append(SystemNoise().sample(2**80, 8))
    assert (streams[0] != streams[1]).all()  # false alarm below 3e-12


# Coins


@pytest.mark.parametrize("probability", [0.001, 0.01, 0.1, 1 / 3, 0.5, 1 - 2**-53])
def test_a_coin_is_exactly_as_likely_as_its_probability(
    monkeypatch: pytest.MonkeyPatch, probability: float
) -> None:
    heads = Fraction(probability) * WORD  # so many of the 2^64 words
    assert heads.denominator == 1
    script = Script(0, int(heads) - 1, int(heads), WORD - 1)
    monkeypatch.setattr(gaussian, "SystemStream", lambda: script)
    assert SystemNoise().choose(probability, 4).tolist() == [True, True, False, False]


@pytest.mark.parametrize("probability", [0.0, 1.0, -0.5, 1.5, math.nan, 1e-4, 2.0**-65])
def test_a_probability_without_an_exact_coin_is_refused(probability: float) -> None:
    with pytest.raises(ValueError, match=r"probability|NaN"):
        SystemNoise().choose(probability, 1)


def test_coins_fall_as_often_as_they_should_and_differ_from_call_to_call() -> None:
    size = 200_000
    one, other = SystemNoise().choose(0.3, size), SystemNoise().choose(0.3, size)
    assert one.shape == (size,)
    assert one.dtype == np.bool_
    assert SystemNoise().choose(0.3, 0).shape == (0,)
    heads = stats.binom(size, 0.3)
    assert heads.ppf(5e-7) <= int(one.sum()) <= heads.isf(5e-7)  # false alarm 1e-6
    both = stats.binom(size, 0.09)
    assert both.ppf(5e-7) <= int((one & other).sum()) <= both.isf(5e-7)  # false alarm 1e-6


# The stream


def test_words_are_uniform() -> None:
    words = SystemStream().words(50_000)
    assert words.dtype == np.uint64
    for shift in range(0, 64, 8):
        counts = np.bincount(((words >> np.uint64(shift)) & np.uint64(255)).astype(np.int64))
        assert len(counts) == 256
        assert stats.chisquare(counts).pvalue > FALSE_ALARM  # false alarm 1e-6 for each byte


def test_the_stream_is_chacha20_from_its_first_block_on(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def zeros(count: int) -> bytes:
        asked.append(count)
        return bytes(count)

    monkeypatch.setattr(os, "urandom", zeros)
    words = SystemStream().words(8)
    # RFC 8439, A.1, test vector 1: key, nonce and counter all zero.
    assert words.astype("<u8").tobytes().hex() == (
        "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7"
        "da41597c5157488d7724e03fb8d84a376a43b8f41518a11cc387b669b2ee6586"
    )
    assert asked == [32, 12]  # a key and a nonce, both from the operating system


def test_a_stream_goes_on_where_it_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "urandom", lambda count: bytes(range(count)))
    whole, parts = SystemStream(), SystemStream()
    pieces: Sequence[Words] = [parts.words(count) for count in (1, 3, 700, 5)]
    assert np.concatenate(pieces).tolist() == whole.words(709).tolist()


def test_every_stream_has_its_own_key() -> None:
    values = {int(SystemStream().words(1)[0]) for _ in range(1000)}
    assert len(values) == 1000  # false alarm below 3e-14


def test_every_call_for_noise_has_its_own_stream() -> None:
    noise = SystemNoise()
    assert (noise.sample(2**80, 8) != noise.sample(2**80, 8)).all()  # false alarm below 3e-12


def test_a_stream_is_refused_across_a_fork() -> None:
    stream = SystemStream()
    stream.words(1)
    child = os.fork()
    if child == 0:
        try:
            stream.words(1)
        except RuntimeError:
            os._exit(17)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 17
    assert len(stream.words(1)) == 1


def test_two_forks_draw_different_noise() -> None:
    program = (
        "import os\n"
        "from flo.privacy.discrete_gaussian import SystemNoise\n"
        "SystemNoise().sample(2**60, 1)\n"
        "child = os.fork()\n"
        "os.write(1, b'%d\\n' % SystemNoise().sample(2**60, 1)[0])\n"
        "os.waitpid(child, 0) if child else os._exit(0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    one, other = done.stdout.split()
    assert one != other  # false alarm below 1e-9


def test_no_source_file_can_seed_randomness() -> None:
    forbidden = re.compile(
        r"manual_seed|default_rng|np\.random|numpy\.random|random\.seed|RandomState"
    )
    root = Path(flo.__file__).parent
    sources = [*root.glob("*.py"), *(f for room in ROOMS for f in (root / room).rglob("*.py"))]
    assert len(sources) > 40
    assert [str(f) for f in sources if forbidden.search(f.read_text())] == []
