"""Evaluation: one noisy release from held-out patients, and an AUC with a confidence interval.

A record's log odds s are mapped to a public position in [0, 1] that does not depend on patients.
Half of it is Φ((s - m)/(2d)), with mean m and deviation d of the scores of made-up patients, and
half is the predicted risk 1/(1 + e^-s). The first half adapts to a model whose log odds are very
small or large, the second to patients unlike the made-up ones. Made-up images do not resemble real
ones, so with images the position is the risk alone. Each class is then described by sums of waves
(``flo.privacy.releases.score_waves``). A patient's records share a total weight of 1, and every
wave vector has norm 1, so one patient moves the release by at most 1 in L2.

Subgroups. If the study names k category columns, all patients are counted once for each column, by
code. A patient weighs 1 in each of the k groupings, so the norm is √k. The overall AUC comes from
the mean of the groupings' totals.

Studies of schema 1 and 2 count in score bins instead (``flo.privacy.releases.score_bins``).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.special import expit, ndtr

from flo.arrays import Floats
from flo.privacy.patients.patients import Patients
from flo.privacy.releases import score_bins, score_waves
from flo.privacy.releases.histograms import record_weights
from flo.privacy.releases.score_waves import Estimate
from flo.study import models
from flo.study.document import Study
from flo.study.features import cell_of, cells
from flo.study.parameters import Vector
from flo.study.schema import ImageColumn
from flo.study.synthetic import made_up_inputs

_LARGEST = 1e100
_AT_ONCE = 1 << 14  # records


def groupings(study: Study) -> dict[str, list[str]]:
    """Return subgroup column -> its codes; a single group of all patients without subgroups."""
    named = study.evaluation.subgroups
    return {n: cells(study.data.category(n), 0) for n in named} or {"": ["everyone"]}


def length(study: Study) -> int:
    """Return the length of a release: all classes, for every code of every grouping."""
    return sum(len(codes) for codes in groupings(study).values()) * 2 * _of_a_class(study)


def sums(study: Study, weights: Vector, held_out: Patients) -> Floats:
    """Return the exact sums over a site's held-out patients, shape (length,)."""
    vectors, grouped = _vectors(study, weights), groupings(study)
    weight = record_weights(held_out.patient, held_out.count)
    totals = {
        name: np.zeros((2 * len(codes), _of_a_class(study))) for name, codes in grouped.items()
    }
    for start in range(0, len(held_out.labels), _AT_ONCE):
        some = slice(start, start + _AT_ONCE)
        inputs, labels = held_out.inputs[some], held_out.labels[some]
        scores = models.log_odds(study, weights, inputs)
        usable = np.isfinite(scores) & ((labels == 0) | (labels == 1))
        label = np.where(usable, labels, 0).astype(np.int64)
        adds = vectors(np.where(usable, scores, 0.0)) * np.where(usable, weight[some], 0.0)[:, None]
        for name, total in totals.items():
            code = cell_of(study.data, name, inputs, 0) if name else np.zeros_like(label)
            row, known = np.where(code >= 0, 2 * code + label, 0), (code >= 0)[:, None]
            for place, column in enumerate((adds * known).T):
                total[:, place] += np.bincount(row, weights=column, minlength=len(total))
    return np.concatenate([total.ravel() for total in totals.values()])


def read(study: Study, noisy: Floats, variance: float) -> tuple[Estimate, dict[str, Estimate]]:
    """Return the overall estimate, and one for each ``column=code`` of the subgroups.

    ``noisy`` (length,) is a release or a sum of releases, with ``variance`` in every number.
    """
    classes = noisy.reshape(-1, 2, _of_a_class(study))
    grouped = groupings(study)
    names = [f"{column}={code}" for column, codes in grouped.items() if column for code in codes]
    subgroups = {
        name: _estimate(study, both, variance)
        for name, both in zip(names, classes, strict=False)  # there are no names without subgroups
    }
    mean = classes.sum(0) / len(grouped)
    return _estimate(study, mean, variance * len(classes) / len(grouped) ** 2), subgroups


def _estimate(study: Study, classes: Floats, variance: float) -> Estimate:
    if study.evaluation.bins:
        return score_bins.auc(classes.ravel(), variance)
    return score_waves.auc(classes, variance)


def _of_a_class(study: Study) -> int:
    """Return how many numbers describe one class."""
    return study.evaluation.bins or score_waves.LENGTH


def positions(study: Study, weights: Vector, scores: Floats) -> Floats:
    """Map finite log odds (n,) of the study's model to positions in [0, 1]."""
    return _position(study, weights)(scores)


def _vectors(study: Study, weights: Vector) -> Callable[[Floats], Floats]:
    """Return the map from finite log odds (n,) to each record's vector of norm 1."""
    if bins := study.evaluation.bins:
        edges = score_bins.public_edges(study, weights, bins)
        return lambda scores: score_bins.vectors(scores, edges)
    position = _position(study, weights)
    return lambda scores: score_waves.vectors(position(scores))


def _position(study: Study, weights: Vector) -> Callable[[Floats], Floats]:
    if any(isinstance(column, ImageColumn) for column in study.data.columns):
        return lambda scores: np.asarray(expit(scores))
    made_up = np.nan_to_num(models.log_odds(study, weights, made_up_inputs(study.data)))
    made_up = np.clip(made_up, -_LARGEST, _LARGEST)  # keeps the mean finite for any weights
    middle, deviation = made_up.mean(), max(made_up.std(), 1 / _LARGEST)

    def position(scores: Floats) -> Floats:
        apart = np.clip(scores, -2 * _LARGEST, 2 * _LARGEST) - middle
        return np.asarray((ndtr(apart / (2 * deviation)) + expit(scores)) / 2)

    return position
