"""Usual settings of training: what ``flo study new`` drafts, so that nobody has to tune.

On whitened inputs (``flo.privacy.releases.whitening``) one step size suits every study, and only
the rounds and the size of a step depend on how much the noise leaves: on n·ε², n the patients that
the study plans to train on. The limits were chosen on heart disease and SUPPORT2 at several ε, and
measured on other data (docs/decisions/0022).
"""

from __future__ import annotations

from typing import Any

_TRAINED = 0.75  # of the declared patients
_CLIP = 0.2  # in units of √(inputs + 1)
# Up to this n·ε²: rounds, learning rate, momentum. 8 is twice the inverse of the largest curvature
# of the logistic loss, 1/4, on inputs that are white.
_RULE: tuple[tuple[float, int, float, float], ...] = (
    (600, 4, 2.0, 0.0),
    (4000, 15, 4.0, 0.0),
    (float("inf"), 15, 8.0, 0.5),
)


def training_settings(declared: int, epsilon: float) -> dict[str, Any]:
    """Return the settings of [mechanism] with which a logistic model is trained.

    ``declared``: the patients of all hospitals, public; ``epsilon``: of training.
    """
    worth = _TRAINED * declared * epsilon**2
    rounds, rate, momentum = next(rule for most, *rule in _RULE if worth <= most)
    return {
        "algorithm": "whitened",
        "clip": _CLIP,
        "steps": rounds,
        "learning_rate": rate,
        "momentum": momentum,
        "sampling": 1.0,
        "aggregation": "sum",
        "augmentation": "none",
    }
