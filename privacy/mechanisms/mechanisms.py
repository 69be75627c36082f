"""Mechanisms: frozen descriptions of how patients become a release, and of its privacy cost.

Every release of a site is a *clipped sum on a public grid with discrete Gaussian noise*:

    1. every patient's contribution is clipped to L2 norm ``clip`` (non-finite counts as zero);
    2. contributions are summed in float64;
    3. the sum is rounded to a grid of ``GRID`` = 2^16 steps per clip norm;
    4. exact discrete Gaussian integers are added.

Guarantee. For adjacent data (add or remove one patient of one hospital) the rounded sums differ by
at most Δ = (1 + 2^-10)·GRID + √length grid steps in L2: one patient moves the sum by at most GRID
steps, 2^-10 of that covers float64 error, and rounding moves each coordinate of either sum by at
most 1/2. With per-coordinate variance (σ·Δ)² the release is (α, α/(2σ²))-RDP for every α > 1:
Canonne, Kamath, Steinke (2020), Theorem 14 and its proof, ½ε²-concentrated DP with
ε² = Δ²/variance, for integer-valued queries of L2 sensitivity Δ. Sensitivity is derived here from
clip and adjacency and is never an argument.

| mechanism | one patient's contribution | norm ``clip`` | RDP at order α |
|---|---|---|---|
| ``FullBatchSum`` | clipped gradient, or products of inputs | chosen | α/(2σ²) |
| ``PoissonSum`` | the same, with probability q | chosen | see there |
| ``Histogram`` | weight 1 in each of ``groups`` groupings | √groups | α/(2σ²) |
| ``ScoreWaves`` | ``groups`` vectors of norm 1, each with numbers of its own | √groups | α/(2σ²) |

Noise shares. Under distributed noise n = |cohort| - b honest hospitals each add a share of variance
v = (σ·Δ)²/n. The sum of discrete Gaussians is almost a discrete Gaussian of variance n·v: by
Kairouz, Liu, Steinke (2021, "The Distributed Discrete Gaussian Mechanism for Federated Learning
with Secure Aggregation", arXiv 2102.06387, Proposition 14) the sum of the cohort is
½ε²-concentrated DP with

    ε² <= Δ²/(n·v) + τ·length/2,   τ = 10·Σ_{k=1..n-1} e^(-2π²·v·k/(k+1)) <= 10·n·e^(-π²·v).

A share of variance below 100 is refused, so τ < 10^-420 for up to 1000 hospitals, and the 10^-12 by
which variances are rounded up covers τ·length/2 for every length and any σ below 10^100. Shares of
more than n honest hospitals only add independent noise. So the sum is (α, α/(2σ²))-RDP as well.

Unequal shares. Where sums survive dropouts, a hospital's share is itself a sum of components
(``flo.privacy.secure_sum.components``). So m <= 4n variances v_1 .. v_m, each at least 100, add up
to V >= (σ·Δ)². Adding one more to a partial sum of variance S changes the logarithm of each
probability, against the discrete Gaussian of variance S + v, by at most 5·e^(-2π²·S·v/(S + v)) (the
same paper, Theorem 11), and S·v/(S + v) >= 50. So the bound above holds with V for n·v and
τ = 10·m·e^(-100π²) < 10^-420.

Edges: clip 0, negative, infinite or NaN, σ < 0.001 or NaN, length or groups < 1, q outside [0.001,
1): refused with ValueError. An unknown mechanism is refused; no mechanism is without noise.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from dataclasses import fields as dataclass_fields
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from scipy.special import gammaln, logsumexp

from flo.arrays import Floats, Integers, Mask
from flo.errors import MessageError
from flo.privacy.mechanisms.discrete_gaussian import Noise

if TYPE_CHECKING:
    import dp_accounting

GRID = 1 << 16
_FLOAT_SLACK = 2.0**-10
_SMALLEST_SAMPLING, _SMALLEST_NOISE = 0.001, 0.001
_LARGEST_LENGTH = 1 << 40
_SMALLEST_SHARE = 100  # grid steps²
_AT_ONCE = 1 << 15  # coordinates per step, so that all arrays fit the cache


@dataclass(frozen=True)
class Mechanism:
    """Base class of all mechanisms.

    Attributes:
        length: number of coordinates, in 1..2^40.
        noise_multiplier: σ, noise standard deviation in units of the sensitivity; in [0.001, ∞).
    """

    kind: ClassVar[str]

    length: int
    noise_multiplier: float

    def __post_init__(self) -> None:
        if not 1 <= self.length <= _LARGEST_LENGTH:
            raise ValueError(f"length must lie in 1..{_LARGEST_LENGTH}, got {self.length}")
        if not _SMALLEST_NOISE <= self.noise_multiplier < math.inf:
            raise ValueError(
                f"noise multiplier must lie in [{_SMALLEST_NOISE}, ∞), got {self.noise_multiplier}"
            )

    @property
    def norm(self) -> float:
        """L2 bound on one patient's contribution, in the unit of the summands."""
        raise NotImplementedError

    @property
    def sensitivity_steps(self) -> float:
        """Δ: L2 distance in grid steps between the rounded sums of adjacent data."""
        return (1 + _FLOAT_SLACK) * GRID + math.sqrt(self.length)

    def variance_steps(self, shares: int = 1) -> int:
        """Return the noise variance in grid steps², rounded up: (σ·Δ)² / ``shares``.

        ``shares`` = 1 for local noise; |cohort| - b for one hospital's share of distributed noise.

        Raises:
            ValueError: ``shares`` is below 1, or a share's variance below 100 grid steps².
        """
        if shares < 1:
            raise ValueError(f"shares must be at least 1, got {shares}")
        deviation = self.noise_multiplier * self.sensitivity_steps
        variance = math.ceil(deviation * deviation * (1 + 1e-12) / shares)
        if shares > 1 and variance < _SMALLEST_SHARE:
            raise ValueError(
                f"a noise share needs a variance of at least {_SMALLEST_SHARE} grid steps², got "
                f"{variance}"
            )
        return variance

    def choose(self, count: int, noise: Noise) -> Mask | None:
        """Sample which of ``count`` patients take part in this release; None for all."""
        return None

    def release(
        self, total: Floats, noise: Noise, *, shares: int = 1, limit: int | None = None
    ) -> Integers:
        """Round ``total`` (length,), an exact clipped sum, to the grid and add noise.

        ``total`` is float64 and finite, in the unit of ``norm``; the result is in grid steps. If
        ``limit`` is given, coordinates are first clamped to ±``limit`` grid steps, which increases
        no distance between two values; masked sums need it (``flo.privacy.secure_sum.ring``).

        Raises:
            ValueError: ``total`` has another shape, or ``shares`` is refused (``variance_steps``).
        """
        if total.shape != (self.length,):
            raise ValueError(f"the sum must have shape ({self.length},), got {total.shape}")
        noisy = noise.sample(self.variance_steps(shares), self.length)
        for start in range(0, self.length, _AT_ONCE):
            block = slice(start, start + _AT_ONCE)
            steps = np.rint(total[block] * (GRID / self.norm))
            if limit is not None:
                steps = np.clip(steps, -limit, limit)
            noisy[block] += steps.astype(np.int64)
        return noisy

    def to_real(self, steps: Integers | Floats) -> Floats:
        """Convert grid steps to the unit of the summands."""
        return np.asarray(steps, dtype=np.float64) * (self.norm / GRID)

    @property
    def event(self) -> dp_accounting.DpEvent:
        """The Gaussian event of the same RDP; for PLD it is the Gaussian equivalent."""
        import dp_accounting

        return dp_accounting.GaussianDpEvent(self.noise_multiplier)

    def rdp(self, order: int) -> float:
        """Return the Rényi divergence bound at ``order`` >= 2."""
        return float(self.rdp_curve(np.array([order]))[0])

    def rdp_curve(self, orders: Integers) -> Floats:
        """Return the same bound at many orders, shape (orders,)."""
        return np.asarray(orders / (2 * self.noise_multiplier**2), dtype=np.float64)

    def with_noise(self, noise_multiplier: float) -> Mechanism:
        """Return the same mechanism with another σ."""
        return replace(self, noise_multiplier=noise_multiplier)

    def as_document(self) -> dict[str, Any]:
        """Return the form used in ledger, approval and report."""
        return {"kind": self.kind, **asdict(self)}


