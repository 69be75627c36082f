"""Fits of a linear model to one hospital's records, for any outcome: rules without IO.

A model is one vector, (k·o + m,): the slopes of k features, o of each (``margins.slopes``), and
then the places of m margins.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

from flo.arrays import Floats, Mask
from flo.clients.prediction.margins import Observed, count, slopes, usual_places
from flo.study.outcome import Outcome

_MOST_PRODUCTS = 2e9  # of records by weights by weights; more take a second for each step


@dataclass(frozen=True)
class Records:
    """n records of one hospital: their ``features`` (n, k), and what is ``observed`` of them."""

    features: Floats
    observed: Observed

    @classmethod
    def of(cls, outcome: Outcome | None, features: Floats, labels: Floats) -> Records:
        """Return records with ``labels`` (n,), the codes of the outcome."""
        return cls(features, Observed.of(outcome, labels))

    def __getitem__(self, chosen: Mask) -> Records:
        return Records(self.features[chosen], self.observed[chosen])

    def margins(self, model: Floats) -> Floats:
        """Return the margins of a model, (n, m)."""
        return margins_of(self.observed.outcome, model, self.features)

    def loss(self, model: Floats) -> float:
        """Return the loss of a model on all records."""
        return self.observed.loss(self.margins(model))


def margins_of(outcome: Outcome | None, model: Floats, features: Floats) -> Floats:
    """Return the margins (n, m) of features (n, k)."""
    number, per_feature = count(outcome), slopes(outcome)
    return np.asarray(
        features @ model[:-number].reshape(-1, per_feature) + model[-number:], dtype=np.float64
    )


def ridge(records: Records, penalty: float, centre: Floats, start: Floats) -> Floats:
    """Minimise the loss + penalty/2·‖slopes - those of the centre‖² over models (k·o + m,).

    Places are drawn to those of the centre, each as far as ``usual_places`` says. ``start``: where
    the search begins. Where the curvature takes too long to compute, it is done without.
    """
    _, own = usual_places(records.observed.outcome)
    split, loss = len(centre) - len(own), _penalised(records, penalty, centre)
    if len(records.features) * len(centre) ** 2 > _MOST_PRODUCTS:
        return _downhill(loss, start)

    def curvature(model: Floats) -> Floats:
        found = _information(records, model)
        found[range(split), range(split)] += penalty
        found[split:, split:] += own
        return found

    return newton(loss, curvature, start)


def plain(records: Records, penalty: float) -> Floats:
    """Return the model that starts from nothing: the same, with slopes of 0 and usual places as the
    centre. Curvature is not computed, so that features and records may be many."""
    middle, _ = usual_places(records.observed.outcome)
    features = records.features.shape[1] * slopes(records.observed.outcome)
    centre = np.concatenate([np.zeros(features), middle])
    return _downhill(_penalised(records, penalty, centre), centre)


def _penalised(
    records: Records, penalty: float, centre: Floats
) -> Callable[[Floats], tuple[float, Floats]]:
    """Return what ``ridge`` minimises, with its derivative."""
    _, own = usual_places(records.observed.outcome)
    split = len(centre) - len(own)

    def loss(model: Floats) -> tuple[float, Floats]:
        apart, margins = model - centre, records.margins(model)
        pulled = np.concatenate([penalty * apart[:split], own @ apart[split:]])
        value = records.observed.loss(margins) + 0.5 * float(apart @ pulled)
        return value, _derivative(records, records.observed.error(margins)) + pulled

    return loss


def _downhill(loss: Callable[[Floats], tuple[float, Floats]], start: Floats) -> Floats:
    """Minimise a loss with its slope from ``start``."""
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 1000})
    return np.asarray(found.x, dtype=np.float64)


def newton(
    loss: Callable[[Floats], tuple[float, Floats]],
    curvature: Callable[[Floats], Floats],
    start: Floats,
) -> Floats:
    """Minimise a loss with its slope, given its curvature, by Newton's method in a trust region."""
    found = minimize(loss, start, jac=True, hess=curvature, method="trust-exact")
    return np.asarray(found.x, dtype=np.float64)


def _derivative(records: Records, error: Floats) -> Floats:
    """Return the derivative of the loss by the model, of that by margins (n, m)."""
    own = error if slopes(records.observed.outcome) > 1 else error.sum(1, keepdims=True)
    return np.concatenate([(records.features.T @ own).ravel(), error.sum(0)])


def _information(records: Records, model: Floats) -> Floats:
    """Return Fisher's information about the model, (k·o + m, k·o + m)."""
    outcome, features = records.observed.outcome, records.features
    own, joint = records.observed.information(records.margins(model))
    (_, inputs), number, per_feature = features.shape, own.shape[1], slopes(outcome)
    split = inputs * per_feature
    found = np.zeros((split + number, split + number))
    if per_feature == 1:
        found[:split, :split] = (features * own.sum(1, keepdims=True)).T @ features
        found[:split, split:] = features.T @ own
        found[split:, split:] = np.diag(own.sum(0))
    else:
        moved = (features[:, :, None] * joint[:, None]).reshape(len(features), split)
        both = np.hstack([moved, joint])
        found -= both.T @ both
        for one in range(per_feature):  # places of a class: its slopes', and its own
            at = [*range(one, split, per_feature), split + one]
            with_ones = np.hstack([features, np.ones((len(features), 1))])
            found[np.ix_(at, at)] += (with_ones * own[:, one, None]).T @ with_ones
    found[split:, :split] = found[:split, split:].T
    return found
