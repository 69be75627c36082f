"""Refit of a published model on one hospital's training patients: rules without IO.

A published model has seen many hospitals through noise; this hospital's patients are few, but exact
and its own. The refit moves the last layer from the published weights towards what these patients
say, as far as cross-validation supports it. Outcomes other than yes or no have several margins
(``flo.clients.prediction.margins``), each with a place:

    1. calibrate: margins = a + b·s for the published log odds s, by maximum likelihood with a free
       level of the places a and log b ~ N(0, 0.5²), so that the slope is shrunk towards 1 (Platt
       1999; Steyerberg et al. 2004, doi:10.1002/sim.1844, for a prediction model at another
       hospital);
    2. refit: minimise the loss plus λ/2·‖w - b·w_published‖², places nearly free, for each
       penalty λ of ``PENALTIES``; λ = ∞ is the calibrated model, λ = 0 would forget the published
       one; a layer of more than ``MOST_WEIGHTS`` weights is calibrated only;
    3. average the weights of all penalties with weights ∝ exp(the log-likelihood of 5-fold
       cross-validation by patient): pseudo-Bayesian model averaging (Geisser, Eddy 1979,
       doi:10.1080/01621459.1979.10481632). Margins are linear in the weights, so this averages
       margins. A single best penalty would be chosen by chance at small hospitals.

The result depends on every patient of this hospital without any noise: it is **not private**.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from flo.arrays import Floats, Mask
from flo.clients.prediction.linear_fit import Records, newton, ridge
from flo.clients.prediction.margins import count, usual_places
from flo.clients.prediction.margins import published as of_margins
from flo.privacy.patients.patients import Patients
from flo.study.classes import Classes
from flo.study.outcome import Outcome
from flo.study.quantity import Quantity
from flo.study.time_to_event import FEWEST_THROUGH, TimeToEvent

PENALTIES = (3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)
MOST_WEIGHTS = 2000  # more of them are calibrated only: their curvature is a square matrix
FEWEST_OF_A_CLASS = 5  # training patients who have what is foreseen, and who do not
_FOLDS = 5
_IRRATIONALS = (math.sqrt(2), math.sqrt(3))
_REPEATED, _FEW = 2, 500  # small hospitals are cross-validated twice, since folds differ more
_SLOPE_DEVIATION = 0.5  # of log b


class TooFewPatients(Exception):
    """Too few training patients to refit a model on."""


@dataclass(frozen=True)
class Refit:
    """Models as of ``flo.clients.prediction.linear_fit``.

    ``calibrated``: the published weights after step 1. ``finished``: the average of step 3.
    ``slope``: b. ``kept``: share of the average that the calibrated model has, 0 to 1. ``penalty``:
    the penalty with the largest share; infinite for the calibrated model.
    """

    calibrated: Floats
    finished: Floats
    slope: float
    kept: float
    penalty: float


def refit(
    features: Floats, patients: Patients, published: Floats, outcome: Outcome | None = None
) -> Refit:
    """Refit a last layer on training patients' ``features`` (records, k).

    ``published``: weights (k + 1,), or of several classes (k + 1, classes), the intercept last.

    Raises:
        TooFewPatients: fewer than ``FEWEST_OF_A_CLASS`` with the label, or without it; with the
        event; above the first level, or below the last; or of the second class by size.
    """
    records = Records.of(outcome, features, patients.labels)
    _refuse_too_few(records, patients)
    published = of_margins(outcome, published)
    slope, candidates = _candidates(records, published)
    likelihood = np.zeros(len(candidates))
    for train, test in _splits(patients):
        _, fitted = _candidates(records[train], published)
        likelihood -= [records[test].loss(model) for model in fitted]
    likelihood /= _repeats(patients)
    if isinstance(outcome, Quantity):  # the steps of a value say the same
        likelihood /= count(outcome)
    shares = np.exp(likelihood - likelihood.max())
    shares /= shares.sum()
    return Refit(
        candidates[0],
        shares @ np.array(candidates),
        slope,
        float(shares[0]),
        (np.inf, *sorted(PENALTIES, reverse=True))[int(shares.argmax())],
    )


def _refuse_too_few(records: Records, patients: Patients) -> None:
    there, had = records.observed.there, records.observed.had
    match records.observed.outcome:
        case Classes():
            sides = [had[:, number] > 0 for number in range(had.shape[1])]
            said = "{} and {} are of the two largest classes"
        case TimeToEvent(horizons=horizons, unit=unit) if not there.any():
            raise TooFewPatients(
                f"fewer than {FEWEST_THROUGH} were followed to {horizons[0]:g} {unit}, the first "
                "horizon"
            )
        case TimeToEvent():
            sides = [np.any(had > 0, axis=1), np.all(had == 0, axis=1)]
            said = "{} had the event by the last horizon and {} did not"
        case Quantity():
            sides = [np.any(had > 0, axis=1), np.any(had < there, axis=1)]
            said = "{} are above the first level and {} below the last"
        case _:
            sides = [had[:, 0] > 0, had[:, 0] == 0]
            said = "{} have the label and {} do not"
    counts = [len(np.unique(patients.patient[side])) for side in sides]
    if len(counts) > 2:
        counts = sorted(counts, reverse=True)[:2]
    if min(counts) < FEWEST_OF_A_CLASS:
        raise TooFewPatients(f"{said.format(*counts)}; {FEWEST_OF_A_CLASS} of each are needed")


def _candidates(records: Records, published: Floats) -> tuple[float, list[Floats]]:
    """Return the slope of step 1, and the calibrated model followed by those of each penalty."""
    slope, calibrated, centre = _calibrated(records, published)
    found = [calibrated]
    if len(centre) > MOST_WEIGHTS:
        return slope, found
    for penalty in sorted(PENALTIES, reverse=True):
        found.append(ridge(records, penalty, centre, found[-1]))
    return slope, found


def _calibrated(records: Records, published: Floats) -> tuple[float, Floats, Floats]:
    """Return the slope b of step 1, its model, and that which models of step 2 are drawn to.

    Both have slopes b·w; the first has places a + b·intercept, and the other one usual places.
    """
    outcome, observed = records.observed.outcome, records.observed
    middle, own = usual_places(outcome)
    number = len(middle)
    weights, intercept = published[:-1], published[-1]
    scores = records.features @ weights + intercept
    scores = np.broadcast_to(scores.reshape(len(scores), -1), observed.had.shape)
    prior = np.zeros((number + 1, number + 1))
    prior[:-1, :-1], prior[-1, -1] = own, _SLOPE_DEVIATION**-2
    start = np.append(middle, 0.0)

    def loss(at: Floats) -> tuple[float, Floats]:
        moved = at[:-1] + np.exp(at[-1]) * scores
        pulled = prior @ (at - start)
        error = observed.error(moved)
        slope = np.append(error.sum(0), (error * scores).sum() * np.exp(at[-1]))
        return observed.loss(moved) + 0.5 * float((at - start) @ pulled), slope + pulled

    def curvature(at: Floats) -> Floats:  # Fisher's expected one, which is positive definite
        steep = np.exp(at[-1]) * scores
        own, joint = observed.information(at[:-1] + steep)
        by_slope = own * steep - joint * (joint * steep).sum(1, keepdims=True)
        found = np.empty_like(prior)
        found[:-1, :-1] = np.diag(own.sum(0)) - joint.T @ joint
        found[-1, -1] = (by_slope * steep).sum()
        found[:-1, -1] = found[-1, :-1] = by_slope.sum(0)
        return found + prior

    at = newton(loss, curvature, start)
    slope = float(np.exp(at[-1]))
    intercepts = np.broadcast_to(slope * np.atleast_1d(intercept), (number,))
    both = [np.concatenate([slope * weights.ravel(), intercepts + a]) for a in (at[:-1], middle)]
    return slope, both[0], both[1]


def _splits(patients: Patients) -> Iterator[tuple[Mask, Mask]]:
    """Yield (training, test) masks of records, patients kept together; the same at every call.

    Folds follow multiples of an irrational number (Weyl 1916), which spread evenly over patients in
    any order of the file.
    """
    for irrational in _IRRATIONALS[: _repeats(patients)]:
        position = np.arange(1, patients.count + 1) * irrational % 1
        fold = (_FOLDS * position).astype(np.int64)[patients.patient]
        for number in range(_FOLDS):
            yield fold != number, fold == number


def _repeats(patients: Patients) -> int:
    return _REPEATED if patients.count <= _FEW else 1
