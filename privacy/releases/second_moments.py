"""Second moments of the patients' inputs: products of every two inputs, one noisy sum of them.

The contribution of a patient with records X (records, d), an intercept appended, is

    u = (G_ii, then √2·G_ij for i < j) / r²,   G = XᵀX,   r² = 1 + the study's number of columns,
    ‖u‖ = ‖G‖/r²,   ‖G‖ = ‖X Xᵀ‖ (Frobenius),

so that one record within its bounds has a norm of about 1 or less. ``u`` is clipped to L2 norm
``MOST`` as a whole; a patient whose ‖u‖ is not finite counts as zero. This is the contribution of
``flo.privacy.mechanisms.mechanisms.FullBatchSum``: adding or removing one patient moves the sum by
at most ``MOST``. ``flo.privacy.releases.least_squares`` adds products with the label;
``flo.privacy.releases.whitening`` uses the sum.

Patients are processed in zero-padded blocks of one shape, which depends on the study only. The
float64 error of the sum of n records, B at a time, is less than (n/B + B)·n·2^-53·clip, 10^-5·clip
for ten million; the mechanism's slack is 2^-10·clip.

Off the diagonal the noise in Σ G has deviation s = r²·τ/√2 (τ: of a coordinate of u's sum), on it
√2·s: a Gaussian orthogonal ensemble, whose eigenvalues lie within 2·s·√d of 0 (Wigner 1955).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from flo.arrays import Floats
from flo.privacy.patients.patients import Patients
from flo.study.document import Study
from flo.study.features import input_names

MOST = 1.0  # clip norm of u
_BLOCK = 4096  # records, a power of two
_TINY = 1e-300


def width(study: Study) -> int:
    """Return d: the study's inputs, and an intercept."""
    return len(input_names(study.data)) + 1


def length(study: Study) -> int:
    """Return the length of the sum: d(d + 1)/2 products."""
    d = width(study)
    return d * (d + 1) // 2


def squared_scale(study: Study) -> float:
    """Return r²."""
    return 1.0 + len(study.data.columns)


def clipped_sum(study: Study, patients: Patients) -> Floats:
    """Return the sum of all patients' u, each clipped, shape (length,).

    Raises:
        ValueError: a patient has more records than the study allows, which no snapshot has.
    """
    d, r2 = width(study), squared_scale(study)
    gram = np.zeros((d, d))
    for records, _ in blocks(study, patients):
        gram += weighted_gram(records, clip_factors(norms_of_products(records) / r2, MOST))
    rows, columns = np.triu_indices(d)
    return np.asarray(gram[rows, columns] * scales(d) / r2, dtype=np.float64)


def matrix(total: Floats, d: int) -> Floats:
    """Return Σ G / r², (d, d) and symmetric, from a sum of u, (d(d + 1)/2,)."""
    found = np.zeros((d, d))
    found[np.triu_indices(d)] = total / scales(d)
    return found + np.triu(found, 1).T


def scales(d: int) -> Floats:
    """Return the scale of each product in u: 1 on the diagonal of G, √2 off it."""
    rows, columns = np.triu_indices(d)
    return np.where(rows == columns, 1.0, math.sqrt(2))


def norms_of_products(records: Floats) -> Floats:
    """Return ‖XᵀX‖ of each patient of a block, shape (patients,); inf where it overflows."""
    with np.errstate(over="ignore", invalid="ignore"):
        products = records @ records.transpose(0, 2, 1)
        return np.asarray(np.sqrt((products**2).sum((1, 2))))


def clip_factors(norms: Floats, clip: float) -> Floats:
    """Return min(1, clip/norm), and NaN where the norm is not finite."""
    with np.errstate(invalid="ignore"):
        factors = np.minimum(1.0, clip / np.maximum(norms, _TINY))
    return np.where(np.isfinite(norms), factors, np.nan)


def weighted_gram(records: Floats, factors: Floats) -> Floats:
    """Return Σ factor·XᵀX over a block's patients, (d, d); a NaN factor counts as 0."""
    there = np.isfinite(factors)
    weights = np.repeat(np.where(there, factors, 0.0), records.shape[1])
    rows = np.where(there[:, None, None], records, 0.0).reshape(-1, records.shape[2])
    return np.asarray((rows * weights[:, None]).T @ rows)


def blocks(study: Study, patients: Patients) -> Iterator[tuple[Floats, Floats]]:
    """Yield records with intercept (P, R, d) and their signs (P, R), padded with zeros."""
    many = study.data.records_per_patient == "many"
    most = 1 << (study.data.most_records - 1).bit_length() if many else 1
    at_once, d = max(1, _BLOCK // most), width(study)
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
