"""Usual settings of training: what ``flo study new`` drafts, so that nobody has to tune.

On whitened inputs (``flo.privacy.releases.whitening``) the same clip and steps suit studies of very
different columns; they depend only on how much the noise leaves, that is on n·ε², n the patients
that the study plans to train on. The limits were chosen on heart disease and SUPPORT2 at several ε
and measured on other data (docs/decisions/0022). They suit a logistic model and an mlp (0024).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from flo.study.classes import Classes
from flo.study.time_to_event import TimeToEvent

if TYPE_CHECKING:
    from flo.study.document import Study
    from flo.study.outcome import Outcome

TRAINED = 0.75  # of the declared patients: sites hold out 20 to 30 %
LITTLE = 600.0  # n·ε², up to which inputs are whitened halfway
# Up to this n·ε²: clip in units of √(inputs + 1), rounds, learning rate, momentum. On white inputs
# the logistic loss has a curvature of at most 1/4, so that a rate of 4 is a Newton step at zero.
_RULE: tuple[tuple[float, float, int, float, float], ...] = (
    (LITTLE, 0.08, 4, 8.0, 0.0),
    (4000.0, 0.2, 15, 4.0, 0.0),
    (math.inf, 0.2, 15, 8.0, 0.3),
)
# For the time to an event: clip, rounds, learning rate in Newton steps. A hazard's curvature at its
# start is about the share of patients who have the event, so a Newton step is one over it; the
# clip halves that curvature. Chosen and measured in docs/decisions/0047.
_OF_TIMES = (0.35, 15, 2.0)
# For several classes: clip, rounds, learning rate, momentum; docs/decisions/0049.
_OF_CLASSES = (0.35, 15, 4.0, 0.5)
# For a model with too many inputs for second moments.
WIDE: dict[str, Any] = {"clip": 0.25, "steps": 30, "learning_rate": 0.5, "momentum": 0.9}


def worth(study: Study) -> float:
    """Return n·ε² of a study, n the patients that it plans to train on; from its text only."""
    planned = sum(hospital.planned for hospital in study.hospitals)
    return TRAINED * planned * study.mechanism.epsilon**2


def whitened(declared: int, epsilon: float, outcome: Outcome | None = None) -> dict[str, Any]:
    """Return the settings of [mechanism] with which a logistic model or an mlp is trained.

    ``declared``: the patients of all hospitals, public; ``epsilon``: of training. ``outcome``: of
    the study, if it is not yes or no.
    """
    leaves = TRAINED * declared * epsilon**2
    _, clip, steps, rate, momentum = next(rule for rule in _RULE if leaves <= rule[0])
    if isinstance(outcome, TimeToEvent):
        clip, steps, newton = _OF_TIMES
        rate, momentum = round(newton / outcome.expected, 2), 0.0
    if isinstance(outcome, Classes):
        clip, steps, rate, momentum = _OF_CLASSES
    return {
        "algorithm": "whitened",
        "clip": clip,
        "steps": steps,
        "learning_rate": rate,
        "momentum": momentum,
    }
