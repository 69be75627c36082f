"""Evaluation: a noisy score histogram, and an AUC with an interval that can be believed.

A site counts held-out patients by (score bin, class), and a patient's records share a total weight
of 1, so one patient moves the histogram by at most 1 in L2. The coordinator sees noisy counts only
and estimates from them. Bins are public: their edges are quantiles of the released model's log odds
on made-up patients that follow the study's bounds and codebooks (``public_edges``), so nobody's
data shape them. Equal-width bins read .78 where .87 was true, because scores crowd together.
What is estimated is the AUC of the binned score; few bins hide about .02 of the exact one.

AUC. With noisy counts P_i (positives) and N_j (negatives), K_ij = 1 if i > j, 1/2 if i = j, else 0,
the binned AUC θ solves U(θ) = Σ_ij P_i N_j (K_ij - θ) = 0. Noise is independent of zero mean across
cells, so U is unbiased at the true θ whatever the noise (no clamping before the estimate).
The interval is Fieller's (1954): all θ in [0, 1] with U(θ)² ≤ z²·V(θ), where V adds

* noise: with M = K - θ and noise variance s per cell, Var = s(|M n|² + |Mᵀp|²) + s²|M|²; plugging
  noisy counts in adds 2·s²|M|² on average, so V uses s(|M N|² + |MᵀP|²) - s²|M|², unbiased
  (and never less than s²|M|², which noise alone amounts to);
* sampling: DeLong, DeLong, Clarke-Pearson (1988) on the histogram, de-biased likewise.

Dividing by noisy totals never happens, which is why the interval covers when noise is large.

Subgroups. If the study names k category columns, the histogram is counted once for each of them, by
code. A patient weighs 1 in each of the k groupings, so the norm is √k. The overall AUC comes from
the mean of the groupings' totals.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from flo import models
from flo.features import cell_of, cells, encode_category, encode_image, encode_number
from flo.privacy.histograms import weighted_counts
from flo.privacy.patients import Patients
from flo.schema import ImageColumn, NumberColumn, Schema
from flo.study import Study
from flo.vectors import Vector

Floats = npt.NDArray[np.float64]
_CANDIDATES = np.linspace(0.0, 1.0, 1001)
_MADE_UP, _MADE_UP_IMAGES, _MADE_UP_MISSING = 4096, 256, 0.1


@dataclass(frozen=True)
class Estimate:
    """AUC with its interval.

    Attributes:
        auc: of the binned score, in [0, 1].
        low, high: 0 <= low <= auc <= high <= 1.
        level: how often such intervals hold the truth, in (0, 1).
        noise_share: noise's part of the variance, the rest being sampling's; in [0, 1].
    """

    auc: float
    low: float
    high: float
    level: float
    noise_share: float


def public_edges(study: Study, weights: Vector) -> Floats:
    """Inner bin edges (bins - 1,): quantiles of the model's scores on made-up patients.

    The patients follow a Kronecker sequence (Niederreiter 1992: fractional parts of multiples of
    square roots of primes), bell-shaped within each column's bounds, even over its codes, one in
    ten missing. Same study and model, same edges, everywhere.
    """
    scores = np.nan_to_num(models.log_odds(study, weights, made_up_inputs(study.data)))
    quantiles = np.arange(1, study.evaluation.bins) / study.evaluation.bins
    edges = np.nan_to_num(np.quantile(scores, quantiles))
    return np.asarray(np.maximum.accumulate(edges), dtype=np.float64)


def groupings(study: Study) -> dict[str, list[str]]:
    """Subgroup column -> its codes; one grouping of everyone where the study names none."""
    named = study.evaluation.subgroups
    return {n: cells(study.data.category(n), 0) for n in named} or {"": ["everyone"]}


def length(study: Study) -> int:
    """Number of cells: (score bin, class) for every code of every grouping."""
    return sum(len(codes) for codes in groupings(study).values()) * 2 * study.evaluation.bins


def counts(study: Study, weights: Vector, held_out: Patients) -> Floats:
    """Exact counts of a site's held-out patients, shape (length,)."""
    scores = models.log_odds(study, weights, held_out.inputs)
    cell = cell_of_score(scores, held_out.labels, public_edges(study, weights))
    width = 2 * study.evaluation.bins
    parts = []
    for name, codes in groupings(study).items():
        code = cell_of(study.data, name, held_out.inputs, 0) if name else np.zeros_like(cell)
        parts.append(
            weighted_counts(
                np.where(cell >= 0, code * width + cell, -1),
                held_out.patient,
                held_out.count,
                len(codes) * width,
            )
        )
    return np.concatenate(parts)


