"""The one-run audit's bound: recomputed another way, and how often it accuses the innocent."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from flo.privacy.accounting.audit_bound import lower_bound, p_value

DELTA = 1e-6


def slow_p_value(canaries: int, guesses: int, right: int, epsilon: float, delta: float) -> float:
    """Theorem 5.2 as it is written, from ``scipy.stats``, term by term."""
    if right == 0:
        return 1.0
    chance = math.exp(epsilon) / (1 + math.exp(epsilon))
    below = [float(binom.cdf(k, guesses, chance)) for k in range(-1, right)]  # P[B <= k], from -1
    beta = 1 - below[right]
    alpha = max((below[right] - below[right - i]) / i for i in range(1, right + 1))
    return min(1.0, beta + 2 * canaries * delta * alpha)


@pytest.mark.parametrize("delta", [0.0, 1e-6, 1e-3])
@pytest.mark.parametrize("epsilon", [0.0, 0.5, 1.0, 4.0])
@pytest.mark.parametrize(
    ("canaries", "guesses"), [(1, 1), (10, 4), (100, 50), (1000, 500)], ids=lambda n: str(n)
)
def test_the_p_value_is_that_of_the_theorem(
    canaries: int, guesses: int, epsilon: float, delta: float
) -> None:
    for right in sorted({0, 1, guesses // 2, guesses * 3 // 4, guesses}):
        found = p_value(canaries, guesses, right, epsilon, delta)
        slow = slow_p_value(canaries, guesses, right, epsilon, delta)
        assert found == pytest.approx(slow, rel=1e-6, abs=1e-12)


def test_known_answers_without_delta() -> None:
    """With δ = 0 all right is refuted where (e^ε/(1 + e^ε))^r < 5 %: ε < -ln(.05^(-1/r) - 1)."""
    for guesses in (5, 10, 100, 500):
        expected = -math.log(0.05 ** (-1 / guesses) - 1)
        assert lower_bound(1000, guesses, guesses, 0.0) == pytest.approx(expected, abs=2e-4)


@pytest.mark.slow
@given(
    guesses=st.integers(1, 400), more=st.integers(0, 400), delta=st.sampled_from([0.0, 1e-6, 1e-4])
)
def test_more_right_guesses_never_lower_the_bound(guesses: int, more: int, delta: float) -> None:
    steps = sorted({round(guesses * part / 12) for part in range(13)})
    bounds = [lower_bound(guesses + more, guesses, right, delta) for right in steps]
    assert bounds == sorted(bounds)
    assert bounds[0] == 0


@given(right=st.integers(1, 200), delta=st.sampled_from([0.0, 1e-6, 1e-4]))
def test_a_larger_epsilon_or_delta_is_never_refuted_sooner(right: int, delta: float) -> None:
    values = [p_value(400, 200, right, epsilon, delta) for epsilon in (0.0, 0.3, 1.0, 3.0)]
    assert values == sorted(values)
    assert p_value(400, 200, right, 1.0, delta) <= p_value(400, 200, right, 1.0, 2 * delta)
    assert p_value(400, 200, right, 1.0, delta) <= p_value(800, 200, right, 1.0, delta)


def test_more_confidence_asks_for_more_evidence() -> None:
    bounds = [lower_bound(1000, 500, 400, DELTA, confidence) for confidence in (0.5, 0.95, 0.999)]
    assert bounds == sorted(bounds, reverse=True)
    assert bounds[0] > bounds[1] > bounds[2] > 0


@pytest.mark.parametrize("right", [0, 1, 250, 251])
def test_guesses_no_better_than_chance_show_nothing(right: int) -> None:
    assert lower_bound(1000, 500, right, DELTA) == 0


@pytest.mark.parametrize(
    ("canaries", "guesses", "right"), [(10, 5, 6), (5, 10, 1), (10, 5, -1), (-1, 0, 0)]
)
def test_impossible_counts_are_refused(canaries: int, guesses: int, right: int) -> None:
    with pytest.raises(ValueError, match=f"{right} right of {guesses}"):
        lower_bound(canaries, guesses, right, DELTA)


def test_no_guess_shows_nothing() -> None:
    assert lower_bound(1000, 0, 0, DELTA) == 0


# -- the innocent --------------------------------------------------------------------------------


@pytest.mark.parametrize("guesses", [50, 500])
@pytest.mark.parametrize("epsilon", [0.5, 1.0, 2.0])
def test_the_true_epsilon_is_refuted_in_at_most_one_run_of_twenty(
    epsilon: float, guesses: int
) -> None:
    """Exactly, no sampling: randomized response at ε is right with e^ε/(1 + e^ε) each time."""
    chance = 1 / (1 + math.exp(-epsilon))
    refuting = [
        right
        for right in range(guesses + 1)
        if lower_bound(guesses, guesses, right, DELTA) > epsilon
    ]
    false_alarms = float(binom.pmf(refuting, guesses, chance).sum())
    assert false_alarms <= 0.05
    assert false_alarms > 0.01  # and the bound is not wasteful
    assert refuting == list(range(min(refuting), guesses + 1))


def test_simulated_randomized_response_is_rarely_accused() -> None:
    """2,000 runs of 300 canaries at ε = 1, by coins.

    False alarms: each run refutes ε = 1 with at most 5 %, so more than 145 of 2,000 do so with a
    probability below 1e-5 (binomial).
    """
    assert binom.sf(145, 2000, 0.05) < 1e-5
    generator, runs, canaries = np.random.default_rng(), 2000, 300
    inside = generator.random((runs, canaries)) < 0.5
    honest = generator.random((runs, canaries)) < math.e / (1 + math.e)
    answers = np.where(honest, inside, ~inside)
    right = (answers == inside).sum(1)
    threshold = next(r for r in range(canaries) if lower_bound(canaries, canaries, r, DELTA) > 1)
    assert (right >= threshold).sum() <= 145
