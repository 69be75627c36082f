"""The staircase gives every integer its exact mass: in exact arithmetic, and word by word."""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from flo.privacy.mechanisms import discrete_gaussian as gaussian
from tests.privacy.scripted_words import (
    BLOCKS,
    SURE_DOWN,
    SURE_UP,
    WORD,
    Script,
    Seeded,
    first_bits,
    gauss,
    place,
    tail_words,
    words_of,
)

# 127² and (2^50 - 2^40)² put the tail's start nearest to the centre: just above 8 deviations.
VARIANCES = [1, 2, 5000, 127**2, 10**6 + 7, 2380879860100, 2**99, (2**50 - 2**40) ** 2, 2**100 - 1]


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
        known = words_of(stairs, first, words[0])
        source = Script(*known, *tail, *words[1:], then=FILL, limit=9)
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


@pytest.mark.slow
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
    # U = 0 accepts all that has a chance of 2^-64 or more. Half of it is in a word of its own where
    # the block's floor is too low for the first bits to decide.
    unsure = sum(int(stairs.limits[stairs.block_of[word >> 48]]) == 0 for word in places)
    assert 0 < unsure < len(places) // 10
    script = Script(*places, *[0] * unsure, then=FILL, limit=5000)
    seen, counts = np.unique(gaussian._candidates(stairs, len(places), script), return_counts=True)
    weights = stairs.weights.tolist()
    likely = [
        x for x in range(BLOCKS) if stairs.scale * gauss(x, 7) / weights[x] > Fraction(1, WORD)
    ]
    assert dict(zip(seen.tolist(), counts.tolist(), strict=True)) == {
        x * sign: weights[x] for x in likely for sign in (1, -1)
    }


@pytest.mark.slow
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
    assert stairs.scale == usual.scale
    assert (stairs.floors <= usual.floors).all()
    for x in (0, 5, 8, 800, 2403, 8191, 8192, 8193):
        assert mass_is_in_proportion(stairs, x)


@pytest.mark.parametrize("variance", [1, 7, 300, 10**6 + 7, 2**99])
def test_floats_decide_nothing_that_exact_arithmetic_decides_otherwise(
    monkeypatch: pytest.MonkeyPatch, variance: int
) -> None:
    stairs, words = gaussian._staircase(variance), Seeded(variance).words(12_000).tolist()
    tail = [1 << 20, FILL]
    scripts = [[*pair, *tail] for pair in zip(words[::2], words[1::2], strict=True)]

    def made(stairs: gaussian._Staircase) -> list[list[int]]:
        return [propose(stairs, Script(*script, then=FILL, limit=9)) for script in scripts]

    usual = made(stairs)
    # No floor, and a margin that leaves no U to the floats unless its chance is below 2^-70.
    monkeypatch.setattr(gaussian, "_MARGIN", 2.0**70)
    nothing = np.zeros_like(stairs.floors)
    assert made(dataclasses.replace(stairs, floors=nothing, limits=nothing)) == usual
    assert sum(map(len, usual)) > 4000


@pytest.mark.parametrize("variance", [1, 7, 10**6 + 7, 2380879860100, 2**99, 2**100 - 1])
def test_first_bits_decide_only_what_all_of_them_would(variance: int) -> None:
    """The limit on a word's lower bits is the floor without its last bits, whatever the offset."""
    stairs = gaussian._staircase(variance)
    assert 4 <= stairs.bits <= 47
    assert stairs.bits + stairs.width_bits == 47
    for floor, limit in zip(stairs.floors.tolist(), stairs.limits.tolist(), strict=True):
        lowest = (limit >> stairs.width_bits) << (
            64 - stairs.bits
        )  # U that is not accepted at once
        assert limit % (1 << stairs.width_bits) == 0
        assert lowest <= floor < lowest + (1 << (64 - stairs.bits))


