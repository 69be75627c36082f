"""Fits of parameters θ to moments m of a noisy release, that have mean 0 at the true θ.

With the moments' derivatives J and covariance V (noise and sampling), and a normal prior of θ of
precision P around θ₀, scoring steps lead to where

    JᵀV⁻¹m + P(θ - θ₀) = 0:

each step holds V, a running mean over the steps, and is halved until mᵀV⁻¹m + (θ - θ₀)ᵀP(θ - θ₀)
falls by a good part of what the step promises. The covariance of θ is (JᵀV⁻¹J + P)⁻¹. It is
post-processing.
"""

from __future__ import annotations

import logging
from typing import Protocol

import numpy as np

from flo.arrays import Floats

log = logging.getLogger("flo.privacy.releases.moment_fit")

_STEPS, _HALVINGS, _CLOSE = 300, 20, 1e-6  # of scoring; of a step; of θ, where it ends
_NEWER = 0.25  # how much of V is of the newest step
_ENOUGH = 0.4  # of what a step promises; one that jumps across a valley gains hardly anything


class Moments(Protocol):
    """Moments of a release as a function of θ."""

    def at(self, theta: Floats) -> tuple[Floats, Floats, Floats]:
        """Return m (q,), its derivatives by θ (q, p), and V (q, q)."""


def fitted(moments: Moments, middle: Floats, precision: Floats) -> tuple[Floats, Floats] | None:
    """Return θ (p,) and its covariance (p, p); None if no θ is found.

    ``middle``, ``precision``: of the prior, (p,) and (p, p).
    """
    theta = middle
    try:
        held = moments.at(middle)[2]
        for _ in range(_STEPS):
            m, derivatives, covariance = moments.at(theta)
            held += _NEWER * (covariance - held)  # V alone may swing between two values for ever
            weighted: Floats = np.asarray(np.linalg.pinv(held, hermitian=True))
            curved = derivatives.T @ weighted @ derivatives + precision
            uphill = -derivatives.T @ weighted @ m - precision @ (theta - middle)
            step = np.linalg.solve(curved, uphill)
            if np.abs(step).max() < _CLOSE:
                return theta, np.asarray(np.linalg.inv(curved), dtype=np.float64)

            before, tried = _apart(m, weighted, theta - middle, precision), 0
            while tried < _HALVINGS:
                there = theta + step / 2**tried
                own = moments.at(there)[0]
                less = before - _apart(own, weighted, there - middle, precision)
                if less > _ENOUGH * float(uphill @ step) / 2**tried:
                    break
                tried += 1
            theta = there
    except np.linalg.LinAlgError:
        log.warning("a release has numbers that are not finite, so nothing is fitted to it")
        return None
    log.warning("nothing is found that fits a release")
    return None


def _apart(m: Floats, weighted: Floats, from_middle: Floats, precision: Floats) -> float:
    return float(m @ weighted @ m + from_middle @ precision @ from_middle)
