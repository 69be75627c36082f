"""Least squares in one round: a linear model from one noisy sum of products.

The logistic loss of a record x (an intercept appended, d numbers) with label y = ±1 is, to second
order at zero weights, log 2 - y·xᵀw/2 + (xᵀw)²/8. Its minimum over all patients is

    w = 2·(Σ x xᵀ)⁻¹ Σ y·x,

least squares, and one Newton step from zero (Huggins, Adams, Broderick 2017, "PASS-GLM", with the
Taylor polynomial). The two sums are all that it needs of the data, so one release is enough
(sufficient statistics perturbation: Vu, Slavković 2009; Foulds et al. 2016).

What a record adds, with r² = 1 + the study's number of columns, so that its norm is about 1 or
less where every column is within [-1, 1]:

    u = (x_i·x_j for i = j, then √2·x_i·x_j for i < j, each / r²; then y·x / r) / √2.

A patient adds the sum of their records' u, clipped to L2 norm ``clip`` as a whole; one that is not
finite counts as zero. This is the contribution of ``flo.privacy.mechanisms.FullBatchSum``: adding
or removing one patient moves the sum by at most ``clip``. Everything after the noise is
post-processing.

``solve`` adds a ridge. Off the diagonal the noise in Σ x xᵀ has deviation s = r²·τ (τ: of a
coordinate of u's sum), on it √2·s: a Gaussian orthogonal ensemble, whose eigenvalues lie within
2·s·√d of 0 (Wigner 1955). Eigenvalues below zero are set to zero and that much is added to all, so
that no direction that could be noise alone is blown up (compare AdaSSP, Wang 2018).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from flo.features import input_names
from flo.messages import LARGEST_WEIGHT
from flo.privacy.patients import Patients
from flo.study import Study

Floats = npt.NDArray[np.float64]
_AT_ONCE = 256  # patients
_TINY = 1e-300


def length(study: Study) -> int:
    """Numbers in the sum: d(d + 1)/2 products of inputs, and d with the label."""
    d = len(input_names(study.data)) + 1
    return d * (d + 1) // 2 + d


def contributions(study: Study, patients: Patients) -> Floats:
    """What each patient would add unclipped, shape (patients, length)."""
    return np.concatenate([np.zeros((0, length(study))), *_in_parts(study, patients)])


def clipped_sum(study: Study, patients: Patients) -> Floats:
    """The sum of everyone's contribution, each clipped, shape (length,)."""
    total = np.zeros(length(study))
    for part in _in_parts(study, patients):
        with np.errstate(over="ignore", invalid="ignore"):  # such a patient counts as zero
            squared = (part**2).sum(axis=1, keepdims=True)
            finite = np.isfinite(squared)
            norms = np.maximum(np.sqrt(np.where(finite, squared, 1.0)), _TINY)
            clipped = part * np.minimum(1.0, study.mechanism.clip / norms)
        total += np.where(finite, clipped, 0.0).sum(axis=0)
    return total


def solve(study: Study, total: Floats, variance: float) -> Floats:
    """The weights, intercept last, shape (d,), from a noisy sum (length,).

    ``variance``: of the noise in each of its coordinates; positive. The sum may be scaled as a
    whole, its variance with it.
    """
    d = len(input_names(study.data)) + 1
    r2, (rows, columns) = _scale(study), np.triu_indices(d)
    products = total[: len(rows)] * math.sqrt(2) * r2
    gram = np.zeros((d, d))
    gram[rows, columns] = np.where(rows == columns, products, products / math.sqrt(2))
    gram = gram + np.triu(gram, 1).T
    with_label = total[len(rows) :] * math.sqrt(2) * math.sqrt(r2)
    ridge = 2 * r2 * math.sqrt(variance) * math.sqrt(d)
    values, vectors = np.linalg.eigh(gram)
    found = 2 * vectors @ ((vectors.T @ with_label) / (np.maximum(values, 0) + ridge))
    return np.asarray(np.clip(found, -LARGEST_WEIGHT, LARGEST_WEIGHT), dtype=np.float64)


def _in_parts(study: Study, patients: Patients) -> Iterator[Floats]:
    """The patients' contributions, some at a time, (some, length)."""
    order = np.argsort(patients.patient, kind="stable")
    after = np.cumsum(np.bincount(patients.patient, minlength=patients.count))
    for start in range(0, patients.count, _AT_ONCE):
        end = min(start + _AT_ONCE, patients.count)
        rows = order[after[start - 1] if start else 0 : after[end - 1]]
        part = np.zeros((end - start, length(study)))
        with np.errstate(over="ignore", invalid="ignore"):
            of_records = _of_records(study, patients.inputs[rows], patients.labels[rows])
            np.add.at(part, patients.patient[rows] - start, of_records)
        yield part


def _of_records(study: Study, inputs: Floats, labels: Floats) -> Floats:
    """u of each record, shape (records, length)."""
    inputs = np.hstack([inputs, np.ones((len(inputs), 1))])
    r2, (rows, columns) = _scale(study), np.triu_indices(inputs.shape[1])
    weights = np.where(rows == columns, 1.0, math.sqrt(2)) / r2
    with_label = inputs * (2 * labels - 1)[:, None] / math.sqrt(r2)
    return np.hstack([inputs[:, rows] * inputs[:, columns] * weights, with_label]) / math.sqrt(2)


def _scale(study: Study) -> float:
    """r²."""
    return 1.0 + len(study.data.columns)
