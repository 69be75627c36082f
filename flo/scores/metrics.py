"""Scores of held-out patients and statistics of them: AUC, interval, ROC.

Where labels are codes of times to an event (``flo.study.time_to_event``), the AUC is the
concordance between periods: over all pairs of a patient who had the event in a period and one who
was followed through it, how often the first has the higher score. Where they are codes of a
quantity (``flo.study.quantity``), it is the concordance between levels: over all pairs of a level
and a lower one, records between two levels counting for both. Where they are classes
(``flo.study.classes``), it is the macro AUC: the mean of the AUCs of each class against all others,
by the score of that class. All statistics are exact, so none of them is private.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import expit, logit

from flo.arrays import Floats, Integers, Mask
from flo.errors import UsageError

Kind = Literal["yes or no", "times", "quantity", "classes"]

_TWO_SIDED = 1.959964  # standard errors, for 95 %
FEWEST_FOR_INTERVAL = 10  # patients of each class; with fewer, intervals are far too short
_POINTS = 101  # of a curve


@dataclass(frozen=True)
class Scores:
    """n records of one test: ``scores``, log-odds (n,), and ``labels``, 0 to ``codes`` - 1 (n,).

    Of several classes the scores are (n, classes). ``patients`` and ``hospitals`` (n,): the number
    of each record's patient and hospital. A patient has the same number in every test, and so has a
    hospital. ``kind``: what the labels are codes of.
    """

    scores: Floats
    labels: Floats
    patients: Integers
    hospitals: Integers
    codes: int = 2
    kind: Kind = "yes or no"

    @property
    def compared(self) -> list[tuple[Floats, Floats]]:
        """For how much each record counts in sets that are compared, (n,) each, 0 to 1: those of
        the event and those without it, those of a level and of all levels below, or those of a
        class and all others."""
        match self.kind:
            case "quantity":
                levels = weights_by_level(self.labels, self.codes)
                return [(levels[:, n], levels[:, :n].sum(1)) for n in range(1, self.codes)]
            case "classes":
                sides = [(self.labels == n, self.labels != n) for n in range(self.codes)]
            case "times":
                sides = [(self.labels == n, self.labels > n) for n in range(1, self.codes, 2)]
            case "yes or no":
                sides = [(self.labels == 1, self.labels == 0)]
        return [(had.astype(float), other.astype(float)) for had, other in sides]

    @property
    def by_comparison(self) -> list[Floats]:
        """The scores (n,) of each comparison."""
        if self.kind == "classes":
            return list(np.ascontiguousarray(self.scores.T))
        return [self.scores] * len(self.compared)

    @property
    def had_event(self) -> Mask:
        """The records with label 1, with the event in a period, or above a quantity's first level,
        (n,)."""
        found: Mask = np.any([had > 0 for had, _ in self.compared], axis=0)
        return found

    @property
    def pairs(self) -> float:
        """How many pairs of records are compared."""
        return float(sum(had.sum() * other.sum() for had, other in self.compared))

    @property
    def has_both_classes(self) -> bool:
        """Whether any two records are compared. If none are, there is no AUC."""
        return self.pairs > 0

    @property
    def has_interval(self) -> bool:
        """Whether enough patients are on both sides, of several classes for each, and overlap."""
        if self.kind == "classes":  # each is compared with all others
            sides = [(side,) for both in self.compared for side in both]
        else:
            sides = list(zip(*self.compared, strict=True))
        classes = (np.unique(self.patients[np.any(side, axis=0)]) for side in sides)
        enough = min(len(patients) for patients in classes) >= FEWEST_FOR_INTERVAL
        return enough and 0 < self.auc < 1

    @property
    def auc(self) -> float:
        """Exact AUC, so not private. Raises UsageError if all records are of one class."""
        return self._auc(np.ones(len(self.scores)))

    @property
    def auc_by_patient(self) -> float:
        """The same, with a total weight of 1 for each patient's records, as in an evaluation."""
        return self._auc(1 / np.bincount(self.patients)[self.patients])

    def _auc(self, weight: Floats) -> float:
        right = pairs = 0.0
        for scores, (had, other) in zip(self.by_comparison, self.compared, strict=True):
            if not had.any() or not other.any():
                continue
            own = float((weight @ had) * (weight @ other))
            counts = own if self.kind == "classes" else 1.0  # each class counts alike
            pairs += own / counts
            right += _in_order(scores, weight * had, weight * other) / counts
        if not pairs:
            raise UsageError(
                "the held-out patients of a fold are all of one class", hint="use fewer folds"
            )
        return right / pairs

    def of(self, hospital: int) -> Scores:
        """Return the records of one hospital, possibly none."""
        own = self.hospitals == hospital
        return Scores(
            *(self.scores[own], self.labels[own], self.patients[own], self.hospitals[own]),
            *(self.codes, self.kind),
        )


