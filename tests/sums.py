"""The coordinator's arithmetic, from a dictionary of replies: hospital -> what it released."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from flo.messages import Values
from flo.privacy.plan import Plan
from flo.privacy.ring import Integers, Masked, leave
from flo.server import rounds
from flo.server.gathering import Gathered
from flo.server.rounds import RunState
from flo.study import Study


def gathered(study: Study, state: RunState, values: Mapping[str, Values]) -> Gathered:
    made = Gathered(study, Plan.of(study).part(state.purpose), len(state.cohort or values))
    for hospital, release in values.items():
        made.add(hospital, release.copy())
    return made


def advance(study: Study, state: RunState, values: Mapping[str, Values]) -> RunState:
    return rounds.advance(study, state, gathered(study, state, values))


def unmasked_sum(replies: list[Masked], ring: int) -> Integers:
    total = np.zeros_like(replies[0])
    for reply in replies:
        total += reply
    return leave(total, ring)
