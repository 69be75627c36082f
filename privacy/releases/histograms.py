"""Counts of patients in cells, where each patient weighs 1 however many records they have."""

from __future__ import annotations

import numpy as np

from flo.arrays import Floats, Integers


def record_weights(patient: Integers, count: int) -> Floats:
    """Return the weight of each record, (records,): a patient's records share 1.

    ``patient`` (records,) is each record's patient 0 .. count-1.
    """
    return np.asarray(1.0 / np.bincount(patient, minlength=count)[patient])


def weighted_counts(cell: Integers, patient: Integers, count: int, length: int) -> Floats:
    """Count the patients in each of ``length`` cells, shape (length,).

    ``cell`` (records,) is each record's cell or -1 for none, ``patient`` (records,) its patient 0
    .. count-1. A patient's records share a weight of 1, so one patient moves the counts by at most
    1 in L1, and so in L2.
    """
    weight = record_weights(patient, count)
    counted = (cell >= 0) & (cell < length)
    weights = np.where(counted, weight, 0.0)
    counts = np.bincount(np.where(counted, cell, 0), weights=weights, minlength=length)
    return np.asarray(counts, dtype=np.float64)