@pytest.mark.parametrize("variance", [1, 7, 618, 10**6 + 7, 2380879860100, 2**99])
@pytest.mark.parametrize("towards", [-math.inf, math.inf])
def test_a_machine_whose_exp_rounds_otherwise_draws_the_same_words(
    monkeypatch: pytest.MonkeyPatch, variance: int, towards: float
) -> None:
    """Else a hospital and the coordinator would make other noise from one seed."""
    stairs = gaussian._staircase(variance)
    words = Seeded(variance)
    usual, following = gaussian._candidates(stairs, 20_000, words).tolist(), words.words(1)[0]
    right = np.exp

    def otherwise(values: Any) -> Any:
        found = right(values)
        for _ in range(4):
            found = np.nextafter(found, towards)
        return found

    monkeypatch.setattr("flo.privacy.mechanisms.discrete_gaussian.np.exp", otherwise)
    again = gaussian._staircase.__wrapped__(variance)
    assert again.limits.tolist() == stairs.limits.tolist()
    assert again.block_of.tolist() == stairs.block_of.tolist()
    words = Seeded(variance)
    assert gaussian._candidates(again, 20_000, words).tolist() == usual
    assert words.words(1)[0] == following


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


# Scripted proposals


def scripted(stairs: gaussian._Staircase, first: int, uniform: int, *more: int) -> Script:
    """A proposal, the 64 bits that decide on it, and what is drawn after them."""
    return Script(*words_of(stairs, first, uniform), *more)


def propose(stairs: gaussian._Staircase, source: Script) -> list[int]:
    return [int(x) for x in gaussian._candidates(stairs, 1, source)]


@pytest.mark.parametrize("variance", [7, 10**6 + 7, 2**99])
def test_a_proposal_is_block_sign_and_place_in_the_block(variance: int) -> None:
    stairs = gaussian._staircase(variance)
    for x in (1, 5 << stairs.width_bits, (1 << stairs.width_bits) * 9 - 1):
        assert propose(stairs, scripted(stairs, place(stairs, x), 0)) == [x]
        assert propose(stairs, scripted(stairs, place(stairs, x, negative=True), 0)) == [-x]
        assert propose(stairs, scripted(stairs, place(stairs, x), WORD - 1)) == []


@pytest.mark.parametrize("variance", [1, 7, 10**6 + 7, 2**99])
def test_minus_zero_is_thrown_away(variance: int) -> None:
    stairs = gaussian._staircase(variance)
    floor = int(stairs.floors[0])
    highest = first_bits(Fraction(stairs.scale, int(stairs.weights[0])), Fraction(0), 64) - 1
    for uniform in (0, floor - 1, highest):  # below the floor, and above it
        assert propose(stairs, scripted(stairs, place(stairs, 0), uniform)) == [0]
        assert propose(stairs, scripted(stairs, place(stairs, 0, negative=True), uniform)) == []


@pytest.mark.slow
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
        assert propose(stairs, scripted(stairs, tail, 1 << 38, heads, 0)) == []


def test_the_tail_decides_by_its_own_probability() -> None:
    stairs = gaussian._staircase(127**2)
    for x in (1024, 1100):
        ratio, exponent = Fraction(stairs.scale * 2048), Fraction(x * x, 2 * 127**2)
        at = first_bits(ratio, exponent, 64)
        words = tail_words(stairs, x)
        assert at > 1
        assert propose(stairs, scripted(stairs, place(stairs, 1024), at - 1, *words)) == [x]
        assert propose(stairs, scripted(stairs, place(stairs, 1024), at + 1, *words)) == []


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
    beyond = tail_words(stairs, 1030)
    script = Script(*places, 0, *beyond)  # only the tail needs all bits of U
    assert gaussian._candidates(stairs, 3, script).tolist() == [3, 1030, -9]
    first, second, third = (words_of(stairs, word, WORD - 1) for word in places)
    script = Script(places[0], second[0], third[0], second[1], third[1], *beyond)
    assert gaussian._candidates(stairs, 3, script).tolist() == [3]
    script = Script(first[0], second[0], third[0], first[1], second[1], third[1], *beyond)
    assert gaussian._candidates(stairs, 3, script).tolist() == []
