"""Numbers that people are shown: σ for ε, ε for σ, a life budget and the shares of it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from dp_accounting import GaussianDpEvent, SelfComposedDpEvent
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant
from hypothesis import given, settings
from hypothesis import strategies as st

from flo.privacy.accounting import (
    ORDERS,
    calibrate,
    epsilon_of,
    pld_epsilon,
    true_positive_rate,
)
from flo.privacy.life import LifeBudget

DELTA = 1e-6
SIGMAS = {0.9: 23.4506, 0.5: 40.6971, 0.3: 65.8135}

few = settings(max_examples=25, deadline=None)


def independent_epsilon(sigma: float, count: int, delta: float) -> float:
    accountant = RdpAccountant(orders=[float(order) for order in range(2, 513)])
    for _ in range(count):
        accountant.compose(GaussianDpEvent(sigma))
    return float(accountant.get_epsilon(delta))


@few
@given(st.floats(0.1, 8), st.sampled_from([1e-6, 1e-8]), st.integers(1, 40))
def test_calibration_finds_the_smallest_sigma_that_keeps_the_promise(
    epsilon: float, delta: float, count: int
) -> None:
    sigma = calibrate(epsilon, delta, count)
    assert sigma == round(sigma, 4)
    assert independent_epsilon(sigma, count, delta) <= epsilon
    assert independent_epsilon(sigma - 2e-4, count, delta) > epsilon


@few
@given(st.floats(0.5, 200), st.integers(1, 30), st.sampled_from([1e-6, 1e-9]))
def test_epsilon_is_what_dp_accounting_says(sigma: float, count: int, delta: float) -> None:
    ours = epsilon_of(sigma, count, delta)
    assert ours == pytest.approx(independent_epsilon(sigma, count, delta), rel=1e-9)


@few
@given(st.floats(5, 200), st.integers(1, 30))
def test_pld_never_exceeds_rdp(sigma: float, count: int) -> None:
    assert pld_epsilon(sigma, count, DELTA) <= epsilon_of(sigma, count, DELTA)


def test_many_gaussians_are_one_gaussian_of_a_smaller_sigma() -> None:
    accountant = PLDAccountant(value_discretization_interval=1e-4)
    accountant.compose(SelfComposedDpEvent(GaussianDpEvent(23.4506), 22))
    composed = float(accountant.get_epsilon(DELTA))
    assert pld_epsilon(23.4506, 22, DELTA) == pytest.approx(composed, rel=2e-3)
    assert epsilon_of(23.4506, 22, DELTA) == pytest.approx(
        epsilon_of(23.4506 / math.sqrt(22), 1, DELTA), rel=1e-12
    )


def test_nothing_released_costs_nothing() -> None:
    assert epsilon_of(1.0, 0, DELTA) == 0
    assert pld_epsilon(1.0, 0, DELTA) == 0


@pytest.mark.parametrize(("epsilon", "sigma"), SIGMAS.items())
def test_known_sigmas_for_22_releases(epsilon: float, sigma: float) -> None:
    # DESIGN chapter 5: 20 steps and 2 retries at delta 1e-6.
    assert calibrate(epsilon, DELTA, 22) == sigma


@pytest.mark.parametrize(
    ("epsilon", "delta", "count"),
    [(0.0, DELTA, 1), (-1.0, DELTA, 1), (0.5, 0.0, 1), (0.5, 1.0, 1), (0.5, DELTA, 0)],
)
def test_what_cannot_be_calibrated_is_refused(epsilon: float, delta: float, count: int) -> None:
    with pytest.raises(ValueError, match="calibrate"):
        calibrate(epsilon, delta, count)


@pytest.mark.parametrize(("epsilon", "order"), [(0.9, 24), (0.5, 40), (0.3, 63)])
def test_a_life_budget_is_born_at_the_order_that_leaves_most_room(
    epsilon: float, order: int
) -> None:
    life = LifeBudget.born(epsilon, DELTA)
    assert life.order == order
    # Canonne, Kamath, Steinke (2020), Proposition 12: R at this order converts back to (ε, δ).
    accountant = RdpAccountant(orders=[float(order)])
    accountant._rdp = np.array([life.renyi])
    assert float(accountant.get_epsilon(DELTA)) == pytest.approx(epsilon, rel=1e-12)
    room = [life.renyi / life.order]
    for other in ORDERS:
        term = math.log(other / (other - 1)) + math.log(DELTA * other) / (other - 1)
        room.append((epsilon + term) / other)
    assert max(room) == pytest.approx(room[0], rel=1e-12)


def test_the_renyi_budget_of_a_life_of_nine_tenths() -> None:
    assert LifeBudget.born(0.9, DELTA).renyi == pytest.approx(0.480, abs=5e-4)


@pytest.mark.parametrize(("epsilon", "share"), [(0.9, 1.0), (0.5, 0.332), (0.3, 0.127)])
def test_studies_take_known_shares_of_a_life_of_nine_tenths(epsilon: float, share: float) -> None:
    life = LifeBudget.born(0.9, DELTA)
    cost = 22 * life.order / (2 * SIGMAS[epsilon] ** 2)
    assert life.share(cost) == pytest.approx(share, abs=5e-4)
    assert cost <= life.renyi


@few
@given(
    st.sampled_from([0.3, 0.5, 0.9, 3.0]),
    st.floats(0.02, 1.0),
    st.integers(1, 40),
    st.sampled_from([1e-6, 1e-7]),
)
def test_the_largest_epsilon_fits_and_a_thousandth_more_does_not(
    life_epsilon: float, left: float, count: int, delta: float
) -> None:
    life = LifeBudget.born(life_epsilon, DELTA)
    remaining = left * life.renyi
    largest = life.largest_epsilon(remaining, delta)

    def cost(epsilon: float) -> float:
        return count * life.order / (2 * calibrate(epsilon, delta, count) ** 2)

    assert cost(largest) <= remaining
    assert cost(largest + 0.001) > remaining


def test_a_whole_life_fits_a_study_of_the_same_epsilon() -> None:
    for epsilon in (0.3, 0.5, 0.9):
        life = LifeBudget.born(epsilon, DELTA)
        assert epsilon - 1e-4 <= life.largest_epsilon(life.renyi) <= epsilon


@pytest.mark.parametrize("remaining", [0.0, -0.1])
def test_nothing_fits_into_nothing(remaining: float) -> None:
    assert LifeBudget.born(0.9, DELTA).largest_epsilon(remaining) == 0


@pytest.mark.parametrize(
    ("epsilon", "delta"), [(0.0, DELTA), (-1.0, DELTA), (0.9, 0.0), (0.9, 1.0), (0.01, DELTA)]
)
def test_a_life_without_room_is_refused(epsilon: float, delta: float) -> None:
    with pytest.raises(ValueError, match="epsilon"):
        LifeBudget.born(epsilon, delta)


def test_an_attackers_gain_is_the_tangent_of_the_trade_off_curve() -> None:
    # Kairouz, Oh, Viswanath (2015): at ε = 0 nothing is gained, at large ε everything may be.
    assert true_positive_rate(0.0, 0.0) == pytest.approx(0.01)
    assert true_positive_rate(0.9, DELTA) == pytest.approx(0.01 * math.exp(0.9) + DELTA)
    assert true_positive_rate(50.0, DELTA) == pytest.approx(1.0)
    assert true_positive_rate(0.9, DELTA, 0.9) == pytest.approx(1 - math.exp(-0.9) * 0.1, rel=1e-5)
