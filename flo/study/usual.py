"""Usual settings of training: what ``flo study new`` drafts, so that nobody has to tune.

On whitened inputs (``flo.privacy.releases.whitening``) one clip and one size of steps suit every
study; only rounds and steps depend on how much the noise leaves, that is on n·ε², n the patients
that the study plans to train on. The limits were chosen on heart disease and SUPPORT2 at several ε
and measured on other data (docs/decisions/0022).
"""

from __future__ import annotations

import math
from typing import Any

_TRAINED = 0.75  # of the declared patients
_CLIP = 0.2  # in units of √(inputs + 1)
# Up to this n·ε²: rounds, learning rate, momentum. The logistic loss has a curvature of at most 1/4
# on white inputs, so that a rate of 4 is one Newton step at zero.
_RULE: tuple[tuple[float, int, float, float], ...] = (
    (600, 4, 2.0, 0.0),
    (4000, 15, 4.0, 0.0),
    (math.inf, 15, 8.0, 0.3),
)
# For a model with too many inputs for second moments.
WIDE: dict[str, Any] = {"clip": 0.25, "steps": 30, "learning_rate": 0.5, "momentum": 0.9}


def whitened(declared: int, epsilon: float) -> dict[str, Any]:
    """Return the settings of [mechanism] with which a logistic model is trained.

    ``declared``: the patients of all hospitals, public; ``epsilon``: of training.
    """
    worth = _TRAINED * declared * epsilon**2
    steps, rate, momentum = next(rule for most, *rule in _RULE if worth <= most)
    return {
        "algorithm": "whitened",
        "clip": _CLIP,
        "steps": steps,
        "learning_rate": rate,
        "momentum": momentum,
    }
