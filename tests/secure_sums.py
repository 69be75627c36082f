"""The coordinator's arithmetic, from a dictionary of replies: hospital -> what it released."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from flo.arrays import Integers
from flo.privacy.accounting.plan import Plan
from flo.privacy.secure_sum.ring import Masked, from_ring
from flo.protocol.messages import Values
from flo.server.rounds import state as rules
from flo.server.rounds.aggregation import StreamingSum
from flo.server.rounds.state import RunState
from flo.study.document import Study


def gathered(study: Study, state: RunState, values: Mapping[str, Values]) -> StreamingSum:
    made = StreamingSum(
        study, Plan.of(study).purpose(state.purpose_in(study)), len(state.cohort or values)
    )
    for hospital, release in values.items():
        made.add(hospital, release.copy())
    return made


def advance(study: Study, state: RunState, values: Mapping[str, Values]) -> RunState:
    return rules.advance(study, state, gathered(study, state, values))


def unmasked_sum(replies: list[Masked], ring: int) -> Integers:
    total = np.zeros_like(replies[0])
    for reply in replies:
        total += reply
    return from_ring(total, ring)
