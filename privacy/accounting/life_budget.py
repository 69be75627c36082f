"""Lifetime budget of a ledger: (ε, δ), converted once at registration to Rényi budget at one order.

The gate of a ledger compares a plain sum of Rényi costs at one fixed order with the budget R. It
never adds or calibrates ε: converting after every study, or minimising over orders, is not proven
valid when later studies are chosen after seeing earlier results (arXiv 2309.05901, 2602.06756),
while a sum of RDP at one order fixed in advance is a valid filter (Feldman, Zrnic 2021, Thm 4.3).

There are two sub-ledgers, for patients who are trained on and for those held out: the split never
changes, so the two compose in parallel. A release from all patients is charged to both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from flo.privacy.accounting.accounting import ORDERS

SUB_LEDGERS = ("training", "evaluation")
CHARGES = {
    "moments": ("training",),
    "training": ("training",),
    "evaluation": ("evaluation",),
    "gate": ("evaluation",),
    "monitor": ("evaluation",),
    "survey": SUB_LEDGERS,
    "statistics": SUB_LEDGERS,
    "regression": SUB_LEDGERS,
}


@dataclass(frozen=True)
class LifetimeBudget:
    """(ε, δ) for one population over its whole life, and its Rényi form (order α, R).

    R is the largest Rényi divergence at α that still implies (ε, δ):
    R = ε + ln(α/(α-1)) + (ln δ + ln α)/(α-1) (Canonne, Kamath, Steinke 2020, Prop. 12), at the α
    that leaves room for the most Gaussian noise-steps, i.e. that maximises R/α.
    """

    epsilon: float
    delta: float
    order: int
    renyi: float

    @classmethod
    def create(cls, epsilon: float, delta: float) -> LifetimeBudget:
        """Choose order and R. Raises ValueError unless ε > 0 and 0 < δ < 1 give R > 0."""
        if not (epsilon > 0 and 0 < delta < 1):
            raise ValueError(
                f"a life budget needs epsilon > 0 and 0 < delta < 1, got {epsilon} and {delta}"
            )
        order = max(ORDERS, key=lambda a: _renyi(epsilon, delta, a) / a)
        renyi = _renyi(epsilon, delta, order)
        if renyi <= 0:
            raise ValueError(f"epsilon {epsilon} is too small for delta {delta}")
        return cls(epsilon, delta, order, renyi)

    def share(self, cost: float) -> float:
        """Return the fraction of the life budget that a Rényi cost takes."""
        return cost / self.renyi

    def epsilon_of(self, cost: float) -> float:
        """Return the ε, at this δ, that a Rényi cost at this order implies; 0 if it is none."""
        return max(0.0, cost - _renyi(0.0, self.delta, self.order)) if cost > 0 else 0.0

    def largest_epsilon(self, remaining: float, delta: float | None = None) -> float:
        """Return the largest study ε whose cost fits into ``remaining``, rounded down.

        A full-batch study with σ and n releases costs α·c with c = n/(2σ²); its own ε is the
        minimum over orders a of a·c plus the conversion term, at ``delta`` (default: this δ).
        ``remaining`` is Rényi budget.
        """
        if remaining <= 0:
            return 0.0
        capacity = remaining / self.order
        at = self.delta if delta is None else delta
        best = min(a * capacity - _renyi(0.0, at, a) for a in ORDERS)
        return max(0.0, math.floor(best * 1e4) / 1e4)

    def cost_of(self, epsilon: float, delta: float | None = None) -> float:
        """Return the Rényi cost of a full-batch study of that ε; inverts ``largest_epsilon``."""
        at = self.delta if delta is None else delta
        return self.order * max(0.0, *((epsilon + _renyi(0.0, at, a)) / a for a in ORDERS))


def _renyi(epsilon: float, delta: float, order: int) -> float:
    return (
        epsilon + math.log(order / (order - 1)) + (math.log(delta) + math.log(order)) / (order - 1)
    )
