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
    Component,
    add_components,
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
    return np.concatenate(list(noise(seed, attempt, component)))


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
        (100, "32b27691bdd721263a771edf3b6b7a8506b7b10a07d3639cf1ef48a1ac0780c2"),
        (10**9 + 7, "62f590023d421baf53aeb7fba2843b2f3e858d0ed780cdf69c0044ffd20f59e2"),
        (2**80 + 1, "c710e5894f8c3f5eb7f3cdc1131ca02a40ca55bc0a04d21f20c528efd50a83af"),
    ],
)
def test_the_noise_of_a_seed_is_the_same_on_every_machine_and_in_every_version(
    variance: int, digest: str
) -> None:
    """A hospital and the coordinator make it apart; where it differed, a sum would open with both.

    The numbers of steps is part of what a seed means, so these are more than two steps.
    """
    made = whole(SEED, replace(ATTEMPT, length=2 * 2**15 + 5), Component(1, variance))
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
    add_components(noisy, [SEED], ATTEMPT, [one])
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
        add_components(noisy, chain, attempt, [one])
        total += noisy
        add(total, [(self_mask(chain[-1], attempt), True)])
        name = str(number)
        members[name] = Member(number, name * 64, None)  # type: ignore[arg-type]
        first[name] = seed
    remove(total, attempt, members, Opened(first, {}), tolerance, [one])
    level = tolerance.level(len(seeds))
    assert level == 0, "else the component would stay"
    np.testing.assert_array_equal(total, 4 * np.arange(5000, dtype=np.uint32))


def test_noise_of_another_length_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the rest of the vector would have none, or keep it."""
    one, values = Component(1, 10**9), np.zeros(5000, dtype=np.uint64)
    for length in (4999, 5001):
        with pytest.raises(ValueError, match=r"numbers|broadcast"):
            add_components(values, [SEED], replace(ATTEMPT, length=length), [one])


@pytest.mark.parametrize("ring", [32, 64])
def test_components_are_added_to_what_was_released(ring: int) -> None:
    values, seeds = np.arange(5000) - 2500, (SEED, bytes(32), b"\1" * 32)
    attempt, added = replace(ATTEMPT, ring=ring), [Component(1, 400), Component(2, 10**11)]
    expected = values + whole(SEED, attempt, added[0]) + whole(bytes(32), attempt, added[1])
    assert np.abs(expected).max() < 2**31
    total = to_ring(values, ring)
    add_components(total, seeds, attempt, added)
    np.testing.assert_array_equal(from_ring(total, ring), expected)


def test_a_component_too_small_for_the_proof_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 100 grid steps², got"):
        components(FullBatchSum(1, 0.001, 1.0), Tolerance(50, 16, 10), 50)