def cell_of_score(scores: Floats, labels: Floats, edges: Floats) -> npt.NDArray[np.int64]:
    """Cell of each record, shape (records,): negatives by bin, then positives by bin.

    A non-finite score or a label outside {0, 1} is in no cell: -1. ``edges`` (bins - 1,). Each
    record is compared with each edge by itself: a search in sorted edges carries its range from one
    record to the next, and with edges that are not sorted one patient would move all who follow.
    """
    usable = np.isfinite(scores) & ((labels == 0) | (labels == 1))
    cell = (scores[:, None] >= edges).sum(axis=1)
    cell = cell + (len(edges) + 1) * np.where(usable, labels, 0.0).astype(np.int64)
    return np.where(usable, cell, -1)


def read(study: Study, noisy: Floats, variance: float) -> tuple[Estimate, dict[str, Estimate]]:
    """The overall estimate, and one for each ``column=code`` of the subgroups.

    ``noisy`` (length,) is a release or a sum of some, with ``variance`` in every cell.
    """
    width, start, subgroups = 2 * study.evaluation.bins, 0, {}
    grouped = groupings(study)
    for name, codes in grouped.items():
        for code in codes if name else ():
            subgroups[f"{name}={code}"] = auc(noisy[start : start + width], variance)
            start += width
    codes_in_all = sum(len(codes) for codes in grouped.values())
    total = noisy.reshape(codes_in_all, width).sum(0) / len(grouped)
    return auc(total, variance * codes_in_all / len(grouped) ** 2), subgroups


def auc(counts: Floats, noise_variance: float, level: float = 0.9) -> Estimate:
    """AUC from a (noisy) histogram of shape (2·bins,) with that noise variance per cell.

    Negatives by bin, then positives. Nothing is clamped before the very end. With too little signal
    the interval is [0, 1]. ``level`` in (0, 1).
    """
    negative, positive = np.split(counts, 2)
    total = float(positive.sum() * negative.sum())
    raw = float(positive @ _kernel(len(negative)) @ negative) / total if total > 0 else 0.5
    centre = min(1.0, max(0.0, raw))
    theta = np.append(_CANDIDATES, centre)
    statistic, noise, sampling = _moments(theta, positive, negative, noise_variance)
    inside = theta[statistic**2 <= _quantile(level) ** 2 * (noise + sampling)]
    low, high = (inside.min(), inside.max()) if len(inside) else (0.0, 1.0)
    spread = noise[-1] + sampling[-1]
    return Estimate(
        centre,
        float(min(low, centre)),
        float(max(high, centre)),
        level,
        float(noise[-1] / spread) if spread > 0 else 0.0,
    )


def expected_half_width(
    patients: float, prevalence: float, bins: int, noise_variance: float, level: float = 0.9
) -> float:
    """Half width of the interval to expect before anything runs, for a model of AUC about .85.

    Scores of the two classes are taken as normal, 1.5 standard deviations apart. ``patients`` > 0,
    ``prevalence`` and ``level`` in (0, 1): with one class alone there is no AUC
    (ZeroDivisionError). The answer lies in [0, 0.5].
    """
    normal = NormalDist()
    cuts = [3.5 * (i + 1) / bins - 1.0 for i in range(bins - 1)]
    negative = np.diff([0.0, *[normal.cdf(c) for c in cuts], 1.0]) * patients * (1 - prevalence)
    positive = np.diff([0.0, *[normal.cdf(c - 1.5) for c in cuts], 1.0]) * patients * prevalence
    total = float(positive.sum() * negative.sum())
    theta = np.array([float(positive @ _kernel(bins) @ negative) / total])
    _, _, sampling = _moments(theta, positive, negative, 0.0)
    # On exact counts the plug-in noise variance lacks what noise itself adds to it: 2·s²|M|².
    _, noise, _ = _moments(theta, positive, negative, noise_variance)
    noise = noise + 2 * noise_variance**2 * ((_kernel(bins) - theta[0]) ** 2).sum()
    return float(min(0.5, _quantile(level) * np.sqrt(noise + sampling)[0] / total))


