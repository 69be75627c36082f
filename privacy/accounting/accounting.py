"""A study's own ε: Rényi accounting over integer orders, with PLD as a second, printed figure.

The schedule of a study (steps + retry allowance) is fixed before it runs, so σ is calibrated to (ε,
δ) by RDP minimised over orders; that is the study's guarantee. RDP: Mironov (2017), with each
mechanism's own curve; conversion: Canonne, Kamath, Steinke (2020), Proposition 12 (a test compares
it with ``dp_accounting``). All rounding is towards more privacy: σ up, ε up. PLD (the privacy loss
distribution) is an independent check, Gaussian-equivalent where the noise is discrete; it is
printed and decides no admission. So is PRV, a third opinion, by Opacus.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np

from flo.errors import StudyError
from flo.privacy.accounting.gaussian import gaussian_epsilon
from flo.privacy.mechanisms.mechanisms import FullBatchSum, Histogram, Mechanism, ScoreWaves

# dp_accounting is imported where it is used: it takes a second, and most commands do not need it.

ORDERS: tuple[int, ...] = tuple(range(2, 513))
_SIGMA_DIGITS = 4
_LARGEST_SIGMA = 1e6
_PRV_ERROR = 1e-3
_GAUSSIAN = (FullBatchSum, Histogram, ScoreWaves)  # of patients who are not sampled


Releases = tuple[tuple[Mechanism, int], ...]  # mechanisms, and how many releases of each


def epsilon_of(mechanism: Mechanism, count: int, delta: float) -> float:
    """Return ``composed_epsilon`` of ``count`` releases of one mechanism."""
    return composed_epsilon(((mechanism, count),), delta)


@lru_cache(maxsize=4096)
def composed_epsilon(releases: Releases, delta: float) -> float:
    """Return ε at ``delta`` of all these releases together, by RDP; infinite if unknown.

    Their Rényi costs add up at each order α (Mironov 2017, Proposition 1). (α, ρ)-RDP implies
    (ε, δ)-DP for ε = ρ + ln((α-1)/α) - (ln δ + ln α)/(α-1): Canonne, Kamath, Steinke (2020),
    Proposition 12. The result is the minimum over ``ORDERS``. Counts >= 0, where 0 releases have
    ε = 0; ``delta`` in (0, 1).
    """
    made = [(mechanism, count) for mechanism, count in releases if count]
    if not made:
        return 0.0
    curves = [count * mechanism.rdp_curve(np.array(ORDERS)) for mechanism, count in made]
    curve = np.sum(curves, axis=0)
    orders = np.array(ORDERS, dtype=np.float64)
    each = curve + np.log1p(-1 / orders) - (math.log(delta) + np.log(orders)) / (orders - 1)
    found = float(each.min())
    return math.inf if math.isnan(found) else max(0.0, found)  # an unknown cost must not pass as 0


def calibrate(
    make: Callable[[float], Mechanism], epsilon: float, delta: float, count: int
) -> Mechanism:
    """Return ``make(σ)`` for the smallest σ whose ``count`` releases are (ε, δ)-DP.

    σ is rounded up to 4 decimals.

    Raises:
        ValueError: unless ε > 0, 0 < δ < 1 and count >= 1.
        StudyError: σ would exceed 10^6.
    """
    if not (epsilon > 0 and 0 < delta < 1 and count >= 1):
        raise ValueError(f"cannot calibrate to epsilon={epsilon}, delta={delta}, count={count}")
    low, high = 1e-3, 1e-3
    while epsilon_of(make(high), count, delta) > epsilon:
        high *= 2
        if high > _LARGEST_SIGMA:
            raise StudyError(
                f"ε = {epsilon:g} at δ = {delta:g} needs noise of more than {_LARGEST_SIGMA:g} "
                "times the sensitivity, which leaves no usable result",
                hint="choose a larger ε, or fewer steps",
            )
    while high - low > 1e-7 * high:
        middle = (low + high) / 2
        fits = epsilon_of(make(middle), count, delta) <= epsilon
        low, high = (low, middle) if fits else (middle, high)
    found = make(sigma_up(high))
    if epsilon_of(found, count, delta) > epsilon:
        raise ValueError(f"no noise multiplier was found for epsilon={epsilon}")
    return found


def sigma_up(sigma: float) -> float:
    """Round σ up to 4 decimals: towards more privacy."""
    return float(math.ceil(sigma * 10**_SIGMA_DIGITS) / 10**_SIGMA_DIGITS)


def pld_epsilon(mechanism: Mechanism, count: int, delta: float) -> float:
    """Return ``composed_pld_epsilon`` of ``count`` releases of one mechanism."""
    return composed_pld_epsilon(((mechanism, count),), delta)


def composed_pld_epsilon(releases: Releases, delta: float) -> float:
    """Return ε of the Gaussian equivalent by PLD: exact, or discretised if patients are sampled.

    Counts >= 0 and ``delta`` in (0, 1). For discrete noise it proves no guarantee, and it decides
    no admission.
    """
    made = [(mechanism, count) for mechanism, count in releases if count]
    if not all(type(mechanism) in _GAUSSIAN for mechanism, _ in made):
        return discretised_pld_epsilon(releases, delta)
    squares = sum(count / mechanism.noise_multiplier**2 for mechanism, count in made)
    return gaussian_epsilon(math.sqrt(squares), delta) if made else 0.0


@lru_cache(maxsize=256)
def discretised_pld_epsilon(releases: Releases, delta: float) -> float:
    """Return the same by ``dp_accounting``, at most about .001 more: discretised to 1e-4.

    n Gaussians of σ equal one of σ/√n.
    """
    from dp_accounting import GaussianDpEvent, SelfComposedDpEvent
    from dp_accounting.pld import PLDAccountant

    made = [(mechanism.event, count) for mechanism, count in releases if count]
    if not made:
        return 0.0
    accountant = PLDAccountant(value_discretization_interval=1e-4)
    for event, count in made:
        if isinstance(event, GaussianDpEvent):
            accountant.compose(GaussianDpEvent(event.noise_multiplier / math.sqrt(count)))
        else:
            accountant.compose(SelfComposedDpEvent(event, count))
    return float(accountant.get_epsilon(delta))


def composed_prv_epsilon(releases: Releases, delta: float) -> float:
    """Return an upper bound on the same ε by Opacus' accountant of privacy random variables (PRV).

    Gopi, Lee, Wutschitz (2021); at most .001 above the value. It decides no admission. Opacus takes
    seconds to import.
    """
    import warnings

    from dp_accounting import GaussianDpEvent
    from opacus.accountants import PRVAccountant

    accountant = PRVAccountant()
    for mechanism, count in releases:
        event = mechanism.event
        if isinstance(event, GaussianDpEvent) and count:
            accountant.history.append((event.noise_multiplier / math.sqrt(count), 1.0, 1))
        elif count:
            accountant.history.append(
                (event.event.noise_multiplier, event.sampling_probability, count)
            )
    if not accountant.history:
        return 0.0
    with warnings.catch_warnings(), np.errstate(divide="ignore"):
        warnings.simplefilter("ignore")  # a logarithm of 0 without sampling, which is meant
        return float(accountant.get_epsilon(delta, eps_error=_PRV_ERROR))


def true_positive_rate(epsilon: float, delta: float, false_positive_rate: float = 0.01) -> float:
    """Return an attacker's largest TPR: TPR ≤ e^ε·FPR + δ and TPR ≤ 1 - e^-ε·(1 - δ - FPR).

    Kairouz, Oh, Viswanath (2015): the trade-off curve of an (ε, δ)-DP release. ε >= 0; δ, FPR and
    the result in [0, 1].
    """
    bound = math.exp(epsilon) * false_positive_rate + delta
    other = 1 - math.exp(-epsilon) * (1 - delta - false_positive_rate)
    return min(1.0, bound, other)


def rounded_up(value: float) -> float:
    """Round up to 6 decimals: towards more privacy spent, and equal on every machine."""
    return math.ceil(value * 1e6) / 1e6


def rounded_down(value: float) -> float:
    """Round down to 6 decimals, and to at least 0; for remaining budget."""
    return max(0.0, math.floor(value * 1e6) / 1e6)
