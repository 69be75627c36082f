"""Scores of a fold's held-out patients by the models that a study's model is compared with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np

from flo.arrays import Floats, Mask
from flo.clients.prediction.finish import finished_margins, fit_at_home
from flo.clients.prediction.local_fit import Said, known_risks, risks_by
from flo.clients.prediction.margins import ranked
from flo.clients.prediction.regression import unprotected
from flo.errors import DataError
from flo.lab.folds import Fold, scored, tested
from flo.lab.in_the_clear import round_in_the_clear, trainers_of
from flo.privacy.patients.patients import Patients
from flo.privacy.releases.calibration import curves_of
from flo.scores.metrics import Scores
from flo.server.rounds.state import RunState
from flo.study.document import Study
from flo.study.models import log_odds, scores
from flo.study.parameters import Vector
from flo.study.wording import risks_of

_PARTS = 5  # of a fold's patients


def scores_by(study: Study, weights: Vector) -> Callable[[Floats], Floats]:
    """Return the map from inputs (n, d) to the model's scores, (n,), or (n, classes) of classes."""
    return partial(scores if study.data.classes else log_odds, study, weights)


def pooled(study: Study, fold: Fold) -> Scores:
    """Score by an ordinary regression on all hospitals' patients, without privacy."""
    training = [snapshot.training for snapshot in fold.snapshots.values()]
    return scored(study, fold, _regression(study, training))


def everywhere(study: Study, fold: Fold) -> list[Scores]:
    """Score all hospitals' patients by each hospital's own regression, without privacy."""
    return [
        scored(study, fold, _regression(study, [one.training])) for one in fold.snapshots.values()
    ]


def _regression(study: Study, training: list[Patients]) -> Callable[[Floats], Floats]:
    outcome = study.data.outcome
    margins = unprotected(training, outcome)
    return lambda inputs: ranked(outcome, margins(inputs))


def finished(
    study: Study, fold: Fold, weights: Vector, published: Floats | None = None
) -> tuple[Scores, Floats]:
    """Score each hospital's patients by the model that it finished at home, and state their risks.

    A hospital with too few patients to finish a model uses the published one; so do all for what
    their own patients do not tell. ``published``: the risks (n, r) that the published model's card
    states; None for what it was trained on.
    """
    outcome, found, done = study.data.outcome, list[Said](), 0
    for snapshot in fold.snapshots.values():
        inputs = snapshot.held_out.inputs
        as_published = Said.as_trained(study, scores(study, weights, inputs))
        if published is not None:
            own = published[done : done + len(inputs)]
            as_published = replace(as_published, risks=own)
        done += len(inputs)
        try:
            last = fit_at_home(study, weights, snapshot.training).finished
        except DataError:
            found.append(as_published)
        else:
            margins = finished_margins(study, weights, last, inputs)
            said = Said.by_margins(outcome, margins)
            known = known_risks(outcome, snapshot.training.labels)
            risks = np.hstack([said.risks[:, :known], as_published.risks[:, known:]])
            found.append(replace(said, risks=risks))
    test = scored(study, fold, lambda _: np.concatenate([said.scores for said in found]))
    return test, np.concatenate([said.risks for said in found])


def risks(study: Study, fold: Fold, weights: Vector) -> Floats | None:
    """Return the risks (n, r) that the model's card would state; None if it would state none.

    The evaluation of four fifths of the patients, with its whole noise, calibrates the risks of the
    last fifth, in turn, so no patient helped to calibrate their own risk. A card is calibrated on
    all held-out patients, so its risks are better than these.
    """
    outputs = tested(fold, partial(scores, study, weights)).scores
    found = np.zeros((len(outputs), len(risks_of(study))))
    for chosen, done in _by_others(study, fold, weights):
        curves = curves_of(done.calibration, done.earlier_horizons, done.by_class)
        stated = risks_by(curves, outputs[chosen])
        if stated is None:
            return None
        found[chosen] = stated
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