def _moments(
    theta: Floats, positive: Floats, negative: Floats, noise_variance: float
) -> tuple[Floats, Floats, Floats]:
    """U(θ), and its variance from noise and from sampling (each >= 0), for every θ (t,)."""
    s = noise_variance
    margin = _kernel(len(negative))[None] - theta[:, None, None]
    of_positive = margin @ negative  # (t, bins): what one positive in each bin contributes
    of_negative = np.einsum("i,tij->tj", positive, margin)
    statistic = of_positive @ positive
    squares = margin**2
    noise = s * ((of_positive**2).sum(1) + (of_negative**2).sum(1)) - s**2 * squares.sum((1, 2))
    from_positive = (of_positive**2) @ positive - s * (squares.sum(2) @ positive)
    from_negative = (of_negative**2) @ negative - s * (squares.sum(1) @ negative)
    from_positive -= statistic**2 / max(positive.sum(), 1.0)
    from_negative -= statistic**2 / max(negative.sum(), 1.0)
    sampling = np.maximum(from_positive, 0) + np.maximum(from_negative, 0)
    floor = s**2 * squares.sum((1, 2))  # what two noisy factors have even around nothing
    return statistic, np.maximum(noise, floor), sampling


def made_up_inputs(schema: Schema) -> Floats:
    """Inputs (4096, d) of made-up patients, 256 of images, as ``public_edges`` describes them."""
    images = any(isinstance(column, ImageColumn) for column in schema.columns)
    number = np.arange(1, (_MADE_UP_IMAGES if images else _MADE_UP) + 1)
    parts = []
    for i, column in enumerate(schema.columns):
        if isinstance(column, ImageColumn):
            bells = [_bell(number, _prime(j)) for j in range(len(column.pixels))]
            parts.append(encode_image(column, np.concatenate(bells, axis=1)))
            continue
        u = (number * math.sqrt(_prime(2 * i))) % 1
        missing = (number * math.sqrt(_prime(2 * i + 1))) % 1 < _MADE_UP_MISSING
        missing &= column.missing == "indicator"
        if isinstance(column, NumberColumn):
            bell = _bell(number, _prime(2 * i))[:, 0]
            middle, half = (
                (column.maximum + column.minimum) / 2,
                (column.maximum - column.minimum) / 2,
            )
            parts.append(encode_number(column, np.where(missing, np.nan, middle + half * bell)))
        else:
            codes = np.minimum(u * len(column.codes), len(column.codes) - 1).astype(np.int64)
            parts.append(encode_category(column, np.where(missing, -1, codes)))
    return np.concatenate(parts, axis=1)


def _bell(number: npt.NDArray[np.int64], prime: int) -> Floats:
    """Bell-shaped in [-1, 1], shape (n, 1): a normal of standard deviation 1/3, cut."""
    u = (number * math.sqrt(prime)) % 1
    bell = np.clip(ndtri(np.clip(u, 1e-6, 1 - 1e-6)) / 3, -1, 1)
    return np.asarray(bell[:, None], dtype=np.float64)


@functools.cache
def _prime(index: int) -> int:
    """The prime number of that index: 2, 3, 5, ..."""
    candidate = 2 if index == 0 else _prime(index - 1) + 1
    while any(candidate % d == 0 for d in range(2, math.isqrt(candidate) + 1)):
        candidate += 1
    return candidate


def _kernel(bins: int) -> Floats:
    return np.tril(np.ones((bins, bins)), -1) + 0.5 * np.eye(bins)


def _quantile(level: float) -> float:
    return NormalDist().inv_cdf((1 + level) / 2)
