"""ε of Gaussian releases together, exactly: their privacy loss distribution in closed form.

Releases of noise multipliers σ_1 .. σ_n have independent, normal privacy losses, whose sum is
normal: together they are one Gaussian whose mean one patient shifts by μ = √Σ 1/σ_i² deviations
(Dong, Roth, Su 2022, "Gaussian differential privacy", Corollary 3.3). The least δ at an ε is then

    δ(ε) = Φ(μ/2 - ε/μ) - e^ε·Φ(-μ/2 - ε/μ)

(Balle, Wang 2018, "Improving the Gaussian mechanism for differential privacy", Theorem 8).
"""

from __future__ import annotations

import math

from scipy.special import log_ndtr

_EXACT = 1e-12  # relative, of ε
_ERROR = 1e-8  # relative, more than that of δ's evaluation
_RESOLVED = (1e-4, 1e7)  # shifts between which floats resolve the difference
_SMALLEST_DELTA = 1e-30


def gaussian_epsilon(shift: float, delta: float) -> float:
    """Return the least ε >= 0 at ``delta``, rounded up.

    ``shift``: μ, positive and finite. ``delta``: in (0, 1). Raises ValueError for others.
    For a shift below 10^-4 or above 10^7, or a δ below 10^-30, it is a bound on that: Bun, Steinke
    (2016), Proposition 1.3.
    """
    if not (0 < shift < math.inf and 0 < delta < 1):
        raise ValueError(f"no ε for shift={shift} and delta={delta}")
    low, high = 0.0, shift * shift / 2 + shift * math.sqrt(-2 * math.log(delta))  # the bound
    if not _RESOLVED[0] <= shift <= _RESOLVED[1] or delta < _SMALLEST_DELTA:
        return high
    wanted = math.log(delta) - _ERROR
    if _log_delta(shift, 0.0) <= wanted:
        return 0.0
    while high - low > _EXACT * high:
        middle = (low + high) / 2
        fits = _log_delta(shift, middle) <= wanted
        low, high = (low, middle) if fits else (middle, high)
    return high


def _log_delta(shift: float, epsilon: float) -> float:
    """Return ln δ(ε)."""
    inside = float(log_ndtr(shift / 2 - epsilon / shift))
    outside = epsilon + float(log_ndtr(-shift / 2 - epsilon / shift))
    return inside + math.log(-math.expm1(outside - inside))
