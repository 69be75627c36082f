"""Scores of a fold's held-out patients by the models that a study's model is compared with."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np
from scipy.special import logit

from flo.arrays import Floats, Mask
from flo.clients.prediction.finish import finished_log_odds, fit_at_home
from flo.clients.prediction.regression import unprotected
from flo.errors import DataError
from flo.lab.folds import Fold, scored, scores_of, tested
from flo.lab.in_the_clear import round_in_the_clear, trainers_of
from flo.privacy.patients.patients import Patients
from flo.scores.metrics import Scores, exact_auc
from flo.server.rounds.state import RunState
from flo.study.document import Study
from flo.study.models import log_odds, scores
from flo.study.parameters import Vector

_PARTS = 5  # of a fold's patients


def scores_by(study: Study, weights: Vector) -> Callable[[Floats], Floats]:
    """Return the map from inputs (n, d) to the model's scores, (n,), or (n, classes) of classes."""
    return partial(scores if study.data.classes else log_odds, study, weights)


def pooled(study: Study, fold: Fold) -> Scores:
    """Score by an ordinary regression on all hospitals' patients, without privacy."""
    training = [snapshot.training for snapshot in fold.snapshots.values()]
    return scored(study, fold, unprotected(training, study.data.outcome))


def everywhere(study: Study, fold: Fold) -> list[Scores]:
    """Score all hospitals' patients by each hospital's own regression, without privacy."""
    return [
        scored(study, fold, unprotected([one.training], study.data.outcome))
        for one in fold.snapshots.values()
    ]


def finished(study: Study, fold: Fold, weights: Vector) -> Scores:
    """Score each hospital's patients by the model that it finished at home.

    A hospital with too few patients to finish a model uses the published one.
    """
    found = []
    for snapshot in fold.snapshots.values():
        inputs = snapshot.held_out.inputs
        try:
            last = fit_at_home(study, weights, snapshot.training).finished
        except DataError:
            found.append(log_odds(study, weights, inputs))
        else:
            found.append(finished_log_odds(study, weights, last, inputs))
    return scores_of(fold, np.concatenate(found))


def calibrated(study: Study, fold: Fold, weights: Vector) -> Scores | None:
    """Score by the risks that the model's card would state; None if it would state none.

    The evaluation of four fifths of the patients, with its whole noise, calibrates the risks of the
    last fifth, in turn, so no patient helped to calibrate their own risk. A card is calibrated on
    all held-out patients, so its risks are better than these.
    """
    raw = tested(fold, partial(log_odds, study, weights)).scores
    risks = raw.copy()
    for chosen, done in _by_others(study, fold, weights):
        if done.calibration is None:
            return None
        risks[chosen] = logit(done.calibration.of(raw[chosen])[0])
    return scores_of(fold, risks)


def at_horizons(study: Study, fold: Fold, weights: Vector) -> list[tuple[float, float]] | None:
    """Return the mean predicted risk and the observed one at each horizon; None without a card's.

    Predicted as by ``calibrated``. Observed: by the life table of the study's periods.
    """
    outcome = study.data.times
    assert outcome is not None
    test = scored(study, fold, partial(log_odds, study, weights))
    predicted = np.zeros((outcome.periods, len(test.scores)))
    for chosen, done in _by_others(study, fold, weights):
        if done.calibration is None:
            return None
        curves = (*done.earlier_horizons, done.calibration)
        predicted[:, chosen] = [curve.of(test.scores[chosen])[0] for curve in curves]
    observed = outcome.observed(test.labels)
    return list(zip(predicted.mean(1).tolist(), observed.tolist(), strict=True))


def values(study: Study, fold: Fold, weights: Vector) -> tuple[float, float, float] | None:
    """Return a quantity's mean expected value, its mean, and the share of variation explained.

    Expected as by ``calibrated``; None without a card's values. The share is R² of a number, and
    that of Poisson's deviance of a count.
    """
    quantity = study.data.quantity
    assert quantity is not None
    test = scored(study, fold, partial(log_odds, study, weights))
    expected = np.zeros(len(test.scores))
    for chosen, done in _by_others(study, fold, weights):
        if done.calibration is None:
            return None
        expected[chosen] = quantity.at_share(done.calibration.of(test.scores[chosen])[0])
    exact = quantity.valued(test.labels)
    explained = quantity.explained(exact, expected)
    return float(expected.mean()), float(exact.mean()), explained


def by_class(study: Study, fold: Fold, weights: Vector) -> list[tuple[float, float, float]] | None:
    """Return of each class its exact AUC, its mean predicted risk and the observed share.

    The risks are predicted as by ``calibrated``. The result is None if a card would state no risks.
    An AUC is NaN if no record has the class, or all records have it.
    """
    outcome = study.data.classes
    assert outcome is not None
    test = scored(study, fold, scores_by(study, weights))
    predicted = np.zeros((outcome.codes, len(test.labels)))
    for chosen, done in _by_others(study, fold, weights):
        if not done.by_class:
            return None
        each = zip(done.by_class, test.scores[chosen].T, strict=True)
        predicted[:, chosen] = [curve.of(own)[0] for curve, own in each]
    found = []
    for number, (own, risk) in enumerate(zip(test.scores.T, predicted, strict=True)):
        has = test.labels == number
        some = has.any() and not has.all()
        auc = exact_auc(np.ascontiguousarray(own), has) if some else math.nan
        found.append((auc, float(risk.mean()), float(has.mean())))
    return found


def _by_others(study: Study, fold: Fold, weights: Vector) -> Iterator[tuple[Mask, RunState]]:
    """Yield a mask of each fifth of the held-out records, and what the others' evaluation gives."""
    for part in range(_PARTS):
        others = {}
        for hospital, one in fold.snapshots.items():
            evaluated = _without_part(one.held_out, part)
            others[hospital] = replace(one, training=evaluated, held_out=evaluated)  # none trains
        asked = replace(RunState.start(study), phase="evaluation", weights=weights)
        done = round_in_the_clear(study, trainers_of(study, Fold(others)), asked)
        own = [one.held_out.patient % _PARTS == part for one in fold.snapshots.values()]
        yield np.concatenate(own), done


def _without_part(patients: Patients, part: int) -> Patients:
    """Return the patients whose number is not ``part``, modulo ``_PARTS``."""
    kept = patients.patient % _PARTS != part
    numbers, patient = np.unique(patients.patient[kept], return_inverse=True)
    return Patients(patients.inputs[kept], patients.labels[kept], patient, len(numbers))
