"""Shamir's secret sharing: any ``threshold`` shares give the secret, fewer give nothing.

Shamir, "How to share a secret" (1979), over the integers modulo the prime 2^255 - 19. The secret is
a polynomial's value at 0; its other coefficients are uniform, from the operating system. A holder's
share is the value at the holder's number.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping
from functools import lru_cache

PRIME = 2**255 - 19


def split(secret: int, threshold: int, holders: Collection[int]) -> dict[int, int]:
    """Return holder -> share of ``secret``, both in [0, PRIME).

    Raises:
        ValueError: the secret is outside that range, ``threshold`` is below 1, or a holder's number
            is outside [1, PRIME).
    """
    if not (0 <= secret < PRIME and threshold >= 1):
        raise ValueError("a secret must lie in [0, 2^255 - 19), a threshold be at least 1")
    if not all(1 <= holder < PRIME for holder in holders):
        raise ValueError("a holder's number must lie in [1, 2^255 - 19)")
    polynomial = [secrets.randbelow(PRIME) for _ in range(threshold - 1)]
    shares = {}
    for holder in holders:
        value = 0
        for coefficient in polynomial:
            value = (value + coefficient) * holder % PRIME
        shares[holder] = (value + secret) % PRIME
    return shares


def combine(shares: Mapping[int, int]) -> int:
    """Return the secret of which these are ``threshold`` shares (holder -> share).

    More shares give it as well if all are right. Wrong shares, or too few, give another number.
    """
    holders = tuple(sorted(shares))
    weights = _weights_at_zero(holders)
    return sum(shares[holder] * weight for holder, weight in zip(holders, weights, strict=True)) % (
        PRIME
    )


@lru_cache(maxsize=64)
def _weights_at_zero(holders: tuple[int, ...]) -> tuple[int, ...]:
    """Return the Lagrange coefficients at 0 of polynomials given at ``holders``."""
    weights = []
    for holder in holders:
        above = below = 1
        for other in holders:
            if other != holder:
                above = above * other % PRIME
                below = below * (other - holder) % PRIME
        weights.append(above * pow(below, -1, PRIME) % PRIME)
    return tuple(weights)
