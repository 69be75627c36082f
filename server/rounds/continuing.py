"""A model that goes on learning: how a study's model is combined with those that it continues.

Models are combined by public weights, which is post-processing. A study that starts from an earlier
model was chosen after seeing it, which the ledgers' budgets allow for. A study is worth n·ε², n the
patients that it plans to train on (``flo.study.usual.worth``): the noise of its model has about the
standard deviation 1/(n·ε), beside the chance of n patients.

- A study worth more than ``LITTLE`` starts from the earlier model and moves it. The result keeps
  the earlier model's share: later studies count more, as the first ones were trained from nothing.
- A study worth less starts anew, and the result is the mean by worth. Its training is cut short by
  few rounds, which draws noisy weights towards zero; a start from a noisy model would keep the
  noise of each study. A network always starts from the earlier one: the mean of networks that were
  trained apart is no model.

Chosen on four data sets, measured on others (docs/decisions/0031).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flo.study.document import Study
from flo.study.parameters import Vector
from flo.study.usual import worth

LITTLE = 200.0  # n·ε² up to which a study of a logistic model starts anew


@dataclass(frozen=True)
class EarlierModel:
    """What a study continues. ``weights``: (parameters,). ``worth``: of all studies in it."""

    weights: Vector
    worth: float


def starts_from_earlier(study: Study) -> bool:
    """Return whether training starts from the earlier model."""
    if study.mechanism.algorithm == "least-squares":
        return False
    return study.model.kind != "logistic" or worth(study) > LITTLE


def combined(study: Study, own: Vector, earlier: EarlierModel) -> Vector:
    """Return the model to publish, (parameters,): the earlier one moved by a share.

    ``own``: what the study trained, (parameters,). Where training started from the earlier model,
    a study counts twice, so that of k equal ones the last has the share 2/(k + 1).
    """
    new = worth(study)
    counted = 2 * new if starts_from_earlier(study) else new
    share = counted / (earlier.worth + counted)
    moved = earlier.weights + share * (np.asarray(own, dtype=np.float64) - earlier.weights)
    return moved if own.dtype == np.float64 else moved.astype(np.float32)


def mean_of(models: list[EarlierModel]) -> EarlierModel:
    """Return one model for several of one shape: their mean by worth."""
    total = sum(model.worth for model in models)
    weights = sum(model.worth / total * model.weights for model in models)
    return EarlierModel(np.asarray(weights), total)
