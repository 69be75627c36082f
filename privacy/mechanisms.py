"""Mechanisms: frozen descriptions of how patients become a release, and what each one costs.

Everything that leaves a site is a *clipped sum on a public grid with discrete Gaussian noise*:

    1. every patient's contribution is clipped to L2 norm ``clip`` (non-finite counts as zero);
    2. contributions are summed in float64;
    3. the sum is rounded to a grid of ``GRID`` = 2^16 steps per clip norm;
    4. exact discrete Gaussian integers are added.

Guarantee. For adjacent data (add or remove one patient of one hospital) the rounded sums differ by
at most Δ = (1 + 2^-10)·GRID + √length grid steps in L2: one patient moves the sum by at most
GRID steps, 2^-10 of that covers float64 error, and rounding moves each coordinate of either sum by
at most 1/2. With per-coordinate variance (σ·Δ)² the release is (α, α/(2σ²))-RDP for every α > 1:
Canonne, Kamath, Steinke (2020), Theorem 14 and its proof, ½ε²-concentrated DP with
ε² = Δ²/variance, for integer-valued queries of L2 sensitivity Δ. Sensitivity is derived here from
clip and adjacency and is never an argument.

Edges: clip 0, negative, infinite or NaN, σ <= 0 or NaN, length < 1: refused with ValueError.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from flo.errors import MessageError
from flo.privacy.discrete_gaussian import Noise

if TYPE_CHECKING:
    import dp_accounting

GRID = 1 << 16
_FLOAT_SLACK = 2.0**-10

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Kind = Literal["full-batch-sum", "score-histogram"]


@dataclass(frozen=True)
class NoisySum:
    """One noisy clipped sum over all patients of a site (sampling rate 1).

    Attributes:
        kind: what is summed: clipped gradients, or score-histogram cells (clip 1: a patient's
            records together have weight 1).
        clip: L2 bound on one patient's contribution, in the unit of what is summed; > 0.
        length: number of coordinates; >= 1.
        noise_multiplier: σ, noise standard deviation in units of the sensitivity; > 0.
    """

    kind: Kind
    clip: float
    length: int
    noise_multiplier: float

    def __post_init__(self) -> None:
        if self.kind not in ("full-batch-sum", "score-histogram"):
            raise ValueError(f"unknown mechanism kind {self.kind!r}")
        if not (math.isfinite(self.clip) and self.clip > 0):
            raise ValueError(f"clip must be positive and finite, got {self.clip}")
        if self.length < 1:
            raise ValueError(f"length must be at least 1, got {self.length}")
        if not (math.isfinite(self.noise_multiplier) and self.noise_multiplier > 0):
            raise ValueError(f"noise multiplier must be positive, got {self.noise_multiplier}")

    @property
    def sensitivity_steps(self) -> float:
        """Δ: L2 distance in grid steps between the rounded sums of adjacent data."""
        return (1 + _FLOAT_SLACK) * GRID + math.sqrt(self.length)

    def variance_steps(self, shares: int = 1) -> int:
        """Noise variance in grid steps², rounded up: (σ·Δ)² / ``shares``.

        ``shares`` = 1 for local noise; |cohort| - b for one hospital's share of distributed noise.
        """
        if shares < 1:
            raise ValueError(f"shares must be at least 1, got {shares}")
        deviation = self.noise_multiplier * self.sensitivity_steps
        return math.ceil(deviation * deviation * (1 + 1e-12) / shares)

    def release(self, total: Floats, noise: Noise, *, shares: int = 1) -> Integers:
        """Round ``total`` (length,), an exact clipped sum, to the grid and add noise."""
        if total.shape != (self.length,):
            raise ValueError(f"a sum of shape {total.shape} is not ({self.length},)")
        steps = np.rint(total * (GRID / self.clip)).astype(np.int64)
        return steps + noise.sample(self.variance_steps(shares), self.length)

    def to_real(self, steps: Integers) -> Floats:
        """Grid steps back to the unit of what was summed."""
        return steps.astype(np.float64) * (self.clip / GRID)

    @property
    def event(self) -> dp_accounting.DpEvent:
        """The Gaussian event of the same RDP; for PLD it is the Gaussian equivalent."""
        import dp_accounting

        return dp_accounting.GaussianDpEvent(self.noise_multiplier)

    def rdp(self, order: int) -> float:
        """Rényi divergence bound at ``order`` > 1: α/(2σ²)."""
        return order / (2 * self.noise_multiplier**2)

    def as_document(self) -> dict[str, Any]:
        """The mechanism as it stands in ledger, approval and report."""
        return asdict(self)


def from_document(document: Any) -> NoisySum:
    """Rebuild a mechanism. Raises MessageError for an unknown or malformed one: never free."""
    try:
        if set(document) != {"kind", "clip", "length", "noise_multiplier"}:
            raise ValueError("fields differ")
        if type(document["length"]) is not int:
            raise ValueError("length is not an integer")
        if any(type(document[name]) not in (int, float) for name in ("clip", "noise_multiplier")):
            raise ValueError("clip and noise_multiplier must be numbers")
        return NoisySum(
            document["kind"],
            float(document["clip"]),
            document["length"],
            float(document["noise_multiplier"]),
        )
    except (TypeError, ValueError, KeyError, OverflowError) as error:
        raise MessageError(f"this is not a mechanism that FLO knows: {error}") from error
