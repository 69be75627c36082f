"""A sampled sum costs what the true divergence says, and a fair coin chooses who is in it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import replace
from decimal import Decimal, localcontext
from functools import lru_cache

import numpy as np
import pytest
from scipy import stats

from flo.privacy.mechanisms.discrete_gaussian import SystemNoise
from flo.privacy.mechanisms.mechanisms import FullBatchSum, PoissonSum
from tests.builders import NoNoise
from tests.privacy.every_mechanism import FULL, SAMPLED

# -- who takes part --------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", [0.001, 0.25, 0.5, 0.999])
def test_a_coin_of_the_stated_probability_chooses_each_patient(sampling: float) -> None:
    count = 400_000
    chosen = replace(SAMPLED, sampling=sampling).choose(count, SystemNoise())
    assert chosen.shape == (count,)
    assert chosen.dtype == np.bool_
    # False alarm 1e-6 each: two-sided binomial.
    low, high = stats.binom(count, sampling).ppf([5e-7, 1 - 5e-7])
    assert low <= chosen.sum() <= high


def test_neighbouring_coins_are_independent() -> None:
    coins = replace(SAMPLED, sampling=0.5).choose(200_001, SystemNoise())
    # False alarm 1e-6: as often alike as not.
    low, high = stats.binom(200_000, 0.5).ppf([5e-7, 1 - 5e-7])
    assert low <= (coins[1:] == coins[:-1]).sum() <= high


def test_a_coin_is_drawn_anew_for_every_release() -> None:
    half, noise = replace(SAMPLED, sampling=0.5), SystemNoise()
    one, other = (half.choose(1000, noise) for _ in range(2))
    assert (one != other).any()  # false alarm 2^-1000


def test_nobody_is_chosen_from_nobody() -> None:
    assert SAMPLED.choose(0, SystemNoise()).shape == (0,)


# -- noise -----------------------------------------------------------------------------------------


def test_a_sampled_sum_has_no_noise_shares() -> None:
    with pytest.raises(ValueError, match="no proof"):
        SAMPLED.variance_steps(2)
    with pytest.raises(ValueError, match="no proof"):
        SAMPLED.release(np.zeros(7), NoNoise(), shares=2)
    assert SAMPLED.variance_steps() == FULL.variance_steps()


# -- the sampled sum's cost against the true divergence --------------------------------------------


@lru_cache(maxsize=64)
def pair(shift: tuple[int, ...], variance: int, reach: int) -> tuple[list[Decimal], list[Decimal]]:
    """Discrete Gaussians around 0 and around ``shift``, to 60 digits, over the same points."""
    with localcontext(prec=60):
        line = range(-reach, reach + max(shift) + 1)
        base, moved = [], []
        for point in itertools.product(line, repeat=len(shift)):
            away = sum((x - m) ** 2 for x, m in zip(point, shift, strict=True))
            base.append((Decimal(-sum(x * x for x in point)) / (2 * variance)).exp())
            moved.append((Decimal(-away) / (2 * variance)).exp())
        whole = sum(base), sum(moved)
        return [p / whole[0] for p in base], [p / whole[1] for p in moved]


def renyi(one: Iterable[Decimal], other: Iterable[Decimal], order: int) -> Decimal:
    """D_order(one ‖ other) of two distributions over the same points, by its definition."""
    with localcontext(prec=60):
        powers = (p**order / q ** (order - 1) for p, q in zip(one, other, strict=True))
        return sum(powers, start=Decimal(0)).ln() / (order - 1)


def both_directions(
    shift: tuple[int, ...], variance: int, sampling: float, order: int
) -> tuple[float, float]:
    """D(mixture ‖ base) and D(base ‖ mixture): the patient is added, or is taken away."""
    # order·shift is where (M/P)^order·P has its mass; 16 deviations more hold 1 - 10^-50 of it.
    base, moved = pair(shift, variance, order * max(shift) + math.ceil(16 * math.sqrt(variance)))
    with localcontext(prec=60):
        q = Decimal(sampling)
        mixture = [(1 - q) * p + q * m for p, m in zip(base, moved, strict=True)]
    return float(renyi(mixture, base, order)), float(renyi(base, mixture, order))


TRUE_PAIRS = [
    *itertools.product([(1,)], [1, 3, 40], [0.001, 0.1, 0.5, 0.999], [2, 3, 8, 24]),
    *itertools.product([(3,)], [2, 25], [0.01, 0.7], [2, 5, 16]),
    ((2, 1), 4, 0.3, 2),
    ((2, 1), 6, 0.05, 3),
]


@pytest.mark.parametrize(("shift", "variance", "sampling", "order"), TRUE_PAIRS)
def test_the_cost_of_a_sampled_sum_is_the_true_divergence_in_the_worse_direction(
    shift: tuple[int, ...], variance: int, sampling: float, order: int
) -> None:
    # A patient who moves the sum by exactly the sensitivity, a whole vector: then σ = √v/‖μ‖.
    sigma = math.sqrt(variance) / math.hypot(*shift)
    cost = PoissonSum(len(shift), sigma, 1.0, sampling).rdp(order)
    added, taken = both_directions(shift, variance, sampling, order)
    assert cost == pytest.approx(added, rel=1e-9, abs=3e-12)
    assert 0 < taken <= added


@pytest.mark.parametrize("order", [2, 3, 24, 512])
@pytest.mark.parametrize("sigma", [0.7, 3.0, 25.0])
def test_sampling_nearly_everyone_costs_nearly_what_sampling_everyone_does(
    sigma: float, order: int
) -> None:
    everyone = FullBatchSum(7, sigma, 0.5)
    nearly = PoissonSum(7, sigma, 0.5, 1 - 2**-40)
    assert nearly.rdp(order) == pytest.approx(everyone.rdp(order), rel=1e-7)
    assert PoissonSum(7, sigma, 0.5, 0.9).rdp(order) < everyone.rdp(order)


def test_the_cost_of_a_sampled_sum_at_order_two_by_hand() -> None:
    # Order 2: ln(1 + q²(e^(1/σ²) - 1)), Mironov, Talwar, Zhang (2019), eq. 5 with α = 2.
    by_hand = math.log(1 + 0.25**2 * (math.exp(1 / 3.25**2) - 1))
    assert SAMPLED.rdp(2) == pytest.approx(by_hand, rel=1e-11, abs=3e-12)


def exact_cost(sampling: float, sigma: float, order: int) -> Decimal:
    """Mironov, Talwar, Zhang (2019), eq. 5, to 60 digits."""
    with localcontext(prec=60):
        q, twice = Decimal(sampling), 2 * Decimal(sigma) ** 2
        terms = (
            math.comb(order, k)
            * (1 - q) ** (order - k)
            * q**k
            * (Decimal(k * (k - 1)) / twice).exp()
            for k in range(order + 1)
        )
        return sum(terms, start=Decimal(0)).ln() / (order - 1)


@pytest.mark.parametrize("sigma", [0.5, 2.0, 10.0, 100.0])
@pytest.mark.parametrize("sampling", [0.001, 0.05, 0.5, 0.99])
def test_the_cost_of_a_sampled_sum_is_the_formula_up_to_a_negligible_amount(
    sampling: float, sigma: float
) -> None:
    mechanism = PoissonSum(8, sigma, 0.5, sampling)
    for order in (2, 24, 512):
        exact = float(exact_cost(sampling, sigma, order))
        assert mechanism.rdp(order) == pytest.approx(exact, rel=1e-11, abs=3e-12)


def test_the_cost_of_a_sampled_sum_is_never_rounded_down() -> None:
    short = [
        (sampling, sigma, order)
        for sampling in (0.001, 0.01, 0.1)
        for sigma in (10.0, 100.0, 1e8)
        for order in (2, 24, 512)
        if Decimal(PoissonSum(8, sigma, 0.5, sampling).rdp(order))
        < exact_cost(sampling, sigma, order)
    ]
    assert short == []
