"""Noise from a seed: exact, the same on every machine, and together exactly a level's share."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from flo.arrays import Integers
from flo.privacy.mechanisms import discrete_gaussian
from flo.privacy.mechanisms.mechanisms import FullBatchSum
from flo.privacy.secure_sum.components import (
    SEGMENT,
    Component,
    add_noise,
    components,
    noise,
    seed_after,
)
from flo.privacy.secure_sum.masking import Attempt, add, self_mask
from flo.privacy.secure_sum.ring import from_ring, to_ring
from flo.privacy.secure_sum.unmasking import Member, Opened, remove
from flo.study.tolerance import Tolerance

ATTEMPT = Attempt("a" * 64, "run-1", "training", 3, 1, "b" * 64, "c" * 64, 64, 5000)
SEED = bytes(range(32))
TOLERANCES = [Tolerance(4, 1, 1), Tolerance(7, 2, 2), Tolerance(10, 3, 3), Tolerance(50, 16, 10)]


def whole(seed: bytes, attempt: Attempt, component: Component) -> Integers:
    segments = range(-(-attempt.length // SEGMENT))
    pieces = (noise(seed, attempt, component, segment) for segment in segments)
    return np.concatenate([piece for each in pieces for piece in each])


@pytest.mark.parametrize("tolerance", TOLERANCES)
def test_base_share_and_components_add_up_to_each_levels_share(tolerance: Tolerance) -> None:
    mechanism = FullBatchSum(10, 1.7, 0.5)
    for cohort in range(tolerance.hospitals - tolerance.dropouts, tolerance.hospitals + 1):
        first = tolerance.level(cohort)
        together = mechanism.variance_steps(tolerance.shares(first))
        added = components(mechanism, tolerance, cohort)
        assert [component.level for component in added] == [*range(first + 1, tolerance.last + 1)]
        for component in added:
            together += component.variance
            assert together == mechanism.variance_steps(tolerance.shares(component.level))


@pytest.mark.parametrize(
    ("variance", "digest"),
    [
        (100, "545a07f0a2f304728dd090c938ab60ca0442089233e8e7775daba4f6dff664b0"),
        (10**9 + 7, "7a5e0399d437de34018cc48314191bfddec49e33c42c51024dcc32cb716c9592"),
        (2**80 + 1, "c93c7fc4e95dc82a57b86ea177c423d2052a38c4895a1aa6d265de63fc94589e"),
    ],
)
def test_the_noise_of_a_seed_is_the_same_on_every_machine_and_in_every_version(
    variance: int, digest: str
) -> None:
    """A hospital and the coordinator make it apart; where it differed, a sum would open with both.

    The lengths of steps and segments are part of what a seed means, so there are several of each.
    """
    made = whole(SEED, replace(ATTEMPT, length=2**20 + 2**17 + 5), Component(1, variance))
    assert hashlib.sha256(made.astype("<i8").tobytes()).hexdigest() == digest


def test_it_has_its_variance() -> None:
    """n squares over the variance: χ² with 5000 degrees; a false alarm has less than 1e-8."""
    variance = 10**7
    made = whole(SEED, ATTEMPT, Component(2, variance)).astype(np.float64)
    assert abs(float((made**2).mean()) / variance - 1) < 6 * (2 / len(made)) ** 0.5


@pytest.mark.parametrize(
    "other",
    [
        (bytes(32), ATTEMPT, Component(1, 10**9)),
        (SEED, replace(ATTEMPT, attempt=2), Component(1, 10**9)),
        (SEED, replace(ATTEMPT, cohort="d" * 64), Component(1, 10**9)),
        (SEED, ATTEMPT, Component(2, 10**9)),
        (SEED, ATTEMPT, Component(1, 10**9 + 1)),
    ],
    ids=["seed", "attempt", "cohort", "level", "variance"],
)
def test_everything_that_tells_two_components_apart_gives_other_noise(
    other: tuple[bytes, Attempt, Component],
) -> None:
    one = whole(SEED, ATTEMPT, Component(1, 10**9))
    assert np.mean(one == whole(*other)) < 0.01  # equal by chance: one in 80,000


@pytest.mark.parametrize("at_once", [7, 1000, 4999, 5000])
def test_noise_in_pieces_of_any_length_is_added_whole(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discrete_gaussian, "_AT_ONCE", at_once)
    one = Component(1, 10**9)
    expected = whole(SEED, ATTEMPT, one)
    assert expected.shape == (5000,)
    assert (expected != 0).mean() > 0.99
    noisy = np.zeros(5000, dtype=np.uint64)
    add_noise(noisy, ATTEMPT, [(SEED, one)])
    np.testing.assert_array_equal(from_ring(noisy, 64), expected)


@pytest.mark.parametrize("at_once", [7, 4999, 5000])
def test_noise_in_pieces_of_any_length_is_removed_whole(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discrete_gaussian, "_AT_ONCE", at_once)
    tolerance, one = Tolerance(4, 1, 1), Component(1, 10**9)
    seeds = [bytes([number]) * 32 for number in range(4)]
    attempt = replace(ATTEMPT, ring=32)
    total = np.zeros(5000, dtype=np.uint32)
    members, first = {}, {}
    for number, seed in enumerate(seeds):
        chain = (seed, seed_after(seed))
        noisy = np.arange(5000, dtype=np.uint32)
        add_noise(noisy, attempt, [(chain[0], one)])
        total += noisy
        add(total, [(self_mask(chain[-1], attempt), True)])
        name = str(number)
        members[name] = Member(number, name * 64, None)  # type: ignore[arg-type]
        first[name] = seed
    remove(total, attempt, members, Opened(first, {}), tolerance, [one])
    level = tolerance.level(len(seeds))
    assert level == 0, "else the component would stay"
    np.testing.assert_array_equal(total, 4 * np.arange(5000, dtype=np.uint32))


def test_noise_of_another_length_is_refused() -> None:
    """Else the rest of the vector would have none, or keep it."""
    one, values = Component(1, 10**9), np.zeros(5000, dtype=np.uint64)
    for length in (4999, 5001):
        with pytest.raises(ValueError, match=f"noise for {length} numbers, got 5000"):
            add_noise(values, replace(ATTEMPT, length=length), [(SEED, one)])


@pytest.mark.parametrize("ring", [32, 64])
def test_components_are_added_to_what_was_released(ring: int) -> None:
    values, seeds = np.arange(5000) - 2500, (SEED, bytes(32))
    attempt, added = replace(ATTEMPT, ring=ring), [Component(1, 400), Component(2, 10**11)]
    expected = values + whole(SEED, attempt, added[0]) + whole(bytes(32), attempt, added[1])
    assert np.abs(expected).max() < 2**31
    total = to_ring(values, ring)
    add_noise(total, attempt, zip(seeds, added, strict=True))
    np.testing.assert_array_equal(from_ring(total, ring), expected)


def test_no_two_segments_of_a_vector_have_the_same_noise() -> None:
    attempt = replace(ATTEMPT, length=SEGMENT + 5000)
    made = whole(SEED, attempt, Component(1, 10**9))
    assert np.mean(made[:5000] == made[SEGMENT:]) < 0.01  # equal by chance: one in 80,000


@pytest.mark.parametrize("length", [SEGMENT - 1, SEGMENT, 2 * SEGMENT + 3])
def test_a_vector_of_several_segments_loses_exactly_the_noise_it_got(length: int) -> None:
    attempt = replace(ATTEMPT, length=length, ring=32)
    seeded = [(SEED, Component(1, 10**9)), (bytes(32), Component(2, 400))]
    total = np.arange(length, dtype=np.uint32)
    add_noise(total, attempt, seeded)
    expected = sum(whole(seed, attempt, one) for seed, one in seeded) + np.arange(length)
    np.testing.assert_array_equal(total, to_ring(expected, 32))
    add_noise(total, attempt, seeded, sign=-1)
    np.testing.assert_array_equal(total, np.arange(length, dtype=np.uint32))


def test_a_component_too_small_for_the_proof_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 100 grid steps², got"):
        components(FullBatchSum(1, 0.001, 1.0), Tolerance(50, 16, 10), 50)
