"""Least squares in one round: a linear model from one noisy sum of products.

The logistic loss of a record x (an intercept appended, d numbers) with label y = ±1 is, to second
order at zero weights, log 2 - y·xᵀw/2 + (xᵀw)²/8. Its minimum over all patients is

    w = 2·(Σ x xᵀ)⁻¹ Σ y·x,

least squares, and one Newton step from zero (Huggins, Adams, Broderick 2017, "PASS-GLM", with the
Taylor polynomial). It depends on the data only through the two sums, so one release is enough
(sufficient statistics perturbation: Vu, Slavković 2009; Foulds et al. 2016).

The contribution of a patient with records X (records, d) and labels y, with r² = 1 + the study's
number of columns, so that one record within its bounds has a norm of about 1 or less, is

    u = (G_ii, then √2·G_ij for i < j, each / r²; then Xᵀy / r) / √2,   G = XᵀX,
    ‖u‖² = (‖G‖²/r⁴ + ‖Xᵀy‖²/r²)/2,   ‖G‖ = ‖X Xᵀ‖ (Frobenius),

clipped to L2 norm ``clip`` as a whole; a patient whose ‖u‖ is not finite counts as zero. This is
the contribution of ``flo.privacy.mechanisms.mechanisms.FullBatchSum``: adding or removing one
patient moves the sum by at most ``clip``. All computation after the noise is post-processing.

Patients are processed in zero-padded blocks of one shape, which depends on the study only. The
float64 error of the sum of n records, B at a time, is less than (n/B + B)·n·2^-53·clip, 10^-5·clip
for ten million; the mechanism's slack is 2^-10·clip.

``solve`` adds a ridge. Off the diagonal the noise in Σ x xᵀ has deviation s = r²·τ (τ: of a
coordinate of u's sum), on it √2·s: a Gaussian orthogonal ensemble, whose eigenvalues lie within
2·s·√d of 0 (Wigner 1955). Eigenvalues below zero are set to zero and 2·s·√d is added to all, so
that no direction that could be noise alone is amplified (compare AdaSSP, Wang 2018).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from flo.arrays import Floats
from flo.privacy.patients.patients import Patients
from flo.protocol.messages import LARGEST_WEIGHT
from flo.study.document import Study
from flo.study.features import input_names

_BLOCK = 4096  # records, a power of two
_TINY = 1e-300


def length(study: Study) -> int:
    """Return the length of the sum: d(d + 1)/2 products of inputs, and d with the label."""
    d = len(input_names(study.data)) + 1
    return d * (d + 1) // 2 + d


def clipped_sum(study: Study, patients: Patients) -> Floats:
    """Return the sum of all patients' u, each clipped, shape (length,).

    Raises:
        ValueError: a patient has more records than the study allows, which no snapshot has.
    """
    d = len(input_names(study.data)) + 1
    gram, with_label = np.zeros((d, d)), np.zeros(d)
    for records, signs in _blocks(study, patients):
        factors = _factors(study, records, signs)
        there = np.isfinite(factors)[:, None]
        weights = np.repeat(np.where(there[:, 0], factors, 0.0), records.shape[1])
        rows = np.where(there[..., None], records, 0.0).reshape(-1, d)
        gram += (rows * weights[:, None]).T @ rows
        with_label += (weights * np.where(there, signs, 0.0).ravel()) @ rows
    scales, rows, columns = _layout(study)
    return np.concatenate([gram[rows, columns], with_label]) * scales


def solve(study: Study, total: Floats, variance: float) -> Floats:
    """Return the weights, intercept last, shape (d,), from a noisy sum (length,).

    ``variance``: of the noise in each coordinate; positive. The sum may be scaled by a factor if
    its variance is scaled accordingly.
    """
    scales, rows, columns = _layout(study)
    d = len(input_names(study.data)) + 1
    unscaled = total / scales
    gram = np.zeros((d, d))
    gram[rows, columns] = unscaled[:-d]
    gram = gram + np.triu(gram, 1).T
    ridge = 2 * _squared_scale(study) * math.sqrt(variance * d)
    values, vectors = np.linalg.eigh(gram)
    found = 2 * vectors @ ((vectors.T @ unscaled[-d:]) / (np.maximum(values, 0) + ridge))
    return np.asarray(np.clip(found, -LARGEST_WEIGHT, LARGEST_WEIGHT), dtype=np.float64)


def _factors(study: Study, records: Floats, signs: Floats) -> Floats:
    """Return min(1, clip/‖u‖) of each patient, shape (patients,); NaN where ‖u‖ is not finite."""
    r2 = _squared_scale(study)
    with np.errstate(over="ignore", invalid="ignore"):
        products = records @ records.transpose(0, 2, 1)
        with_label = np.matmul(signs[:, None, :], records)
        squared = (products**2).sum((1, 2)) / r2**2 + (with_label**2).sum((1, 2)) / r2
        norms = np.maximum(np.sqrt(squared / 2), _TINY)
        return np.where(np.isfinite(norms), np.minimum(1.0, study.mechanism.clip / norms), np.nan)


def _blocks(study: Study, patients: Patients) -> Iterator[tuple[Floats, Floats]]:
    """Yield records with intercept (P, R, d) and their signs (P, R), padded with zeros."""
    many = study.data.records_per_patient == "many"
    most = 1 << (study.data.most_records - 1).bit_length() if many else 1
    at_once, d = max(1, _BLOCK // most), len(input_names(study.data)) + 1
    order = np.argsort(patients.patient, kind="stable")
    counts = np.bincount(patients.patient, minlength=patients.count)
    if patients.count and counts.max() > most:
        raise ValueError(f"a patient has more than {most} records")
    first = np.cumsum(counts) - counts
    patient = patients.patient[order]
    within = np.arange(len(order)) - first[patient]
    for start in range(0, patients.count, at_once):
        block = slice(*np.searchsorted(patient, [start, start + at_once]))
        place = patient[block] - start, within[block]
        records, signs = np.zeros((at_once, most, d)), np.zeros((at_once, most))
        records[(*place, slice(0, d - 1))] = patients.inputs[order[block]]
        records[(*place, d - 1)] = 1.0
        signs[place] = 2 * patients.labels[order[block]] - 1
        yield records, signs


def _layout(study: Study) -> tuple[Floats, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the scale of each number of the sum, and rows and columns of the products in G."""
    d = len(input_names(study.data)) + 1
    r2, (rows, columns) = _squared_scale(study), np.triu_indices(d)
    of_products = np.where(rows == columns, 1 / math.sqrt(2), 1.0) / r2
    return np.concatenate([of_products, np.full(d, 1 / math.sqrt(2 * r2))]), rows, columns


def _squared_scale(study: Study) -> float:
    """Return r²."""
    return 1.0 + len(study.data.columns)