@dataclass(frozen=True)
class FullBatchSum(Mechanism):
    """Sum of the clipped contributions of all patients of a site.

    A contribution is a gradient (``flo.privacy.gradients.step``), products of the patient's inputs
    (``flo.privacy.releases.second_moments``), or counts (``flo.privacy.releases.statistics``).

    Attributes:
        clip: L2 bound on one patient's contribution; positive and finite.
    """

    kind = "full-batch-sum"

    clip: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (math.isfinite(self.clip) and self.clip > 0):
            raise ValueError(f"clip must be positive and finite, got {self.clip}")

    @property
    def norm(self) -> float:
        """The clip itself."""
        return self.clip


@dataclass(frozen=True)
class PoissonSum(FullBatchSum):
    """Sum of the clipped gradients of patients sampled with probability q, independently per call.

    RDP at integer orders α, the same as for continuous noise (Mironov, Talwar, Zhang, "Rényi
    Differential Privacy of the Sampled Gaussian Mechanism", 2019, eq. 5):

        ε(α) = 1/(α-1)·log Σ_{k=0..α} C(α,k)·(1-q)^(α-k)·q^k·e^(k(k-1)/(2σ²))

    Proof for discrete noise. Fix which other patients were sampled; mixing over these with equal
    weights cannot increase the divergence (quasi-convexity). Then the release is P = N_Z(s, v·I)
    without the patient and M = (1-q)·P + q·Q with the patient, where Q is P shifted by an integer
    vector μ, ‖μ‖² <= Δ² = v/σ². Let L = Q/P.

    1. E_P[L^k] = e^(k(k-1)‖μ‖²/(2v)): completing the square shifts the lattice by the integer
       vector k·μ, which leaves its sum unchanged. With (M/P)^α = Σ C(α,k)(1-q)^(α-k)q^k·L^k,
       D_α(M‖P) is at most the formula.
    2. D_α(P‖M) is no larger. x -> 2s + μ - x swaps P and Q, so E_P[g(L)] = E_P[L·g(1/L)] for any g,
       and it is enough that h(u) + t·h(w) >= 0 for all t >= 1, with h(y) = y^α - y^(1-α),
       u = 1-q+qt >= 1 and w = 1-q+q/t <= 1. With a = ln u, b = -ln w, β = α - ½ that reads
       √u·sinh(βa) >= t·√w·sinh(βb). At β = ½ both sides are equal (u-1 = t(1-w)); uw >= 1, so
       a >= b, and sinh(βa)/sinh(βb) grows with β.

    A sum of several hospitals' discrete noise shares is not N_Z, so secure sums are not covered.

    Attributes:
        sampling: q, in [0.001, 1); a float64 of that size is an integer multiple of 2^-64, so the
            Bernoulli sampling is exact.
    """

    kind = "poisson-sum"

    sampling: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if not _SMALLEST_SAMPLING <= self.sampling < 1:
            raise ValueError(f"sampling must lie in [0.001, 1), got {self.sampling}")

    def choose(self, count: int, noise: Noise) -> Mask:
        """Sample each patient with probability q, (count,), independently in every call."""
        return noise.choose(self.sampling, count)

    def variance_steps(self, shares: int = 1) -> int:
        """Return the variance of the whole noise. Raises ValueError for shares: no proof exists."""
        if shares != 1:
            raise ValueError("sampled sums have no noise shares: there is no proof for them")
        return super().variance_steps()

    @property
    def event(self) -> dp_accounting.DpEvent:
        """The Poisson-sampled Gaussian event; for PLD it is the Gaussian equivalent."""
        import dp_accounting

        return dp_accounting.PoissonSampledDpEvent(self.sampling, super().event)

    def rdp_curve(self, orders: Integers) -> Floats:
        """Return the formula above, rounded up by more than the error of its evaluation."""
        weights = _log_binomial(self.sampling, tuple(int(order) for order in orders))
        k = np.arange(weights.shape[1])
        logs = logsumexp(weights + k * (k - 1) / (2 * self.noise_multiplier**2), axis=1)
        return np.asarray((np.maximum(logs, 0.0) * (1 + 1e-12) + 1e-12) / (orders - 1))