def within(tests: Sequence[Scores], hospital: int) -> float | None:
    """Return the AUC among one hospital's patients, over all pairs (ill, well) within one test.

    None if no test has such a pair.
    """
    pairs = right = 0.0
    for test in tests:
        own = test.of(hospital)
        if own.has_both_classes:
            pairs += own.pairs
            right += own.pairs * own.auc
    return right / pairs if pairs else None


def brier_within(tests: Sequence[Scores], hospital: int) -> float | None:
    """Return the Brier score of one hospital's records over all tests; None if it has none."""
    own = [test.of(hospital) for test in tests]
    scores = np.concatenate([test.scores for test in own])
    labels = np.concatenate([test.labels for test in own])
    return brier(scores, labels) if len(labels) else None


def calibration(tests: Sequence[Scores]) -> dict[str, float]:
    """Return ``predicted`` and ``observed`` share of label 1, and the ``brier`` score.

    The Brier score is the mean squared difference of a record's predicted risk and its label, 0 to
    1; lower is better.
    """
    scores = np.concatenate([test.scores for test in tests])
    label = np.concatenate([test.labels for test in tests])
    return {
        "predicted": float(expit(scores).mean()),
        "observed": float(label.mean()),
        "brier": brier(scores, label),
    }


def brier(scores: Floats, labels: Floats) -> float:
    """Return the mean squared difference of the risks of log odds (n,) and labels (n,), 0 to 1."""
    return float(np.mean((expit(scores) - labels) ** 2))


def groups_of(risks: Floats, groups: int) -> list[Integers]:
    """Return the places of records in groups of rising ``risks`` (n,), equally large give or take
    one; there are fewer than ``groups`` if there are fewer records."""
    order = np.argsort(risks, kind="stable")
    return np.array_split(order, max(1, min(groups, len(order))))


def calibration_curve(
    scores: Floats, labels: Floats, groups: int
) -> list[tuple[float, float, int]]:
    """Return (mean predicted risk, share of label 1, records) of groups of rising risk.

    The groups hold equally many records, give or take one; there are fewer than ``groups`` if there
    are fewer records. Equal scores may be in two groups.
    """
    risk = expit(scores)
    return [
        (float(risk[part].mean()), float(labels[part].mean()), len(part))
        for part in groups_of(scores, groups)
    ]


def exact_auc(score: Floats, label: Floats | Mask, weight: Floats | None = None) -> float:
    """Return the area under the ROC curve by pairs (Mann-Whitney), ties counted half.

    ``weight`` (n,) > 0: of each record; 1 if left out.

    Raises:
        UsageError: all records are of one class.
    """
    ill = label == 1
    if not ill.any() or ill.all():
        raise UsageError(
            "the held-out patients of a fold are all of one class", hint="use fewer folds"
        )
    weight = np.ones(len(score)) if weight is None else weight
    positive, negative = weight * ill, weight * ~ill
    return _in_order(score, positive, negative) / float(positive.sum() * negative.sum())


def _in_order(score: Floats, higher: Floats, lower: Floats) -> float:
    """Return the weight of pairs of which the one counted in ``higher`` has the higher score.

    ``higher``, ``lower`` (n,): for how much each record counts on each side; ties count half.
    """
    _, place = np.unique(score, return_inverse=True)
    above, below = np.bincount(place, weights=higher), np.bincount(place, weights=lower)
    return float(above @ (np.cumsum(below) - below / 2))


