"""Models of several classes against the same without privacy, and what is published of them.

Four seeds, five folds, models that FLO trained at ε = 0.9. Intervals: the evaluated patients are
drawn anew from those held out; the truth is the exact macro AUC of all held-out patients. Risks:
two thirds of the patients are trained on, a quarter is evaluated, with each hospital's noise, and
the others' mean risk of each class is divided by how many of them have it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from flo.arrays import Floats, Integers, Mask
from flo.lab.comparison import pooled, scores_by
from flo.lab.folds import Fold, folds, scored
from flo.lab.simulation import run_once
from flo.privacy.accounting.plan import Plan, combined_variance
from flo.privacy.releases import calibration, evaluation, score_waves
from flo.scores.metrics import exact_auc
from flo.study.document import Study
from flo.study.parameters import Vector
from tests.proofs.class_sets import CHOSEN_ON, GENERAL, Sorted
from tests.proofs.rows import Row, chance
from tests.proofs.truth import released

_SEEDS, _DRAWS = 4, 50
# A class of 343 patients is hardly foreseen; schooled has three of 200 to 290.
_LOST = {"elderly": 0.08, "schooled": 0.035}


def rows(quick: bool) -> Iterator[Row]:
    """Macro AUC beside that of the same model without privacy; coverage; mean risks."""
    for name in ("tumours",) if quick else (*CHOSEN_ON, *GENERAL):
        began, data = time.monotonic(), {**CHOSEN_ON, **GENERAL}[name]()
        found = _tried(data, 1 if quick else _SEEDS)
        runs, seconds = len(found.lost), time.monotonic() - began
        without = float(np.mean(found.without))
        yield Row(f"{name}: macro AUC of the same model without privacy", without, runs, seconds)
        lost, most = float(np.mean(found.lost)), _LOST.get(name, 0.03)
        yield Row(f"{name}: macro AUC that privacy costs", lost, runs, seconds, -1, most)
        for covered, what in ((found.macro, "macro AUC"), (found.single, "AUC of a class")):
            least = 0.87 - (chance(0.87, len(covered)) if quick else 0.0)
            share = float(np.mean(covered))
            yield Row(
                f"{name}: 90 % interval holds the {what}", share, len(covered), seconds, least
            )
        for number, of_class in enumerate(data.outcome.classes):
            ratio = float(np.mean([one[number] for one in found.ratios]))
            row = f"{name}: mean risk / share of {of_class}"
            yield Row(row, ratio, len(found.ratios), seconds, 0.85, 1.15)
        yield Row(f"{name}: risks of a patient, added up", found.whole, runs, seconds, 0.95, 1.05)


@dataclass
class _Found:
    """``ratios``: mean risk by share of each class, of each part of a fold."""

    without: list[float] = field(default_factory=list)
    lost: list[float] = field(default_factory=list)
    macro: list[bool] = field(default_factory=list)
    single: list[bool] = field(default_factory=list)
    ratios: list[Floats] = field(default_factory=list)
    sums: list[float] = field(default_factory=list)

    @property
    def whole(self) -> float:
        return float(np.mean(self.sums))


def _tried(data: Sorted, seeds: int) -> _Found:
    found, study = _Found(), data.study
    for seed in range(seeds):
        for fold in folds(data.hospitals, 5, seed):
            state, _ = run_once(study, fold, fast=True)
            found.without.append(pooled(study, fold).auc)
            own = scored(study, fold, scores_by(study, state.model))
            found.lost.append(found.without[-1] - own.auc)
            _cover(study, state.model, own.scores, own.labels.astype(int), seed, found)
        for fold in folds(data.hospitals, 3, seed):
            state, _ = run_once(study, fold, fast=True)
            _judge(study, fold, state.model, found)
    return found


def _cover(
    study: Study, model: Vector, scores: Floats, labels: Integers, seed: int, found: _Found
) -> None:
    """Whether intervals hold the exact AUCs, for each of several releases."""
    told, exact = _told(study, model, scores, labels), _exact(scores, labels)
    generator, variance = np.random.default_rng(seed), _variance(study)
    for _ in range(_DRAWS):
        drawn = generator.integers(0, len(told), len(told))
        total = released(study, np.bincount(drawn, minlength=len(told)) @ told)
        estimate, _ = evaluation.read(study, total, variance)
        found.macro.append(bool(estimate.low <= exact.mean() <= estimate.high))
        each = evaluation.by_class(study, total, variance)
        inside = [one.low <= truth <= one.high for one, truth in zip(each, exact, strict=True)]
        found.single.extend(bool(one) for one in inside)


def _exact(scores: Floats, labels: Integers) -> Floats:
    classes = range(scores.shape[1])
    return np.array([exact_auc(scores[:, k].copy(), labels == k) for k in classes])


def _judge(study: Study, fold: Fold, model: Vector, found: _Found) -> None:
    test = scored(study, fold, scores_by(study, model))
    labels = test.labels.astype(int)
    told = _told(study, model, test.scores, labels)
    for part in range(4):
        own: Mask = test.patients % 4 == part
        total = released(study, told[~own].sum(0))
        curves = calibration.fit_each(study, model, total, _variance(study))
        risks = np.stack(
            [curve.of(test.scores[own, k])[0] for k, curve in enumerate(curves)], axis=1
        )
        found.sums.append(float(risks.sum(1).mean()))
        found.ratios.append(
            risks.mean(0) / np.bincount(labels[own], minlength=len(curves)) * own.sum()
        )


def _told(study: Study, model: Vector, scores: Floats, labels: Integers) -> Floats:
    """What each patient adds to a release, (patients, length)."""
    classes = study.data.outputs
    told = np.zeros((len(scores), classes, 2, score_waves.LENGTH))
    for k, positions in enumerate(evaluation.Positions.of_outputs(study, model)):
        vectors, own = score_waves.vectors(positions.of(scores[:, k])), labels == k
        told[own, k, 1] = vectors[own]
        told[~own, k, 0] = vectors[~own] / np.sqrt(classes - 1)
    return told.reshape(len(told), -1)


def _variance(study: Study) -> float:
    part = Plan.of(study).purpose("evaluation")
    return combined_variance(study, part, len(study.hospitals))