@dataclass(frozen=True)
class Histogram(Mechanism):
    """Counts of patients in cells, once: by column for a survey; score bins of earlier studies.

    A patient has weight 1 in each of ``groups`` groupings of the cells, divided among the patient's
    records, so the contribution's norm is at most √groups.
    """

    kind = "histogram"

    groups: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.groups <= self.length:
            raise ValueError(f"groups must lie in 1..{self.length}, got {self.groups}")

    @property
    def norm(self) -> float:
        """√groups: a patient's whole weight 1 in each grouping may be in one cell."""
        return math.sqrt(self.groups)


@dataclass(frozen=True)
class ScoreWaves(Histogram):
    """Sums of held-out patients' wave vectors, once (``flo.privacy.releases.score_waves``).

    A vector has norm 1. A patient's records share a weight of 1, and a weighted mean of vectors of
    norm 1 has norm at most 1. A patient contributes one to each grouping, and of several classes
    two: that of the own class, and those of all others together
    (``flo.privacy.releases.evaluation``). So ``groups`` such vectors have a norm of at most
    √groups, as for counts.
    """

    kind = "score-waves"


@lru_cache(maxsize=16)
def _log_binomial(probability: float, trials: tuple[int, ...]) -> Floats:
    """Return ln P[Binomial(n, probability) = k], shape (trials, max + 1), -inf for k > n."""
    n, k = np.array(trials)[:, None], np.arange(max(trials) + 1)
    rest = np.maximum(n - k, 0)
    logs = gammaln(n + 1) - gammaln(k + 1) - gammaln(rest + 1)
    logs += k * math.log(probability) + rest * math.log1p(-probability)
    return np.where(k <= n, logs, -np.inf)


_KINDS: dict[str, type[Mechanism]] = {
    mechanism.kind: mechanism for mechanism in (FullBatchSum, PoissonSum, Histogram, ScoreWaves)
}


def from_document(document: Any) -> Mechanism:
    """Rebuild a mechanism. Raises MessageError for an unknown or malformed one."""
    try:
        if type(document) is not dict:
            raise ValueError("not a document")
        fields = dict(document)
        if fields.get("kind") == "score-histogram":  # as FLO 0.1 wrote it
            if type(clip := fields.pop("clip")) is not float or clip != 1.0 or "groups" in fields:
                raise ValueError("not a histogram of one grouping")
            fields |= {"kind": "histogram", "groups": 1}
        kind = _KINDS[fields.pop("kind")]
        if set(fields) != {declared.name for declared in dataclass_fields(kind)}:
            raise ValueError("fields differ")
        for name, value in fields.items():
            whole = name in ("length", "groups")
            if type(value) is not int and (whole or type(value) is not float):
                raise ValueError(f"{name} is not a number of its kind")
            fields[name] = value if whole else float(value)
        return kind(**fields)
    except (TypeError, ValueError, KeyError, OverflowError) as error:
        raise MessageError(f"this is not a mechanism of this version of FLO: {error}") from error
