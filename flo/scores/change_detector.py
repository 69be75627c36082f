"""Has a rate left its range? A detector that is looked at all the time, with a stated mean time to
a false alarm.

In each period t (a day) there are n_t trials, of which k_t are hits. Nothing has changed as long as
each trial is a hit with a probability of at most ``limit``, given all before it. For an odds factor
θ > 1 let q be the limit and q(θ) the probability with θ times its odds. The factor

    L(x) = (q(θ) / q)^x ((1 - q(θ)) / (1 - q))^(1 - x)        x = 1 for a hit, else 0

has a mean of at most 1 for every probability up to q, because the mean rises with the probability
and is 1 at q. With L_t, the product over the trials of a period,

    M_0 = 0,   M_t = (M_{t-1} + 1) L_t

is an e-detector of the Shiryaev-Roberts kind (Shin, Ramdas and Rinaldo, "E-detectors: a
nonparametric framework for sequential change detection", 2024): M_t - t is a supermartingale, also
at looks within a period, so that E M_τ <= E τ at every stopping time τ. A period without a trial
changes nothing and is not counted. Whoever raises an alarm as soon as w_k M_k >= T for any detector
k of weight w_k, Σ w_k <= 1, raises a false one within n periods with a probability of at most
Σ w_k n / T <= n / T: by Ville's inequality for each, and the sum over all, however they depend on
each other. So the mean time to a false alarm is at least Σ_n (1 - n / T) >= T / 2. (It is at least
T where each trial's probability is within its limit given all that *any* detector saw before.)

A rate that must not fall is one whose misses must not rise.
"""

from __future__ import annotations

import numpy as np
from scipy.special import expit, logit, logsumexp

from flo.arrays import Floats
from flo.scores.exact_rates import upper_end

# Alternatives of a rate, from small changes to a value that was hardly seen and now always is.
FACTORS = np.array([1.2, 2.0, 6.0, 100.0])
NOTHING = -1e9  # log M_0: so small that adding 1 gives 1, and JSON can state it
_LEAST = 1e-4  # a limit below it is taken for it


def upper_limit(hits: Floats, trials: Floats, miss: Floats | float, tolerated: float) -> Floats:
    """Return the highest rate that counts as unchanged, shape of ``hits``.

    It is the upper end of the exact interval of a rate with these hits of so many trials, missed
    with a probability of at most ``miss``, with ``tolerated`` times its odds.
    """
    ends = upper_end(hits, trials, miss)
    return times_odds(np.clip(ends, _LEAST, 1 - 1e-9), tolerated)


def times_odds(rate: Floats, factor: Floats | float) -> Floats:
    """Return rates with ``factor`` times the odds."""
    found: Floats = expit(logit(rate) + np.log(factor))
    return found


def log_factors(limit: Floats, factors: Floats = FACTORS) -> tuple[Floats, Floats]:
    """Return log L of a hit and of a miss, each with the alternatives as its last axis."""
    q = np.asarray(limit, dtype=float)[..., None]
    other = times_odds(q, factors)
    return np.log(other / q), np.log1p(-other) - np.log1p(-q)


def log_period(hits: Floats, trials: Floats, limit: Floats) -> Floats:
    """Return log L_t of the hits among the trials of a period, by alternative.

    All of shape (k,), the result (k, alternatives). A limit of 1 cannot be left: 0.
    """
    of_hit, of_miss = log_factors(np.minimum(limit, 1 - 1e-9))
    hits, misses = np.asarray(hits)[..., None], np.asarray(trials - hits)[..., None]
    return np.asarray(hits * of_hit + misses * of_miss)


def after(log_m: Floats, log_l: Floats) -> Floats:
    """Return log M after a period, or within it, from that of the period before."""
    return np.asarray(np.logaddexp(log_m, 0.0) + log_l)


def evidence(log_m: Floats) -> Floats:
    """Return the logarithm of the mean over the alternatives, the last axis."""
    found: Floats = logsumexp(log_m, axis=-1) - np.log(log_m.shape[-1])
    return found


def health(log_evidence: float, log_alarm: float) -> float:
    """Return the health score of evidence: 100 without any, 85 where it raises an alarm, and 0 at
    evidence that is hardly ever seen.

    So "85 or less" happens by chance as seldom as an alarm does.
    """
    return 100 - 15 * min(max(log_evidence / log_alarm, 0.0), 100 / 15)
