"""Score bins: evaluation of studies of schema 1 and 2, which run to their end as agreed.

A held-out patient is counted by (score bin, class). Bins are public: their edges are quantiles of
the released model's log odds on made-up patients (``flo.study.synthetic``). With noisy counts P_i
(positives) and N_j (negatives), K_ij = 1 if i > j, 1/2 if i = j, else 0, the binned AUC θ solves
U(θ) = Σ_ij P_i N_j (K_ij - θ) = 0. The interval is Fieller's (1954): all θ in [0, 1] with U(θ)² <=
z²·V(θ), where V adds

* noise: with M = K - θ and noise variance s per cell, Var = s(|M n|² + |Mᵀp|²) + s²|M|²; plugging
  noisy counts in adds 2·s²|M|² on average, so V uses s(|M N|² + |MᵀP|²) - s²|M|², unbiased (and
  never less than s²|M|², the variance of noise alone);
* sampling: DeLong, DeLong, Clarke-Pearson (1988) on the histogram, de-biased likewise.

The binned AUC is not that of the scores. Of all pairs the share T = Σ_i P_i N_i / (P·N) lies in one
bin, and their order is unknown: the AUC of the scores is anywhere within T/2 of the binned one.
That is the estimate's ``bias``, and the interval includes it. Most patients of real hospitals can
lie in one bin, so schema 3 counts without bins (``flo.privacy.releases.score_waves``).
"""

from __future__ import annotations

import numpy as np

from flo.arrays import Floats
from flo.privacy.releases.score_waves import LEVEL, Estimate, Z
from flo.study import models
from flo.study.document import Study
from flo.study.parameters import Vector

_CANDIDATES = np.linspace(0.0, 1.0, 1001)


def public_edges(study: Study, weights: Vector, bins: int) -> Floats:
    """Return inner bin edges (bins - 1,): quantiles of the model's scores on made-up patients."""
    scores = np.nan_to_num(models.made_up_scores(study, weights)[:, 0])
    quantiles = np.arange(1, bins) / bins
    edges = np.nan_to_num(np.quantile(scores, quantiles))
    return np.asarray(np.maximum.accumulate(edges), dtype=np.float64)


def vectors(scores: Floats, edges: Floats) -> Floats:
    """Return 1 in the bin of each score, else 0, (n, bins); ``edges`` (bins - 1,).

    Every record is compared with every edge independently. A search in sorted edges would carry its
    range from one record to the next, so with unsorted edges one patient could move all later ones.
    """
    cell = (scores[:, None] >= edges).sum(axis=1)
    return np.asarray(np.eye(len(edges) + 1)[cell])


def auc(counts: Floats, noise_variance: float) -> Estimate:
    """Return the AUC from a (noisy) histogram (2·bins,) with that noise variance per cell.

    Negatives by bin, then positives. Only the final result is clamped. With too little signal the
    interval is [0, 1].
    """
    negative, positive = np.split(counts, 2)
    total = float(positive.sum() * negative.sum())
    raw = float(positive @ _kernel(len(negative)) @ negative) / total if total > 0 else 0.5
    centre = min(1.0, max(0.0, raw))
    theta = np.append(_CANDIDATES, centre)
    statistic, noise, sampling = _moments(theta, positive, negative, noise_variance)
    inside = theta[statistic**2 <= Z**2 * (noise + sampling)]
    low, high = (inside.min(), inside.max()) if len(inside) else (0.0, 1.0)
    spread = noise[-1] + sampling[-1]
    together = min(1.0, max(0.0, float(positive @ negative) / total)) if total > 0 else 1.0
    return Estimate(
        centre,
        float(max(0.0, min(low, centre) - together / 2)),
        float(min(1.0, max(high, centre) + together / 2)),
        LEVEL,
        float(noise[-1] / spread) if spread > 0 else 0.0,
        together / 2,
    )


def _moments(
    theta: Floats, positive: Floats, negative: Floats, noise_variance: float
) -> tuple[Floats, Floats, Floats]:
    """Return U(θ), and its variance from noise and from sampling (each >= 0), for every θ (t,)."""
    s = noise_variance
    margin = _kernel(len(negative))[None] - theta[:, None, None]
    of_positive = margin @ negative  # (t, bins): contribution of one positive in each bin
    of_negative = np.einsum("i,tij->tj", positive, margin)
    statistic = of_positive @ positive
    squares = margin**2
    noise = s * ((of_positive**2).sum(1) + (of_negative**2).sum(1)) - s**2 * squares.sum((1, 2))
    from_positive = (of_positive**2) @ positive - s * (squares.sum(2) @ positive)
    from_negative = (of_negative**2) @ negative - s * (squares.sum(1) @ negative)
    from_positive -= statistic**2 / max(positive.sum(), 1.0)
    from_negative -= statistic**2 / max(negative.sum(), 1.0)
    sampling = np.maximum(from_positive, 0) + np.maximum(from_negative, 0)
    floor = s**2 * squares.sum((1, 2))  # variance of a product of two pure noise terms
    return statistic, np.maximum(noise, floor), sampling


def _kernel(bins: int) -> Floats:
    return np.tril(np.ones((bins, bins)), -1) + 0.5 * np.eye(bins)
