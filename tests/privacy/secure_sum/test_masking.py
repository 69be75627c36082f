"""Masks cancel in the sum of a whole cohort, bit by bit, and show nothing in anything less."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from flo.arrays import Integers
from flo.errors import TrustError
from flo.keys.identity import Identity
from flo.privacy.secure_sum.masking import Attempt, cohort_digest, masked, new_run_key, pair_secret
from flo.privacy.secure_sum.ring import Masked
from flo.protocol.deals import DealtKey
from tests.partners import signed
from tests.secure_sums import unmasked_sum

STUDY, RUN = "a" * 64, "run-1"
IDENTITIES = [Identity.new() for _ in range(6)]
HEAD = signed(IDENTITIES[0], 5)
MADE = [new_run_key(identity, STUDY, RUN, 1) for identity in IDENTITIES]


def attempt_of(members: int, length: int, ring: int = 64, **changes: Any) -> Attempt:
    cohort = cohort_digest([(key, HEAD, None) for _, key in MADE[:members]])
    base = Attempt(STUDY, RUN, "training", 1, 1, cohort, "b" * 64, ring, length)
    return replace(base, **changes)


def secrets_of(who: int, members: int) -> dict[str, bytes]:
    own = MADE[who][0]
    return {
        key.fingerprint: pair_secret(own, key) for _, key in MADE[:members] if key != MADE[who][1]
    }


def reply_of(who: int, values: Integers, attempt: Attempt, members: int) -> Masked:
    return masked(values, MADE[who][1].fingerprint, secrets_of(who, members), attempt)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 6), st.sampled_from([32, 64]), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_the_sum_of_a_whole_cohort_is_exact(
    members: int, ring: int, length: int, seed: int
) -> None:
    most = 2 ** (ring - 1) // members - 1
    values = np.random.default_rng(seed).integers(-most, most, (members, length), endpoint=True)
    values[:, 0] = most  # the extreme, all at once
    attempt = attempt_of(members, length, ring)
    replies = [reply_of(who, values[who], attempt, members) for who in range(members)]
    np.testing.assert_array_equal(unmasked_sum(replies, ring), values.sum(0))


def test_a_vector_longer_than_a_block_of_pad_is_masked_to_its_end() -> None:
    length = 3 * (1 << 16) + 7
    attempt = attempt_of(3, length, 32)
    replies = [reply_of(who, np.full(length, who), attempt, 3) for who in range(3)]
    np.testing.assert_array_equal(unmasked_sum(replies, 32), np.full(length, 3))
    for reply in replies:
        assert len(np.unique(reply)) > 0.99 * length


@pytest.mark.parametrize("ring", [32, 64])
@pytest.mark.parametrize("seen", [1, 2])
def test_without_one_of_the_cohort_the_rest_is_uniform(ring: int, seen: int) -> None:
    length = 20_000
    attempt = attempt_of(3, length, ring)
    replies = [reply_of(who, np.zeros(length, dtype=np.int64), attempt, 3) for who in range(seen)]
    left = unmasked_sum(replies, ring).astype(f"<i{ring // 8}").tobytes()
    counts = np.bincount(np.frombuffer(left, dtype=np.uint8), minlength=256)
    assert stats.chisquare(counts).pvalue > 1e-6  # false alarm 1e-6


@pytest.mark.parametrize("name", list(asdict(attempt_of(2, 8))))
def test_a_pad_serves_one_attempt_only(name: str) -> None:
    first = attempt_of(2, 8)
    others: dict[str, Any] = {"ring": 32, "length": 9, "round": 2, "attempt": 2}
    change: dict[str, Any] = {name: others.get(name, "c" * 64)}
    second = replace(first, **change)
    one = reply_of(0, np.zeros(8, dtype=np.int64), first, 2)
    two = reply_of(0, np.zeros(second.length, dtype=np.int64), second, 2)
    assert not np.isin(two.astype(np.uint64), one.astype(np.uint64)).any()  # false alarm < 2^-24


def test_the_cohort_digest_names_who_with_which_key_and_head_and_not_their_order() -> None:
    members = [(key, HEAD, None) for _, key in MADE[:3]]
    digest, (last, *_) = cohort_digest(members), members[2]
    assert cohort_digest(members[::-1]) == digest
    fresh = new_run_key(IDENTITIES[2], STUDY, RUN, 1)[1]
    others = [
        (last.model_copy(update={"epoch": 2}), HEAD, None),
        (fresh, HEAD, None),
        (MADE[3][1], HEAD, None),
        (last, signed(IDENTITIES[0], 6), None),
        (last, signed(IDENTITIES[0], 5, "d" * 64), None),
        *[
            (last, HEAD, DealtKey(number=number, key=key * 64, signature="0" * 128))
            for number, key in ((1, "e"), (2, "e"), (1, "f"))
        ],
    ]
    digests = {cohort_digest([*members[:2], other]) for other in others}
    assert len({digest, cohort_digest(members[:2]), *digests}) == 2 + len(others)


LIES: dict[str, dict[str, Any]] = {
    "another key": {"key": MADE[1][1].key},
    "another epoch": {"epoch": 2},
    "another identity": {"public": IDENTITIES[1].public.hex()},
    "no signature": {"signature": "00"},
}


@pytest.mark.parametrize("lie", LIES)
def test_a_run_key_counts_only_as_its_hospital_signed_it(lie: str) -> None:
    key = MADE[0][1]
    key.check(STUDY, RUN, IDENTITIES[0].fingerprint)
    with pytest.raises(TrustError):
        key.model_copy(update=LIES[lie]).check(STUDY, RUN, IDENTITIES[0].fingerprint)


@pytest.mark.parametrize(("study", "run"), [("d" * 64, RUN), (STUDY, "run-2")])
def test_a_run_key_counts_for_one_study_and_run(study: str, run: str) -> None:
    with pytest.raises(TrustError):
        MADE[0][1].check(study, run, IDENTITIES[0].fingerprint)


def test_another_hospitals_key_does_not_count_in_this_ones_name() -> None:
    with pytest.raises(TrustError, match="another key"):
        MADE[1][1].check(STUDY, RUN, IDENTITIES[0].fingerprint)


@pytest.mark.parametrize("key", ["00" * 32, "01" + "00" * 31, "aa", ""])
def test_a_key_that_gives_no_secret_is_refused(key: str) -> None:
    useless = MADE[0][1].model_copy(update={"key": key})
    with pytest.raises(TrustError, match="usable"):
        pair_secret(X25519PrivateKey.generate(), useless)


def test_both_of_a_pair_have_the_same_secret_and_nobody_else() -> None:
    (one, one_key), (two, two_key), (third, _) = MADE[:3]
    assert pair_secret(one, two_key) == pair_secret(two, one_key)
    assert pair_secret(third, two_key) != pair_secret(one, two_key)


def test_a_mask_without_partners_or_with_oneself_is_refused() -> None:
    own, values = MADE[0][1].fingerprint, np.zeros(8, dtype=np.int64)
    for secrets in ({}, {own: bytes(32)}):
        with pytest.raises(ValueError, match="partners"):
            masked(values, own, secrets, attempt_of(2, 8))
    with pytest.raises(ValueError, match="for an attempt of 8"):
        masked(np.zeros(7, dtype=np.int64), own, secrets_of(0, 2), attempt_of(2, 8))
