"""Margins of a record for each outcome, their likelihood, and the risks that they state.

A linear model gives a record m margins: a linear function of its features, plus a place for each
margin. What they mean depends on the outcome:

- yes or no: one margin, the log odds of label 1;
- time to an event: one for each period, the log odds of its hazard. All have the same slopes, as in
  ``flo.study.time_to_event``;
- quantity: one for each step between levels, the log odds of the share that is reached of it. All
  have the same slopes, as in ``flo.study.quantity``;
- classes: one for each class, with slopes of its own. Their softmax are the risks.

A record's loss is its negative log-likelihood. Of a quantity it is the sum over its steps, each as
if it were observed by itself (composite likelihood; Varin, Reid, Firth 2011), of shares between no
and yes (fractional logistic regression; Papke, Wooldridge 1996).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit, log_expit, logsumexp, softmax

from flo.arrays import Floats, Mask
from flo.study.classes import Classes, against_others
from flo.study.outcome import Outcome
from flo.study.quantity import FLATTER, Quantity, even_places
from flo.study.time_to_event import TimeToEvent

# Standard deviations: of the level that all places share, and of each place from what is usual. So
# a period in which nobody here had the event has a risk, and a class that nobody here has, too.
_LEVEL, _APART = 100.0, 2.0


@dataclass(frozen=True)
class Observed:
    """What is known of n records. Both numbers are of each record and margin, (n, m).

    ``there``: how much the record counts, 0 to 1. ``had``: how much of that has what the margin
    foresees.
    """

    outcome: Outcome | None
    there: Floats
    had: Floats

    @classmethod
    def of(cls, outcome: Outcome | None, labels: Floats) -> Observed:
        """Return records with ``labels`` (n,), the codes of the outcome.

        Nobody counts in a period of which they tell no risk (``TimeToEvent.known_periods``).
        """
        match outcome:
            case TimeToEvent():
                period, codes = np.arange(outcome.periods), labels.astype(np.int64)[:, None]
                there = np.clip(outcome.followed[codes] - period, 0.0, 1.0)
                there[:, outcome.known_periods(labels) :] = 0.0
                had = (codes == 2 * period + 1) * there
            case Quantity():
                steps = outcome.codes - 1
                had = np.clip(labels[:, None] - np.arange(steps), 0.0, 1.0)
                there = np.ones(had.shape)
            case Classes():
                had = np.eye(outcome.codes)[labels.astype(np.int64)]
                there = np.ones(had.shape)
            case _:
                had, there = labels[:, None], np.ones((len(labels), 1))
        return cls(outcome, there, had)

    def __getitem__(self, chosen: Mask) -> Observed:
        return Observed(self.outcome, self.there[chosen], self.had[chosen])

    def loss(self, margins: Floats) -> float:
        """Return the loss of all records at margins (n, m)."""
        if isinstance(self.outcome, Classes):
            return float(logsumexp(margins, axis=1).sum() - (self.had * margins).sum())
        return float((self.there * np.logaddexp(0, margins) - self.had * margins).sum())

    def error(self, margins: Floats) -> Floats:
        """Return the derivative of the loss by each margin, (n, m): expected less observed."""
        if isinstance(self.outcome, Classes):
            return np.asarray(softmax(margins, axis=1) - self.had)
        return np.asarray(self.there * expit(margins) - self.had)

    def information(self, margins: Floats) -> tuple[Floats, Floats]:
        """Return Fisher's information of each record about its margins as a, u, both (n, m): it is
        diag(a) - u·uᵀ."""
        if isinstance(self.outcome, Classes):
            risk = np.asarray(softmax(margins, axis=1))
            return risk, risk
        risk = expit(margins)
        return np.asarray(self.there * risk * (1 - risk)), np.zeros_like(margins)


def count(outcome: Outcome | None) -> int:
    """Return m."""
    match outcome:
        case TimeToEvent():
            return outcome.periods
        case Quantity():
            return outcome.codes - 1
        case Classes():
            return outcome.codes
        case _:
            return 1


def slopes(outcome: Outcome | None) -> int:
    """Return how many slopes a feature has: one for each class, or one for all margins."""
    return outcome.codes if isinstance(outcome, Classes) else 1


def usual_places(outcome: Outcome | None) -> tuple[Floats, Floats]:
    """Return where places are drawn to, (m,), and with which precision, (m, m).

    Steps of a quantity lie evenly apart, as for ``flo.privacy.releases.quantities``.
    """
    number = count(outcome)
    middle = np.zeros(number)
    if isinstance(outcome, Quantity):
        middle = even_places(number)
    spread = _LEVEL**2 + (_APART**2 * np.eye(number) if number > 1 else np.zeros((1, 1)))
    return middle, np.asarray(np.linalg.inv(spread))


def published(outcome: Outcome | None, last: Floats) -> Floats:
    """Return a published last layer, (k + 1,) or (k + 1, classes), on the scale of the margins.

    A quantity's score is the log odds of the mean over its steps, which is flatter than each of
    them (Zeger, Liang, Albert 1988).
    """
    middle, _ = usual_places(outcome)
    if isinstance(outcome, Quantity):
        return np.asarray(last * np.sqrt(1 + FLATTER * middle.var()))
    return last


def ranked(outcome: Outcome | None, margins: Floats) -> Floats:
    """Return log odds by which margins (n, m) rank patients: (n,), or of classes (n, m), of each
    against all others."""
    if isinstance(outcome, Classes):
        return against_others(margins)
    return np.asarray(margins.mean(axis=1))


def reached(margins: Floats) -> Floats:
    """Return the share of each step of a quantity that is reached, (m, n), of margins (n, m)."""
    return np.asarray(expit(margins).T)


def stated(outcome: Outcome | None, margins: Floats) -> Floats:
    """Return the risks that margins (n, m) state, (n, r), 0 to 1.

    Of label 1; of the event by each horizon; of each class; or the expected value of a quantity, as
    a share of the range between its first and its last level.
    """
    match outcome:
        case TimeToEvent():
            return np.asarray(-np.expm1(np.cumsum(log_expit(-margins), axis=1)))
        case Quantity():
            return np.asarray(expit(margins) @ outcome.lengths / outcome.lengths.sum())[:, None]
        case Classes():
            return np.asarray(softmax(margins, axis=1))
        case _:
            return np.asarray(expit(margins))
