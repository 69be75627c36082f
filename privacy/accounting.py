"""A study's own ε: Rényi accounting over integer orders, and PLD printed beside it.

The schedule of a study (steps + retry allowance) is fixed before it runs, so σ is calibrated to
(ε, δ) by RDP minimised over orders; that is the study's guarantee. RDP: Mironov (2017); conversion:
Canonne, Kamath, Steinke (2020), Proposition 12, as in ``dp_accounting``. All rounding is towards
more privacy: σ up, ε up. PLD (privacy loss distributions, discretisation 1e-4) is an independent
second opinion, Gaussian-equivalent where the noise is discrete; it is printed and never gates.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

# dp_accounting is imported where it is used: it takes a second, and most commands never account.

ORDERS: tuple[int, ...] = tuple(range(2, 513))
_SIGMA_DIGITS = 4


@lru_cache(maxsize=4096)
def epsilon_of(noise_multiplier: float, count: int, delta: float) -> float:
    """ε at ``delta`` of ``count`` releases with σ = ``noise_multiplier`` each, by RDP."""
    from dp_accounting import GaussianDpEvent, SelfComposedDpEvent
    from dp_accounting.rdp import RdpAccountant

    if count == 0:
        return 0.0
    accountant = RdpAccountant(orders=list(ORDERS))
    accountant.compose(SelfComposedDpEvent(GaussianDpEvent(noise_multiplier), count))
    return float(accountant.get_epsilon(delta))


@lru_cache(maxsize=64)
def calibrate(epsilon: float, delta: float, count: int) -> float:
    """Smallest σ, rounded up to 4 decimals, for which ``count`` releases are (ε, δ)-DP.

    Raises:
        ValueError: unless ε > 0, 0 < δ < 1 and count >= 1.
    """
    from dp_accounting.rdp import compute_epsilon

    if not (epsilon > 0 and 0 < delta < 1 and count >= 1):
        raise ValueError(f"cannot calibrate to epsilon={epsilon}, delta={delta}, count={count}")
    orders = np.array(ORDERS, dtype=np.float64)

    def epsilon_at(sigma: float) -> float:
        return float(compute_epsilon(orders, count * orders / (2 * sigma**2), delta)[0])

    low, high = 1e-3, 1e-3
    while epsilon_at(high) > epsilon:
        high *= 2
    while high - low > 1e-7 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if epsilon_at(middle) > epsilon else (low, middle)
    sigma = math.ceil(high * 10**_SIGMA_DIGITS) / 10**_SIGMA_DIGITS
    if epsilon_of(sigma, count, delta) > epsilon:
        raise ValueError(f"no noise multiplier was found for epsilon={epsilon}")
    return float(sigma)


@lru_cache(maxsize=64)
def pld_epsilon(noise_multiplier: float, count: int, delta: float) -> float:
    """ε of the Gaussian equivalent by PLD. ``count`` Gaussians of σ equal one of σ/√count."""
    from dp_accounting import GaussianDpEvent
    from dp_accounting.pld import PLDAccountant

    if count == 0:
        return 0.0
    accountant = PLDAccountant(value_discretization_interval=1e-4)
    accountant.compose(GaussianDpEvent(noise_multiplier / math.sqrt(count)))
    return float(accountant.get_epsilon(delta))


def true_positive_rate(epsilon: float, delta: float, false_positive_rate: float = 0.01) -> float:
    """The most an attacker can gain: TPR ≤ e^ε·FPR + δ and TPR ≤ 1 - e^-ε·(1 - δ - FPR).

    Kairouz, Oh, Viswanath (2015): the trade-off curve of an (ε, δ)-DP release.
    """
    bound = math.exp(epsilon) * false_positive_rate + delta
    other = 1 - math.exp(-epsilon) * (1 - delta - false_positive_rate)
    return min(1.0, bound, other)
