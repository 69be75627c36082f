"""Noise from a seed: exact, the same on every machine, and together exactly a level's share."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from flo.arrays import Integers
from flo.privacy.mechanisms import discrete_gaussian
from flo.privacy.mechanisms.mechanisms import FullBatchSum
from flo.privacy.secure_sum.components import Component, components, noise, with_components
from flo.privacy.secure_sum.masking import Attempt
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
        (100, "5742a75861b429a24d0a7b9090e2626c571f72c3c226fa521cab118227b08854"),
        (10**9 + 7, "c7106e107497a98c2ad48520b51fbe045bffc172f57a626d7051bf4158d6148b"),
        (2**80 + 1, "a55f367dc7ea7a9cf9b12a94ba2ec0e81aebd6f8a48bc24351b8fd33f01c409a"),
    ],
)
def test_the_noise_of_a_seed_is_the_same_on_every_machine_and_in_every_version(
    variance: int, digest: str
) -> None:
    """A hospital and the coordinator make it apart: where it differed, no sum would open."""
    made = whole(SEED, ATTEMPT, Component(1, variance))
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
    values = np.zeros(5000, dtype=np.int64)
    np.testing.assert_array_equal(with_components(values, [SEED], ATTEMPT, [one]), expected)


def test_components_are_added_to_what_was_released() -> None:
    values, seeds = np.arange(5000, dtype=np.int32), (SEED, bytes(32), b"\1" * 32)
    added = [Component(1, 400), Component(2, 900)]
    expected = values + whole(SEED, ATTEMPT, added[0]) + whole(bytes(32), ATTEMPT, added[1])
    np.testing.assert_array_equal(with_components(values, seeds, ATTEMPT, added), expected)
    assert values[1] == 1


def test_a_component_too_small_for_the_proof_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 100 grid steps², got"):
        components(FullBatchSum(1, 0.001, 1.0), Tolerance(50, 16, 10), 50)
