"""Concordance of scores with times to an event or with quantities, from the evaluation's sums.

Patients of each code of ``flo.study.time_to_event``, or of each level of ``flo.study.quantity``,
are a class, described by sums of waves (``flo.privacy.releases.score_waves``). A set of ordered
pairs of classes (c, d) is compared. With T the totals,

    C = 1/2 + D/N,   D = (2/π)·Σ_(c,d) Σ_k Im(w_ck·w_dk*)/k,   N = Σ_(c,d) T_c·T_d,

is the share of pairs in which the patient of c has the higher score, ties counted half.

* ``between_periods``: the event in one period, and anybody who was followed through that period
  without it: Harrell's (1982) concordance of times that are known by period. Pairs within one
  period are not compared, nor with those who were last seen within it.
* ``at_horizon``: the event by a horizon, and anybody who was followed until then without it: the
  AUC of the scores at that horizon (Heagerty, Lumley, Pepe 2000), among patients of whom it is
  known. Who was last seen before it is not counted.
* ``between_levels``: a quantity's level, and any level below it. Whoever lies between two levels is
  shared between both.

No class is compared with itself, and noise is independent of zero mean in every number, so
U(θ) = D - (θ - 1/2)·N is unbiased for any noise. The interval is Fieller's, as of the AUC: U is a
quadratic form x'Bx of all numbers x, whose noise has the variance s·|(B + B')x|² + s²·|B + B'|²/2,
s of a number (norms are Frobenius'). A noisy x adds s²·|B + B'|² to the first part on average,
which is subtracted. Sampling: each patient's first-order influence on U, from the classes'
densities, less the noise in it (DeLong, DeLong, Clarke-Pearson 1988; Hoeffding 1948).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flo.arrays import Floats, Mask
from flo.privacy.releases import score_waves
from flo.privacy.releases.score_waves import LENGTH, NOBODY, Estimate, Waves, Z

_PLACES = 512  # positions at which a density is evaluated


def between_periods(sums: Floats, variance: float) -> Estimate:
    """Return the concordance between periods from (noisy) sums (codes, LENGTH)."""
    return _estimate(sums, _pairs_between_periods(len(sums)), variance)


def at_horizon(sums: Floats, horizon: int, variance: float) -> Estimate:
    """Return the AUC at a horizon, 1 for the first, from (noisy) sums (codes, LENGTH)."""
    return _estimate(sums, _pairs_at_horizon(len(sums), horizon), variance)


def between_levels(sums: Floats, variance: float) -> Estimate:
    """Return the concordance between levels from (noisy) sums (levels, LENGTH)."""
    return _estimate(sums, _pairs_between_levels(len(sums)), variance)


def expected_half_width(counts: Floats, variance: float) -> float:
    """Return the expected half width of the interval before a run, for a model of C about .85.

    ``counts``: of the patients of each code, (codes,). Positions are assumed as for an AUC
    (``flo.privacy.releases.score_waves``): those with the event around 0.61, others around 0.39.
    """
    middles = np.where(np.arange(len(counts)) % 2 == 1, 0.61, 0.39)
    return _expected(counts, middles, _pairs_between_periods(len(counts)), variance)


def expected_half_width_of_levels(patients: float, levels: int, variance: float) -> float:
    """Return the same for a quantity, for a model of C about .7.

    Equally many of the ``patients`` are assumed to be at each level, with positions around 0.39 at
    the first and around 0.61 at the last.
    """
    middles, counts = np.linspace(0.39, 0.61, levels), np.full(levels, patients / levels)
    return _expected(counts, middles, _pairs_between_levels(levels), variance)


def _expected(counts: Floats, middles: Floats, compared: Mask, variance: float) -> float:
    places = (np.arange(_PLACES) + 0.5) / _PLACES
    sums = np.zeros((len(counts), LENGTH))
    for code, (count, middle) in enumerate(zip(counts, middles, strict=True)):
        shape = np.exp(-0.5 * ((places - middle) / 0.15) ** 2)
        sums[code] = count * (score_waves.vectors(places).T @ (shape / shape.sum()))
    of = _Classes.of(sums, compared)
    theta = np.array([0.5 + float(of.each.sum()) / of.pairs])
    # These sums are exact: they lack the variance that noise adds to noisy sums.
    noise = _noise(theta, of, variance) + 2 * _least(theta, of, variance)
    spread = noise + _sampling(theta, of, np.zeros(1), 0.0)
    return float(min(0.5, Z * np.sqrt(spread)[0] / of.pairs))


def _pairs_between_periods(codes: int) -> Mask:
    """Return which classes are compared, (codes, codes): [c, d] if c had the event before d."""
    code = np.arange(codes)
    return np.asarray((code[:, None] % 2 == 1) & (code[None, :] > code[:, None]))


def _pairs_between_levels(levels: int) -> Mask:
    return np.tri(levels, k=-1, dtype=bool)


def _pairs_at_horizon(codes: int, horizon: int) -> Mask:
    code = np.arange(codes)
    had = (code % 2 == 1) & (code < 2 * horizon)
    return np.asarray(had[:, None] & (code >= 2 * horizon)[None, :])


@dataclass(frozen=True)
class _Classes:
    """Totals (codes,) and wave sums (codes, WAVES) of the classes, and which are ``compared``."""

    totals: Floats
    waves: Waves
    compared: Mask

    @classmethod
    def of(cls, sums: Floats, compared: Mask) -> _Classes:
        whole = sums / score_waves.SCALE
        half = (LENGTH + 1) // 2
        return cls(whole[:, 0], whole[:, 1:half] + 1j * whole[:, half:], compared)

    @property
    def pairs(self) -> float:
        """N."""
        return float(self.totals @ self.compared @ self.totals)

    @property
    def each(self) -> Floats:
        """The contribution to D of each wave, (WAVES,)."""
        found = (self.waves * (self.compared @ self.waves.conj())).imag.sum(0)
        return np.asarray(found * score_waves.AREA)

    @property
    def partners(self) -> tuple[Floats, Waves]:
        """By class the total of all that it is compared with; and their waves, those of later
        ones less those of earlier ones: the derivatives of N and of D."""
        both = self.compared.astype(float)
        return (both + both.T) @ self.totals, (both - both.T) @ self.waves

    @property
    def compared_with(self) -> Floats:
        """With how many others each class is compared, (codes,)."""
        return np.asarray((self.compared | self.compared.T).sum(1), dtype=np.float64)


def _estimate(sums: Floats, compared: Mask, variance: float) -> Estimate:
    of = _Classes.of(sums, compared)
    pairs, each = of.pairs, of.each
    had, other = (float(of.totals @ compared.any(axis)) for axis in (1, 0))
    someone = min(pairs, had, other) > NOBODY  # two sides below nobody have a positive product
    raw = 0.5 + float(each.sum()) / pairs if someone else 0.5
    centre = float(min(1.0, max(0.0, raw)))
    theta = score_waves.candidates(centre)
    statistic = each.sum() - (theta - 0.5) * pairs
    noise = _noise(theta, of, variance)
    sampling = _sampling(theta, of, statistic, variance)
    bias = _beyond(of, variance) if someone else 0.0
    return score_waves.estimated(centre, theta, statistic, (noise, sampling), bias)


def _noise(theta: Floats, of: _Classes, s: float) -> Floats:
    """Return the variance of U(θ) from noise of variance ``s`` in each number, (t,)."""
    totals, waves = of.partners
    of_waves = float((score_waves.AREA_NOISE * np.abs(waves) ** 2).sum())
    of_totals = score_waves.TOTAL_NOISE * float((totals**2).sum())
    least = _least(theta, of, s)
    whole = s * (of_waves + (theta - 0.5) ** 2 * of_totals)
    return np.asarray(np.maximum(whole - least, least))


def _least(theta: Floats, of: _Classes, s: float) -> Floats:
    """Return the variance of U(θ) from noise alone, as if there were no patients, (t,)."""
    added = 2 * float((score_waves.AREA_NOISE * score_waves.WAVE_NOISE).sum())
    whole = added + (theta - 0.5) ** 2 * score_waves.TOTAL_NOISE**2
    return np.asarray(s**2 * float(of.compared_with.sum()) / 2 * whole)


def _sampling(theta: Floats, of: _Classes, statistic: Floats, s: float) -> Floats:
    """Return the variance of U(θ) from sampling the patients, (t,).

    A patient of a class adds f(u) - (θ - 1/2)·t to U: f from the waves of the class's partners, t
    their total.
    """
    place = (np.arange(_PLACES) + 0.5) / _PLACES
    turned = np.exp(1j * np.pi * place[:, None] * score_waves.FREQUENCIES)  # (places, waves)
    many = 2 * (turned.conj() @ of.waves.T).real / _PLACES  # (places, codes)
    totals, waves = of.partners
    added = (turned * score_waves.AREA) @ waves.conj().T
    f, apart = added.imag, theta - 0.5
    squares = float((many * f**2).sum())
    crossed = float(((many * f).sum(0) * totals).sum())
    constant = float((many.sum(0) * totals**2).sum())
    whole = squares - 2 * apart * crossed + apart**2 * constant
    seen = float(of.totals @ of.compared_with) * s
    whole -= seen * (float(score_waves.AREA_NOISE.sum()) + apart**2 * score_waves.TOTAL_NOISE)
    whole -= (2 * statistic) ** 2 / max(float(of.totals.sum()), 1.0)
    return np.asarray(np.maximum(whole, 0.0))


def _beyond(of: _Classes, s: float) -> float:
    """Return the second half of the waves' contribution to C, beyond z times its noise."""
    half = slice(len(of.each) // 2, None)
    _, waves = of.partners
    lengths = (score_waves.AREA_NOISE * np.abs(waves) ** 2).sum(0)[half].sum()
    least = (
        s**2
        * of.compared_with.sum()
        * (score_waves.AREA_NOISE * score_waves.WAVE_NOISE)[half].sum()
    )
    noise = max(float(s * lengths - least), float(least))
    added = abs(float(of.each[half].sum())) - Z * np.sqrt(noise)
    return float(min(1.0, max(0.0, added / of.pairs)))
