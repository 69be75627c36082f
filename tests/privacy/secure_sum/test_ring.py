"""Every sum that hospitals can make fits its ring, and comes out of it as it went in."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flo.privacy.accounting.plan import Plan, noise_shares, ring_of
from flo.privacy.mechanisms.mechanisms import GRID, FullBatchSum
from flo.privacy.secure_sum import ring
from tests.builders import NoNoise, small_study

sizes = st.integers(10, 10_000_000)
variances = st.integers(1, 2**99)


@given(st.integers(2, 1000), sizes, variances)
def test_the_ring_holds_the_largest_sum_either_way(
    hospitals: int, size: int, variance: int
) -> None:
    most = ring.max_honest_sum(hospitals, size, variance)
    assert most >= hospitals * 2 * GRID * size + 12 * variance**0.5
    bits = ring.bits(hospitals, size, variance)
    edge = np.array([most, -most, 0, -1], dtype=np.int64)
    np.testing.assert_array_equal(ring.from_ring(ring.to_ring(edge, bits), bits), edge)


def test_the_smaller_ring_is_taken_while_it_is_enough() -> None:
    assert ring.bits(4, 300, 10**12) == 32
    most = 1 << 31
    fits = (most - 12 * 2) // (2 * 2 * GRID)
    assert ring.bits(2, fits - 1, 1) == 32
    assert ring.bits(2, fits + 1, 1) == 64


def test_what_not_even_64_bits_hold_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        ring.bits(1000, 10_000_000, 2**124)


@given(st.lists(st.integers(-(2**40), 2**40), min_size=2, max_size=2))
def test_clamping_moves_no_two_sums_further_apart(pair: list[int]) -> None:
    mechanism, limit = FullBatchSum(1, 1.0, 1.0), ring.clamp_bound(40)
    one, other = (
        int(mechanism.release(np.array([v / GRID]), NoNoise(), limit=limit)[0]) for v in pair
    )
    assert abs(one - other) <= abs(pair[0] - pair[1]) + 1
    assert max(abs(one), abs(other)) <= limit


@pytest.mark.parametrize("cohort", [2, 3])
def test_a_studys_ring_holds_what_its_cohort_can_reach(cohort: int) -> None:
    document = small_study().mechanism.model_dump() | {"noise": "distributed", "masking": "on"}
    study = small_study(mechanism=document)
    for part in Plan.of(study).purposes.values():
        variance = part.mechanism.variance_steps(noise_shares(study, cohort)) * cohort
        assert ring.max_honest_sum(cohort, 40, variance) < 1 << (ring_of(study, part, cohort) - 1)


@pytest.mark.parametrize("edge", [-(2**31), 2**31 - 1])
def test_numbers_are_shortened_only_where_all_of_them_fit(edge: int) -> None:
    fits = np.array([0, edge], dtype=np.int64)
    beyond = fits + np.sign(edge)
    assert ring.as_int32_if_fits(fits).dtype == np.int32
    assert ring.as_int32_if_fits(beyond).dtype == np.int64
    for values in (fits, beyond, fits[:0]):
        np.testing.assert_array_equal(ring.as_int32_if_fits(values), values)
