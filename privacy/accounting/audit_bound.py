"""Empirical lower bound on privacy loss, from guesses about which canaries were included.

Steinke, Nasr, Jagielski, "Privacy Auditing with One (1) Training Run" (NeurIPS 2023), Theorem 5.2:
if m canaries were included by independent fair coins and an attacker makes r guesses (abstaining
from the rest), then under (ε, δ)-DP

    P[at least v right] <= β + 2·m·δ·α,   β = P[B >= v],   α = max_{1<=i<=v} P[v > B >= v - i]/i

with B ~ Binomial(r, e^ε/(1 + e^ε)). An ε for which that is below 1 - confidence is refuted. This
finds bugs. It can never show that ε is small: a better attack may exist.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import bdtrc, gammaln


def lower_bound(
    canaries: int, guesses: int, right: int, delta: float, confidence: float = 0.95
) -> float:
    """Return the largest ε, to 1e-4, that the guesses refute; 0 if none.

    Raises:
        ValueError: unless 0 <= right <= guesses <= canaries.
    """
    if not 0 <= right <= guesses <= canaries:
        raise ValueError(f"{right} right of {guesses} guesses about {canaries} canaries")

    def refuted(epsilon: float) -> bool:
        return p_value(canaries, guesses, right, epsilon, delta) < 1 - confidence

    low, high = 0.0, 20.0
    if not refuted(low):
        return 0.0
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low


def p_value(canaries: int, guesses: int, right: int, epsilon: float, delta: float) -> float:
    """Return the bound above: the largest probability of that many right guesses."""
    if right == 0:
        return 1.0
    chance = 1 / (1 + math.exp(-epsilon))
    beta = float(bdtrc(right - 1, guesses, chance))  # P[B >= right]
    fewer = np.arange(right - 1, -1, -1, dtype=np.float64)  # right - 1, right - 2, .., 0
    logs = gammaln(guesses + 1) - gammaln(fewer + 1) - gammaln(guesses - fewer + 1)
    logs += fewer * math.log(chance) + (guesses - fewer) * math.log1p(-chance)
    alpha = float((np.cumsum(np.exp(logs)) / np.arange(1, right + 1)).max())
    return min(1.0, beta + 2 * canaries * delta * alpha)
