"""A run carried out by whatever process has it: from its saved state to its end.

What differs from place to place comes in: who keeps the state (``RunBackend``) and where a model
goes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Protocol

from flo.errors import FloError
from flo.host.memory import give_back_freed_memory
from flo.privacy.accounting.plan import Plan
from flo.protocol.messages import model_digest
from flo.server.flower.grid import GridExchange, GridLargeBodies, LargeBodyTransport
from flo.server.rounds.loop import RunStore, StudyRun
from flo.server.rounds.state import RunState
from flo.study.document import Study

_BACK_SECONDS = 3.0  # for agents to come back after a restart


class RunBackend(RunStore, Protocol):
    """Where a run's state is kept and its end told: ``StoredRun`` here, ``RemoteRun`` elsewhere.

    Each call may raise FloError, as when another process has the run.
    """

    def load(self) -> RunState | None:
        """The saved state; None if there is none yet. Raises TrustError if it was changed."""

    def nodes(self) -> dict[str, int]:
        """Hospital id -> Flower's node id."""

    def connections(self) -> dict[str, int]:
        """Hospital id -> how often its agent has connected."""

    def pause(self, **facts: object) -> None:
        """It can go on later, from its saved state; ``facts``: what whoever watches is told."""

    def end(self, status: str, result: dict[str, Any]) -> None:
        """It is over; whoever watches is told."""

    def failed(self, why: str) -> None:
        """This process goes no further with it; whoever watches is told."""


def execute_run(
    study: Study,
    run: str,
    grid: Any,
    kept: RunBackend,
    publish: Callable[[RunState], str],
    *,
    here: bool,
) -> None:
    """``publish`` keeps the model of a state and says where. ``here``: as the coordinator is.

    Raises:
        FloError: the saved state does not open, the coordinator is gone, or another process has
            the run.
    """
    try:
        _carry_out(study, run, GridLargeBodies(grid, here=here), grid, kept, publish)
    except FloError as error:
        kept.failed(str(error))
        raise


def _carry_out(
    study: Study,
    run: str,
    large_bodies: LargeBodyTransport,
    grid: Any,
    kept: RunBackend,
    publish: Callable[[RunState], str],
) -> None:
    exchange = GridExchange(grid, kept.nodes, kept.connections, kept.stop_requested, large_bodies)
    saved = kept.load()
    present = exchange.wait_for(
        [hospital.id for hospital in study.hospitals],
        min(study.limits.deadline_seconds, _BACK_SECONDS if saved else math.inf),
    )
    kept.event("online", hospitals=sorted(present))
    running = StudyRun(study, run, saved or RunState.start(study), exchange, kept)
    del saved  # it may be large, and is used up
    give_back_freed_memory()  # what a large model was made or read with; rounds need another layout
    state, end = running.as_far_as_it_goes()
    if end == "paused":
        kept.pause(round=state.round, phase=state.phase)
    else:
        kept.end(end, _result(study, state, None if study.survey else publish(state)))


def _result(study: Study, state: RunState, model: str | None) -> dict[str, Any]:
    plan = Plan.of(study)
    training = study.mechanism.steps if state.phase in ("evaluation", "done") else state.round - 1
    result: dict[str, Any] = {
        "rounds": int(bool(state.counted)) if study.survey else training,
        "epsilon": plan.epsilon,
        "delta": study.mechanism.delta,
    }
    if model is None:
        return result | {
            "survey": {
                hospital: [asdict(column) for column in columns]
                for hospital, columns in state.counted.items()
            }
        }
    return result | {
        "estimate": asdict(state.estimate) if state.estimate else None,
        "subgroups": {name: asdict(found) for name, found in state.subgroups.items()},
        "model": model,
        "model_digest": model_digest(state.model),
    }