def interval(tests: Sequence[Scores]) -> tuple[float, float]:
    """Return the 95 % interval of the mean AUC of several tests, over the choice of test patients.

    Patients, not records, are the unit, also across tests of the same patients: each patient's
    influences on the mean are summed, then squared (Obuchowski 1997, doi:10.2307/2533958, written
    as an infinitesimal jackknife, each class corrected by its own number). The interval is
    symmetric in the log odds of the AUC; an AUC of 0 or 1 has no width. It does not include the
    variation of training and noise, and is too short below ``FEWEST_FOR_INTERVAL``.
    """
    mean = float(np.mean([test.auc for test in tests]))
    half = _TWO_SIDED * _error(_by_patient(tests))
    if not 0 < mean < 1:
        return mean, mean
    ends = logit(mean) + np.array([-1, 1]) * half / (mean * (1 - mean))
    low, high = expit(ends)
    return float(low), float(high)


def difference(tests: Sequence[Scores], others: Sequence[Scores]) -> tuple[float, float, float]:
    """Return (low, middle, high): mean AUC of ``tests`` minus that of ``others``.

    The 95 % interval is over the choice of patients, who must be the same in both.

    Raises:
        UsageError: they were tested on other patients.
    """
    ours, theirs = _by_patient(tests), _by_patient(others)
    if len(ours) != len(theirs) or {*ours} != {*theirs}:
        raise UsageError("the results are of different patients", hint="use one data set")
    mean = float(np.mean([t.auc for t in tests]) - np.mean([t.auc for t in others]))
    half = _TWO_SIDED * _error({patient: ours[patient] - theirs[patient] for patient in ours})
    return mean - half, mean, mean + half


def _by_patient(tests: Sequence[Scores]) -> dict[int, float]:
    """Return each patient's influence on the mean AUC of the tests."""
    every = np.concatenate([test.patients for test in tests])
    influence = np.concatenate([_influence(test) for test in tests]) / len(tests)
    patients, place = np.unique(every, return_inverse=True)
    return dict(zip(patients.tolist(), np.bincount(place, weights=influence).tolist(), strict=True))


def _error(influences: dict[int, float]) -> float:
    each = np.array(list(influences.values()))
    return float(np.sqrt((each**2).sum()))


def roc(tests: Sequence[Scores]) -> list[tuple[float, float]]:
    """Return the mean ROC curve of several tests: (false, true) positive rates, 0 to 1."""
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
    """Return each record's influence on its test's AUC, (n,)."""
    influence, area, pairs = np.zeros(len(test.labels)), test.auc, test.pairs
    told = [bool(had.any() and other.any()) for had, other in test.compared]
    for scores, (had, other), known in zip(test.by_comparison, test.compared, told, strict=True):
        if not known:
            continue
        count, rest = float(had.sum()), float(other.sum())
        _, group = np.unique(scores, return_inverse=True)
        if test.kind == "classes":
            area, pairs = exact_auc(scores, had), sum(told) * count * rest
        positive, negative = np.bincount(group, weights=had), np.bincount(group, weights=other)
        below = (np.cumsum(negative) - negative / 2)[group]  # of the others, ties half
        above = (positive.sum() - np.cumsum(positive) + positive / 2)[group]
        of_had = (below - area * rest) / pairs * np.sqrt(count / max(count - 1, 1))
        of_other = (above - area * count) / pairs * np.sqrt(rest / max(rest - 1, 1))
        influence += had * of_had + other * of_other
    return influence


def weights_by_level(codes: Floats, levels: int) -> Floats:
    """Return for how much codes (n,) between 0 and ``levels`` - 1 count at each level, (n, levels).

    The weights of a code are at least 0 and add up to 1, so that their L2 norm is at most 1.
    """
    return np.asarray(np.clip(1 - np.abs(codes[:, None] - np.arange(levels)), 0.0, 1.0))
