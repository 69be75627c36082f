"""Models of a number or a count against ordinary regressions, and what is published of them.

Four seeds, models that FLO trained at ε = 0.9. R², or the share of Poisson's deviance that is
explained, is of exact values, by the expected values that a card would state: two thirds of the
patients are trained on, a quarter is evaluated, with each hospital's noise, and the others are
judged, in turn. It stands beside that of the same model without privacy, fitted to the same
training patients with expected values of these, and beside that of least squares or Poisson's
regression. Intervals: five folds; the evaluated patients are drawn anew from those held out; the
truth is the exact concordance between levels of all held-out patients.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from flo.arrays import Floats, Mask
from flo.clients.prediction.margins import ranked
from flo.clients.prediction.regression import unprotected
from flo.lab.folds import Fold, folds, scored
from flo.lab.simulation import run_once
from flo.privacy.accounting.plan import Plan, combined_variance
from flo.privacy.releases import evaluation, quantities, score_waves
from flo.scores.metrics import Scores, weights_by_level
from flo.study.models import log_odds
from flo.study.parameters import Vector
from tests.proofs.quantity_sets import SETS, Measured
from tests.proofs.rows import Row, chance
from tests.proofs.truth import released

_SEEDS, _DRAWS, _NO_NOISE = 4, 50, 1e-6


def rows(quick: bool) -> Iterator[Row]:
    """What is explained beside a regression's; means; who lies where most do; coverage."""
    for name in ("students",) if quick else SETS:
        began, measured = time.monotonic(), SETS[name]()
        found = _tried(measured, 1 if quick else _SEEDS)
        runs, seconds = len(found.explained), time.monotonic() - began
        own, same, usual = (float(one) for one in np.mean(found.explained, axis=0))
        part = "R²" if measured.quantity.kind == "number" else "deviance explained"
        yield Row(f"{name}: {part} of the same model without privacy", same, runs, seconds)
        yield Row(f"{name}: share of it that is kept", own / same, runs, seconds, 0.8)
        yield Row(f"{name}: share of an ordinary regression's", own / usual, runs, seconds, 0.75)
        means, within = float(np.mean(found.means)), float(np.mean(found.within))
        yield Row(f"{name}: expected / observed", means, len(found.means), seconds, 0.9, 1.1)
        yield Row(f"{name}: patients from p10 to p90", within, runs, seconds, 0.8, 0.97)
        covered, draws = float(np.mean(found.covered)), len(found.covered)
        least = 0.87 - (chance(0.87, draws) if quick else 0.0)
        yield Row(f"{name}: 90 % interval holds the concordance", covered, draws, seconds, least)


@dataclass
class _Found:
    """``explained``: by the model, by the same without privacy, and by an ordinary regression, of
    each part of a fold. ``means``: expected by observed. ``within``: share of patients from p10 to
    p90."""

    explained: list[tuple[float, float, float]] = field(default_factory=list)
    means: list[float] = field(default_factory=list)
    within: list[float] = field(default_factory=list)
    covered: list[bool] = field(default_factory=list)


def _tried(measured: Measured, seeds: int) -> _Found:
    found, study = _Found(), measured.study
    for seed in range(seeds):
        for fold in folds(measured.hospitals, 5, seed):
            state, _ = run_once(study, fold, fast=True)
            found.covered.extend(_covered(measured, fold, state.model, seed))
        for fold in folds(measured.hospitals, 3, seed):
            state, _ = run_once(study, fold, fast=True)
            held = measured.held_out(fold)
            others = _without_privacy(measured, fold, ~held), measured.regression(~held)
            for own in _parts(measured, held):
                _judge(measured, state.model, own, held & ~own, others, found)
    return found


def _without_privacy(measured: Measured, fold: Fold, chosen: Mask) -> Floats:
    """The values (n,) that the same model foresees, fitted and calibrated without noise."""
    training = [snapshot.training for snapshot in fold.snapshots.values()]
    margins = unprotected(training, measured.quantity)
    width = measured.inputs.shape[1]
    (intercept,) = ranked(measured.quantity, margins(np.zeros((1, width))))
    slopes = ranked(measured.quantity, margins(np.eye(width))) - intercept
    model = np.append(slopes, intercept)
    scores = log_odds(measured.study, model, measured.inputs)
    exact = _told(measured, model, scores, chosen).sum(0)
    stated = quantities.fit(measured.study, model, exact, _NO_NOISE)
    assert stated is not None
    return stated.values(measured.quantity, scores).expected


def _parts(measured: Measured, held: Mask) -> list[Mask]:
    """Four masks (n,) that divide the held-out patients."""
    _, patient = np.unique(measured.ids, return_inverse=True)
    return [held & (patient % 4 == part) for part in range(4)]


def _judge(
    measured: Measured,
    model: Vector,
    own: Mask,
    evaluated: Mask,
    others: tuple[Floats, Floats],
    found: _Found,
) -> None:
    study, quantity = measured.study, measured.quantity
    scores = log_odds(study, model, measured.inputs)
    told = _told(measured, model, scores, evaluated)
    noisy = released(study, told.sum(0))
    stated = quantities.fit(study, model, noisy, _variance(measured))
    assert stated is not None
    values, exact = stated.values(quantity, scores[own]), measured.values[own]
    same, usual = (quantity.explained(exact, one[own]) for one in others)
    found.explained.append((quantity.explained(exact, values.expected), same, usual))
    found.means.append(float(values.expected.mean() / exact.mean()))
    found.within.append(float(((values.tenth <= exact) & (exact <= values.ninetieth)).mean()))


def _covered(measured: Measured, fold: Fold, model: Vector, seed: int) -> Iterator[bool]:
    """Whether the interval holds the exact concordance, for each of several releases."""
    study, held = measured.study, measured.held_out(fold)
    test: Scores = scored(study, fold, lambda inputs: log_odds(study, model, inputs))
    truth = test.auc_by_patient
    scores = log_odds(study, model, measured.inputs)
    told = _told(measured, model, scores, held)
    generator = np.random.default_rng(seed)
    for _ in range(_DRAWS):
        drawn = generator.integers(0, len(told), len(told))
        total = np.bincount(drawn, minlength=len(told)) @ told
        estimate, _ = evaluation.read(study, released(study, total), _variance(measured))
        yield estimate.low <= truth <= estimate.high


def _told(measured: Measured, model: Vector, scores: Floats, chosen: Mask) -> Floats:
    """What each chosen patient adds to a release, (patients, length)."""
    study, quantity = measured.study, measured.quantity
    positions = evaluation.Positions.of_model(study, model)
    vectors = score_waves.vectors(positions.of(scores[chosen]))
    levels = weights_by_level(quantity.coded(measured.values[chosen]), quantity.codes)
    names = np.array(measured.ids)[chosen]
    _, patient, count = np.unique(names, return_inverse=True, return_counts=True)
    told = np.zeros((len(count), quantity.codes, score_waves.LENGTH))
    weight = levels / count[patient, None]
    np.add.at(told, patient, weight[:, :, None] * vectors[:, None, :])
    return told.reshape(len(told), -1)


def _variance(measured: Measured) -> float:
    part = Plan.of(measured.study).purpose("evaluation")
    return combined_variance(measured.study, part, len(measured.study.hospitals))
