"""A masked sum is the sum, to the bit: for any cohort, after any dropout, at the ring's edge."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flo.arrays import Integers
from flo.keys.identity import Identity
from flo.privacy.secure_sum import ring
from flo.privacy.secure_sum.masking import Attempt, cohort_digest, masked, new_run_key, pair_secret
from flo.privacy.secure_sum.ring import Masked
from tests.partners import signed
from tests.secure_sums import unmasked_sum

STUDY, RUN, MODEL = "a" * 64, "run-1", "b" * 64
MADE = [new_run_key(Identity.new(), STUDY, RUN, 1) for _ in range(8)]
HEAD = signed(Identity.new(), 1)
SECRETS = {
    (one, two): pair_secret(MADE[one][0], MADE[two][1])
    for one in range(8)
    for two in range(8)
    if one != two
}


def reply_of(who: int, values: Integers, cohort: list[int], number: int, bits: int) -> Masked:
    """What a hospital sends in one attempt of this cohort."""
    named = cohort_digest([(MADE[member][1], HEAD, None) for member in cohort])
    attempt = Attempt(STUDY, RUN, "training", 1, number, named, MODEL, bits, len(values))
    secrets = {MADE[o][1].fingerprint: SECRETS[who, o] for o in cohort if o != who}
    return masked(values, MADE[who][1].fingerprint, secrets, attempt)


@st.composite
def rounds(draw: st.DrawFn) -> tuple[list[int], list[int], int, Integers]:
    """A cohort, those who answered its first attempt, a ring, and everyone's values."""
    cohort = sorted(draw(st.sets(st.integers(0, 7), min_size=3, max_size=8)))
    missing = draw(st.sets(st.sampled_from(cohort), max_size=len(cohort) - 2))
    bits, length = draw(st.sampled_from([32, 64])), draw(st.integers(1, 30))
    most = 2 ** (bits - 1) // len(cohort) - 1
    seed = draw(st.integers(0, 2**32 - 1))
    values = np.random.default_rng(seed).integers(-most, most, (8, length), endpoint=True)
    values[:, 0] = draw(st.sampled_from([most, -most, 0, -1]))
    return cohort, [member for member in cohort if member not in missing], bits, values


@settings(max_examples=60, deadline=None)
@given(rounds())
def test_the_survivors_of_a_dropout_sum_to_the_bit_and_the_lost_attempt_shows_nothing(
    case: tuple[list[int], list[int], int, Integers],
) -> None:
    cohort, survivors, bits, values = case
    for number, members in ((1, cohort), (2, survivors)):
        replies = [reply_of(who, values[who], members, number, bits) for who in members]
        exact = values[members].sum(axis=0)
        np.testing.assert_array_equal(unmasked_sum(replies, bits), exact)
        if number == 1 and survivors != cohort:
            left = [replies[cohort.index(who)] for who in survivors]
            of_survivors = values[survivors].sum(axis=0)
            assert (unmasked_sum(left, bits) == of_survivors).mean() < 0.5  # alarm 2^-32 and less


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 8), st.integers(10, 10**7), st.integers(1, 2**80), st.booleans())
def test_hospitals_at_the_very_edge_of_what_they_can_reach_do_not_wrap(
    hospitals: int, size: int, variance: int, below: bool
) -> None:
    sign = -1 if below else 1
    bits, most = (
        ring.bits(hospitals, size, variance),
        ring.max_honest_sum(hospitals, size, variance),
    )
    cohort = list(range(hospitals))
    values = np.full((hospitals, 1), sign * ring.clamp_bound(size), dtype=np.int64)
    values[0] += sign * (most - hospitals * ring.clamp_bound(size))  # all of the noise, in one
    replies = [reply_of(who, values[who], cohort, 1, bits) for who in cohort]
    assert unmasked_sum(replies, bits).tolist() == [sign * most]


@pytest.mark.parametrize("bits", [32, 64])
def test_a_sum_beyond_the_ring_comes_back_round_as_one_says(bits: int) -> None:
    most = 2 ** (bits - 1) - 1
    values = np.array([[most], [1]], dtype=np.int64)
    replies = [reply_of(who, values[who], [0, 1], 1, bits) for who in (0, 1)]
    assert unmasked_sum(replies, bits).tolist() == [-(2 ** (bits - 1))]
