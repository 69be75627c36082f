"""Score distributions of two classes as sums of waves, which give the AUC of the scores themselves.

A score is first mapped to a public position u in [0, 1] (``flo.privacy.releases.evaluation``). A
patient of a class then adds the vector

    (√a, √b_k·cos(kπu), √b_k·sin(kπu)  for k = 1, 3, ..., 2·WAVES - 1),   a + Σ b_k = 1,

whose L2 norm is 1 at every u, so that no position wastes any noise. The odd waves are an orthogonal
basis of [0, 1] and are exactly what an AUC needs: for u, v in [0, 1]

    sign(u - v) = (4/π)·Σ_k sin(kπ(u - v))/k,

so with totals P, N and wave sums p_k = Σ e^(ikπu) of the positives, n_k of the negatives,

    AUC = 1/2 + D/(P·N),   D = (2/π)·Σ_k Im(p_k·n_k*)/k,

without any bins. b_k is proportional to 1/k: the optimal weights for counts below every threshold
(Mathias 1993, "The Hadamard operator norm of a circulant and applications"). With them the noise of
an AUC grows with the logarithm of the number of waves, whereas that of bins grows with the number
of bins. The contribution of waves beyond the last is called ``bias`` here: it is bounded by the
contribution of the second half of the waves beyond its noise, and the interval includes it.

Interval. Noise is independent of zero mean in every number, so U(θ) = D - (θ - 1/2)·P·N is unbiased
for any noise, and Fieller's (1954) set {θ: U(θ)² <= z²·V(θ)} covers without dividing by noisy
totals. V adds

* noise: of two noisy factors x and y, each of variance s per number, plugging noisy values into the
  variance adds the product of the variances twice instead of once, so it is subtracted once (and V
  is never less than that product, the variance of noise alone);
* sampling: DeLong, DeLong, Clarke-Pearson (1988), with each class's distribution function from its
  waves, de-biased likewise.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from flo.arrays import Floats

Waves = npt.NDArray[np.complex128]

WAVES = 32
LENGTH = 2 * WAVES + 1  # numbers that describe one class
LEVEL = 0.9  # how often an interval contains the AUC
Z = NormalDist().inv_cdf((1 + LEVEL) / 2)
_TOTAL = 0.3  # a: share of the squared norm for the number of patients
_CANDIDATES, _CLOSE = np.linspace(0.0, 1.0, 1001), np.linspace(-0.05, 0.05, 2001)
NOBODY = 1e-6  # totals of patients, and variances, up to this count as 0
_PLACES = 512  # positions at which a distribution is evaluated

FREQUENCIES = 2 * np.arange(WAVES) + 1.0  # k
AREA = 2 / np.pi / FREQUENCIES  # of D for each wave
_share = (1 - _TOTAL) / FREQUENCIES / (1 / FREQUENCIES).sum()  # b_k
SCALE = np.concatenate([[_TOTAL], _share, _share]) ** 0.5
# Noise variance, per unit in a release, of a total, of the real part of a wave sum, and of D for a
# wave sum of the other class of length 1.
TOTAL_NOISE, WAVE_NOISE = 1 / _TOTAL, 1 / _share
AREA_NOISE = AREA**2 * WAVE_NOISE


@dataclass(frozen=True)
class Estimate:
    """AUC with its interval.

    Attributes:
        auc: in [0, 1].
        low, high: 0 <= low <= auc <= high <= 1; noise, sampling and bias.
        level: how often such intervals contain the AUC of the model on the population that the
            patients were drawn from; in (0, 1).
        noise_share: noise's part of the variance, the rest being sampling's; in [0, 1].
        bias: bound on how far this AUC is from that of the scores themselves; in [0, 1], and
            included in the interval.
    """

    auc: float
    low: float
    high: float
    level: float
    noise_share: float
    bias: float = 0.0


def vectors(position: Floats) -> Floats:
    """Return the L2-normalised vectors (n, LENGTH) of records at positions (n,) in [0, 1]."""
    angle = np.pi * position[:, None] * FREQUENCIES
    return np.hstack([np.ones((len(position), 1)), np.cos(angle), np.sin(angle)]) * SCALE


def auc(sums: Floats, variance: float | Floats) -> Estimate:
    """Return the AUC from the (noisy) sums (2, LENGTH) of negatives and positives.

    ``variance`` >= 0: of the noise in each number, or in each of the negatives' and of the
    positives' numbers, (2,). Only the final result is clamped. With too little signal the interval
    is [0, 1].
    """
    well, ill = _classes(sums, variance)
    pairs, each = well.total * ill.total, (ill.waves * well.waves.conj()).imag * AREA
    someone = min(well.total, ill.total) > NOBODY
    raw = 0.5 + each.sum() / pairs if someone else 0.5
    centre = float(min(1.0, max(0.0, raw)))
    theta = candidates(centre)
    statistic = each.sum() - (theta - 0.5) * pairs
    noise = _noise(theta, well, ill)
    sampling = _placements(theta, ill, well, statistic)
    sampling += _placements(1 - theta, well, ill, statistic)
    bias = _beyond(each, well, ill) if someone else 0.0
    return estimated(centre, theta, statistic, (noise, sampling), bias)


def estimated(
    centre: float, theta: Floats, statistic: Floats, variances: tuple[Floats, Floats], bias: float
) -> Estimate:
    """Return the estimate ``centre``, one of the candidates θ, with its interval.

    ``statistic``: U(θ), (t,). ``variances``: of U(θ), from noise and from sampling, (t,) each.
    """
    noise, sampling = variances
    low, high = accepted(theta, statistic, noise + sampling)
    here = np.searchsorted(theta, centre)
    spread = noise[here] + sampling[here]
    return Estimate(
        centre,
        float(max(0.0, min(low, centre) - bias)),
        float(min(1.0, max(high, centre) + bias)),
        LEVEL,
        float(noise[here] / spread) if spread > 0 else 0.0,
        bias,
    )


def candidates(centre: float) -> Floats:
    """Return rising candidates for an AUC or concordance, closer around an estimate in [0, 1]."""
    return np.unique(np.clip(np.concatenate([_CANDIDATES, centre + _CLOSE]), 0.0, 1.0))


def accepted(theta: Floats, statistic: Floats, variance: Floats) -> tuple[float, float]:
    """Return the ends of Fieller's set of the candidates (t,) with these U(θ) and variances (t,).

    The next candidate on either side is included: the ends are rounded outwards.
    """
    apart = np.where(statistic == 0, 0.0, np.inf)  # in variances; exact sums may have none
    np.divide(statistic**2, variance, out=apart, where=variance > NOBODY)
    # If noise moves the estimate so far beyond [0, 1] that no AUC agrees with it, accept those that
    # disagree little more than the closest one.
    least = apart.min()
    (inside,) = np.nonzero(apart <= Z**2 + (least if least > Z**2 else 0.0))
    low, high = theta[max(inside[0] - 1, 0)], theta[min(inside[-1] + 1, len(theta) - 1)]
    return float(low), float(high)


def patients(sums: Floats) -> tuple[float, float]:
    """Return how many negatives and positives (noisy) sums (2, LENGTH) are of, at least 1 each."""
    well, ill = (max(one.total, 1.0) for one in _classes(sums, 0.0))
    return well, ill


def coefficients(values: Floats) -> Floats:
    """Return c (..., LENGTH) such that c·sums is the total over a class's patients of a function.

    ``values`` (..., places): the function at the middles of equal parts of [0, 1]. The waves are
    odd about the middle of the circle that they close, so half of the function's values at the two
    ends is taken from the total, and the rest, which has no jump then, from the waves. Noise of
    variance s in each number adds s·|c|² to the total's variance.
    """
    places = values.shape[-1]
    angle = np.pi * (np.arange(places)[:, None] + 0.5) / places * FREQUENCIES
    ends = 1.5 * (values[..., 0] + values[..., -1]) - 0.5 * (values[..., 1] + values[..., -2])
    constant = ends[..., None] / 2
    waves = (values - constant) @ np.hstack([np.cos(angle), np.sin(angle)]) * (2 / places)
    return np.concatenate([constant, waves], axis=-1) / SCALE


def of_above(places: Floats) -> Floats:
    """Return c (n, LENGTH) such that c·sums is the number of a class above each place (n,).

    Half of those at a place count. The waves beyond the last are missing.
    """
    angle = np.pi * places[:, None] * FREQUENCIES
    half = np.full((len(places), 1), 0.5)
    return np.hstack([half, -AREA * np.sin(angle), AREA * np.cos(angle)]) / SCALE


def of_total() -> Floats:
    """Return c (LENGTH,) such that c·sums is the number of a class."""
    return np.asarray(np.eye(LENGTH)[0] / SCALE)


def expected_half_width(patients: float, prevalence: float, variance: float | Floats) -> float:
    """Return the expected half width of the interval before a run, for a model of AUC about .85.

    Positions of the two classes are assumed normal around 0.39 and 0.61 with a deviation of 0.15,
    which spreads them over [0, 1]. ``patients`` > 0; ``prevalence`` in (0, 1), as one class alone
    has no AUC. The result lies in [0, 0.5].
    """
    return float(min(0.5, Z * sum(expected_variances(patients, prevalence, variance)) ** 0.5))


def expected_variances(
    patients: float, prevalence: float, variance: float | Floats
) -> tuple[float, float]:
    """Return the variances of such an AUC from noise and from sampling; as above."""
    places = (np.arange(_PLACES) + 0.5) / _PLACES
    some = [np.exp(-0.5 * ((places - 0.5 - side) / 0.15) ** 2) for side in (-0.11, 0.11)]
    one_each = np.array([vectors(places).T @ (one / one.sum()) for one in some])
    many = np.array([patients * (1 - prevalence), patients * prevalence])
    sums = many[:, None] * one_each
    well, ill = _classes(sums, variance)
    theta, pairs, zero = np.array([auc(sums, 0.0).auc]), well.total * ill.total, np.zeros(1)
    # These sums are exact: they lack the variance that noise adds to noisy sums.
    noise = _noise(theta, well, ill) + 2 * _floor(theta, well, ill)
    well, ill = _classes(sums, 0.0)
    sampling = _placements(theta, ill, well, zero) + _placements(1 - theta, well, ill, zero)
    return float(noise[0]) / pairs**2, float(sampling[0]) / pairs**2


@dataclass(frozen=True)
class _Class:
    """A class's number of patients, and Σ e^(ikπu) over them, (WAVES,).

    ``noise``: its variance in each number of the release."""

    total: float
    waves: Waves
    noise: float

    @classmethod
    def of(cls, sums: Floats, noise: float) -> _Class:
        whole = sums / SCALE
        return cls(float(whole[0]), whole[1 : WAVES + 1] + 1j * whole[WAVES + 1 :], noise)

    @property
    def lengths(self) -> Floats:
        """|Σ e^(ikπu)|², (WAVES,)."""
        return np.asarray(np.abs(self.waves) ** 2)

    def below(self, place: Floats) -> Floats:
        """Return the number below each place (n,), plus half of those at it: total/2 + sines."""
        turned = np.exp(1j * np.pi * place[:, None] * FREQUENCIES) * self.waves.conj()
        return np.asarray(self.total / 2 + turned.imag @ AREA)

    def density(self, place: Floats) -> Floats:
        """Return the number at each place (n,), per unit of position; may be below 0."""
        turned = np.exp(-1j * np.pi * place[:, None] * FREQUENCIES) * self.waves
        return np.asarray(2 * turned.real.sum(1))


def _classes(sums: Floats, variance: float | Floats) -> tuple[_Class, _Class]:
    """Return negatives and positives of (noisy) sums (2, LENGTH)."""
    well, ill = np.broadcast_to(variance, 2).tolist()
    return _Class.of(sums[0], well), _Class.of(sums[1], ill)


def _floor(theta: Floats, well: _Class, ill: _Class) -> Floats:
    """Return the variance of U(θ) from noise alone, as if there were no patients, (t,)."""
    waves = 2 * (AREA_NOISE * WAVE_NOISE).sum()
    return np.asarray(well.noise * ill.noise * (waves + ((theta - 0.5) * TOTAL_NOISE) ** 2))


def _noise(theta: Floats, well: _Class, ill: _Class) -> Floats:
    """Return the variance of U(θ) from noise, (t,)."""
    waves = (AREA_NOISE * (ill.noise * well.lengths + well.noise * ill.lengths)).sum()
    totals = TOTAL_NOISE * (ill.noise * well.total**2 + well.noise * ill.total**2)
    floor = _floor(theta, well, ill)
    return np.asarray(np.maximum(waves + (theta - 0.5) ** 2 * totals - floor, floor))


def _placements(theta: Floats, one: _Class, other: _Class, statistic: Floats) -> Floats:
    """Return the variance of U(θ) from sampling the patients of class ``one``, (t,).

    Each patient adds to U the number of the other class below, less θ times their total.
    """
    place = (np.arange(_PLACES) + 0.5) / _PLACES
    many, below = one.density(place) / _PLACES, other.below(place)
    share = theta * other.total
    squares = (many @ below**2) - 2 * share * (many @ below) + share**2 * many.sum()
    seen = other.noise * ((theta - 0.5) ** 2 * TOTAL_NOISE + AREA_NOISE.sum())
    squares = squares - one.total * seen - statistic**2 / max(one.total, 1.0)
    return np.asarray(np.maximum(squares, 0.0))


def _beyond(each: Floats, well: _Class, ill: _Class) -> float:
    """Return the second half of the waves' contribution to the AUC, beyond z times its noise."""
    half, pairs = slice(WAVES // 2, None), well.total * ill.total
    least = 2 * well.noise * ill.noise * (AREA_NOISE * WAVE_NOISE)[half].sum()
    seen = AREA_NOISE * (ill.noise * well.lengths + well.noise * ill.lengths)
    noise = seen[half].sum() - least
    added = abs(each[half].sum()) - Z * np.sqrt(max(noise, least))
    return float(min(1.0, max(0.0, added / pairs)))
