"""Least squares in one round: a linear model from one noisy sum of products.

The logistic loss of a record x (an intercept appended, d numbers) with label y = ±1 is, to second
order at zero weights, log 2 - y·xᵀw/2 + (xᵀw)²/8. Its minimum over all patients is

    w = 2·(Σ x xᵀ)⁻¹ Σ y·x,

least squares, and one Newton step from zero (Huggins, Adams, Broderick 2017, "PASS-GLM", with the
Taylor polynomial). It depends on the data only through the two sums, so one release is enough
(sufficient statistics perturbation: Vu, Slavković 2009; Foulds et al. 2016).

The contribution of a patient with records X (records, d) and labels y is

    v = (u, then Xᵀy / r) / √2,   ‖v‖² = (‖u‖² + ‖Xᵀy‖²/r²)/2,

with u and r as in ``flo.privacy.releases.second_moments``, clipped to L2 norm ``clip`` as a whole;
a patient whose ‖v‖ is not finite counts as zero. This is the contribution of
``flo.privacy.mechanisms.mechanisms.FullBatchSum``: adding or removing one patient moves the sum by
at most ``clip``. All computation after the noise is post-processing.

``solve`` adds a ridge: the eigenvalues of the noise lie within 2·s·√d of 0
(``flo.privacy.releases.second_moments``; τ √2 times as large here). Eigenvalues below zero are set
to zero and 2·s·√d is added to all, so that no direction that could be noise alone is amplified
(compare AdaSSP, Wang 2018).
"""

from __future__ import annotations

import math

import numpy as np

from flo.arrays import Floats
from flo.privacy.patients.patients import Patients
from flo.privacy.releases import second_moments
from flo.protocol.messages import LARGEST_WEIGHT
from flo.study.document import Study


def length(study: Study) -> int:
    """Return the length of the sum: d(d + 1)/2 products of inputs, and d with the label."""
    return second_moments.length(study) + second_moments.width(study)


def clipped_sum(study: Study, patients: Patients) -> Floats:
    """Return the sum of all patients' v, each clipped, shape (length,).

    Raises:
        ValueError: a patient has more records than the study allows, which no snapshot has.
    """
    d, r2 = second_moments.width(study), second_moments.squared_scale(study)
    gram, with_label = np.zeros((d, d)), np.zeros(d)
    for records, signs in second_moments.blocks(study, patients):
        factors = second_moments.clip_factors(_norms(records, signs, r2), study.mechanism.clip)
        gram += second_moments.weighted_gram(records, factors)
        there = np.isfinite(factors)
        rows = np.where(there[:, None, None], records, 0.0).reshape(-1, d)
        signs = signs * np.where(there, factors, 0.0)[:, None]
        with_label += signs.ravel() @ rows
    products = gram[np.triu_indices(d)] * second_moments.scales(d) / r2
    return np.concatenate([products, with_label / math.sqrt(r2)]) / math.sqrt(2)


def solve(study: Study, total: Floats, variance: float) -> Floats:
    """Return the weights, intercept last, shape (d,), from a noisy sum (length,).

    ``variance``: of the noise in each coordinate; positive. The sum may be scaled by a factor if
    its variance is scaled accordingly.
    """
    d, r2 = second_moments.width(study), second_moments.squared_scale(study)
    gram = r2 * math.sqrt(2) * second_moments.matrix(total[:-d], d)
    with_label = math.sqrt(2 * r2) * total[-d:]
    ridge = 2 * r2 * math.sqrt(variance * d)
    values, vectors = np.linalg.eigh(gram)
    found = 2 * vectors @ ((vectors.T @ with_label) / (np.maximum(values, 0) + ridge))
    return np.asarray(np.clip(found, -LARGEST_WEIGHT, LARGEST_WEIGHT), dtype=np.float64)


def _norms(records: Floats, signs: Floats, r2: float) -> Floats:
    """Return ‖v‖ of each patient of a block, shape (patients,)."""
    with np.errstate(over="ignore", invalid="ignore"):
        products = second_moments.norms_of_products(records) / r2
        with_label = (np.matmul(signs[:, None, :], records)[:, 0] ** 2).sum(1) / r2
        return np.asarray(np.sqrt((products**2 + with_label) / 2))
