"""Studies of the time to an event, and patients whose hazards are known."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from flo.arrays import Floats
from flo.study.document import Study, from_document
from tests.builders import study_document

OUTCOME: dict[str, Any] = {
    **{"kind": "time-to-event", "time": "days", "unit": "days"},
    **{"horizons": [10, 30, 60], "expected": 0.5},
}


def times_document(**changes: Any) -> dict[str, Any]:
    """The small study with an outcome; ``changes`` are of the outcome."""
    document = copy.deepcopy(study_document(schema_version=4))
    document["data"]["outcome"] = OUTCOME | changes
    return document


def times_study(**mechanism: Any) -> Study:
    document = times_document()
    document["mechanism"] |= mechanism
    return from_document(document)


def drawn_times(scores: Floats, hazards: Floats, rng: np.random.Generator) -> Floats:
    """Codes (n,) of patients whose log odds of a hazard are those of the period plus their score.

    One patient in ten would be lost within each period; of event and loss the earlier one counts.
    """
    codes = np.full(len(scores), 2.0 * len(hazards))
    there = np.ones(len(scores), dtype=bool)
    for period, hazard in enumerate(hazards):
        risk = 1 / (1 + np.exp(-(np.log(hazard / (1 - hazard)) + scores)))
        would, lost = rng.random(len(scores)) < risk, rng.random(len(scores)) < 0.1
        event = there & would & (~lost | (rng.random(len(scores)) < 0.5))
        lost &= there & ~event
        codes[event], codes[lost] = 2 * period + 1, 2 * period
        there &= ~event & ~lost
    return codes
