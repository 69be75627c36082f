"""Scores of patients who were not trained on, and what can be said of them: AUC, interval, ROC.

All of it is exact, so none of it is private.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from flo.errors import UsageError

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
_TWO_SIDED = 1.959964  # standard errors, for 95 %
_POINTS = 101  # of a curve


@dataclass(frozen=True)
class Scores:
    """n records of one test: ``scores`` (n,), ``labels`` 0 or 1 (n,), and whose each is, (n,).

    A patient has the same number in every test.
    """

    scores: Floats
    labels: Floats
    patients: Integers

    @property
    def auc(self) -> float:
        """Exact, so not private. Raises UsageError if all are of one class."""
        return exact_auc(self.scores, self.labels)


def exact_auc(score: Floats, label: Floats) -> float:
    """Area under the ROC curve by ranks (Mann-Whitney), ties counted half.

    Raises:
        UsageError: all are of one class.
    """
    positive = label == 1
    count, rest = int(positive.sum()), int((~positive).sum())
    if not count or not rest:
        raise UsageError(
            "the held-out patients are all of one class", hint="use fewer folds: --folds 2"
        )
    ranks = rankdata(score)
    return float((ranks[positive].sum() - count * (count + 1) / 2) / (count * rest))


def interval(tests: Sequence[Scores]) -> tuple[float, float]:
    """95 % interval of the mean AUC of several tests, over who the test patients are.

    Patients, not records, are the unit, also across tests of the same ones: each one's influence on
    the mean is summed and squared (Obuchowski 1997, doi:10.2307/2533958, written as an
    infinitesimal jackknife). It says nothing of how training and noise would fall out another time.
    """
    mean = float(np.mean([test.auc for test in tests]))
    every = np.concatenate([test.patients for test in tests])
    influence = np.concatenate([_influence(test) for test in tests]) / len(tests)
    _, place = np.unique(every, return_inverse=True)
    each = np.bincount(place, weights=influence)
    error = float(np.sqrt(len(each) / max(len(each) - 1, 1) * (each**2).sum()))
    return max(0.0, mean - _TWO_SIDED * error), min(1.0, mean + _TWO_SIDED * error)


def roc(tests: Sequence[Scores]) -> list[tuple[float, float]]:
    """The mean ROC curve of several tests: (false, true) positive rates, 0 to 1."""
    false = np.linspace(0, 1, _POINTS)
    true = np.mean([np.interp(false, *_curve(test)) for test in tests], axis=0)
    return list(zip(false.tolist(), true.tolist(), strict=True))


def _curve(test: Scores) -> tuple[Floats, Floats]:
    order = np.argsort(-test.scores, kind="stable")
    ends = np.flatnonzero(np.diff(test.scores[order], append=-np.inf))
    hits = np.cumsum(test.labels[order])[ends]
    misses = ends + 1 - hits
    return (
        np.concatenate([[0.0], misses / max(misses[-1], 1)]),
        np.concatenate([[0.0], hits / max(hits[-1], 1)]),
    )


def _influence(test: Scores) -> Floats:
    """How far each record moves its test's AUC from where the others have it, (n,)."""
    ill = test.labels == 1
    _, group = np.unique(test.scores, return_inverse=True)
    positive, negative = np.bincount(group, weights=ill), np.bincount(group, weights=~ill)
    below = (np.cumsum(negative) - negative / 2)[group]  # of the well, ties half
    above = (positive.sum() - np.cumsum(positive) + positive / 2)[group]  # of the ill
    count, rest, area = positive.sum(), negative.sum(), test.auc
    of_ill, of_well = (below / rest - area) / count, (above / count - area) / rest
    return np.asarray(np.where(ill, of_ill, of_well))
