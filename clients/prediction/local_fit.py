"""How well models fit a hospital's held-out patients, for any outcome.

The figures are exact, so they are not private.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flo.arrays import Floats, Integers
from flo.clients.prediction import margins
from flo.clients.records.finished_model import LocalFit, LocalRisk
from flo.privacy.patients.patients import Patients
from flo.privacy.releases.calibration import Calibration
from flo.published.model_card import PublishedModel
from flo.scores.metrics import Kind, Scores, difference, groups_of, interval
from flo.study.classes import Classes, log_risks
from flo.study.document import Study
from flo.study.outcome import Outcome
from flo.study.quantity import Quantity
from flo.study.time_to_event import TimeToEvent
from flo.study.wording import risks_of

_GROUP, _MOST_GROUPS = 15, 10  # records of a point of a curve; points


@dataclass(frozen=True)
class Said:
    """What a model says of n records.

    ``scores``: the log odds by which it ranks them, (n,), or of several classes (n, classes).
    ``risks``: (n, r), as of ``margins.stated``. ``known``: how many of the risks it states, from
    the first on; None if it states all.
    """

    scores: Floats
    risks: Floats
    known: int | None = None

    @classmethod
    def by_margins(cls, outcome: Outcome | None, found: Floats, known: int | None = None) -> Said:
        """Return what a linear model with these margins (n, m) says."""
        return cls(margins.ranked(outcome, found), margins.stated(outcome, found), known)

    @classmethod
    def by_card(cls, model: PublishedModel, inputs: Floats) -> Said:
        """Return what a published model says; without calibrated risks, what it was trained on."""
        outputs = model.scores(inputs)
        said, risks = cls.as_trained(model.study, outputs), risks_by(model.card.curves, outputs)
        return said if risks is None else cls(said.scores, risks)

    @classmethod
    def as_trained(cls, study: Study, outputs: Floats) -> Said:
        """Return what a model's outputs (n, outputs) say before any calibration."""
        outcome = study.data.outcome
        places, _ = margins.usual_places(outcome)
        if study.data.classes:
            return cls(outputs, margins.stated(outcome, log_risks(outputs)))
        found = margins.published(outcome, outputs) + places
        return cls(outputs[:, 0], margins.stated(outcome, found))


def risks_by(curves: Sequence[Calibration], outputs: Floats) -> Floats | None:
    """Return the risks (n, r) that curves state of a model's outputs, (n, 1), or of several classes
    (n, r); None without curves."""
    if not curves:
        return None
    columns = np.broadcast_to(outputs, (len(outputs), len(curves))).T
    return np.stack([curve.of(own)[0] for curve, own in zip(curves, columns, strict=True)], axis=1)


def known_risks(outcome: Outcome | None, labels: Floats) -> int:
    """Return how many of the risks, from the first on, patients with these codes (n,) tell."""
    if isinstance(outcome, TimeToEvent):
        return outcome.known_periods(labels)
    return outcome.codes if isinstance(outcome, Classes) else 1


def kind_of(outcome: Outcome | None) -> Kind:
    """Return what labels are codes of, for scores."""
    match outcome:
        case None:
            return "yes or no"
        case TimeToEvent():
            return "times"
        case Quantity():
            return "quantity"
        case Classes():
            return "classes"


def fit_of(study: Study, said: Said, patients: Patients) -> LocalFit:
    """Return how well a model ranks patients, and how right the risks are that it states."""
    test = _test(study, said, patients)
    low, high = interval([test]) if test.has_interval else (None, None)
    each = zip(risks_of(study), said.risks.T, strict=True)
    return LocalFit(
        auc=test.auc if test.has_both_classes else None,
        low=low,
        high=high,
        risks=tuple(
            _risk(study.data.outcome, number, name, risks, patients.labels)
            if said.known is None or number < said.known
            else LocalRisk(of=name, error=None, predicted=None, observed=None, curve=())
            for number, (name, risks) in enumerate(each)
        ),
    )


def gain(
    study: Study, ours: Said, theirs: Said, patients: Patients
) -> tuple[float, float, float] | None:
    """Return how much better one model ranks than another, as (low, middle, high) of a 95 %
    interval; None with too few patients of a class."""
    one, other = _test(study, ours, patients), _test(study, theirs, patients)
    return difference([one], [other]) if one.has_interval else None


def _test(study: Study, said: Said, patients: Patients) -> Scores:
    return Scores(
        said.scores,
        patients.labels,
        patients.patient,
        np.zeros_like(patients.patient),
        study.data.label_codes,
        kind_of(study.data.outcome),
    )


def _risk(
    outcome: Outcome | None, number: int, name: str, risks: Floats, labels: Floats
) -> LocalRisk:
    """Return how right the risk of this number is for records with labels (n,)."""
    groups = groups_of(risks, min(_MOST_GROUPS, max(1, len(labels) // _GROUP)))
    error: float | None = None
    if isinstance(outcome, TimeToEvent):  # some were not followed until the horizon
        followed = number < outcome.known_periods(labels)

        def observed(chosen: Integers) -> float:
            return float(outcome.observed(labels[chosen])[number])
    else:
        followed, had = True, labels
        if isinstance(outcome, Quantity):
            had, risks = outcome.valued(labels), outcome.at_share(risks)
        elif isinstance(outcome, Classes):
            had = (labels == number).astype(np.float64)
        error = float(np.mean((risks - had) ** 2))
        if isinstance(outcome, Quantity):
            error = math.sqrt(error)

        def observed(chosen: Integers) -> float:
            return float(had[chosen].mean())

    curve = [(float(risks[group].mean()), observed(group), len(group)) for group in groups]
    return LocalRisk(
        of=name,
        error=error,
        predicted=float(risks.mean()),
        observed=observed(np.arange(len(labels))) if followed else None,
        curve=tuple(curve) if followed else (),
    )
