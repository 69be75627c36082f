"""Execution of a run, from its saved state to its end, at the coordinator or elsewhere.

The differences between places are arguments: the state's storage (``RunBackend``) and the
publication of the model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, Protocol

import numpy as np

from flo.errors import FloError
from flo.host.memory import give_back_freed_memory
from flo.privacy.accounting.plan import Plan
from flo.privacy.releases import model_noise
from flo.privacy.releases.calibration import Calibration
from flo.protocol.messages import model_digest
from flo.published.golden import Golden
from flo.server.flower.app_client import GridLargeBodies, GridMessages
from flo.server.flower.grid import GridExchange
from flo.server.rounds.continuing import EarlierModel
from flo.server.rounds.known_noise import known_noise
from flo.server.rounds.loop import RunStore, StudyRun
from flo.server.rounds.state import RunState, with_model_of_inputs
from flo.study.document import Study
from flo.study.parameters import Vector

_BACK_SECONDS = 3.0  # for agents to reconnect after a restart


class RunBackend(RunStore, Protocol):
    """Storage of a run's state and its end: ``LocalRunStore`` here, ``RemoteRunStore`` elsewhere.

    Each call may raise FloError, for instance when another process has taken over the run.
    """

    def load(self) -> RunState | None:
        """Return the saved state; None if there is none. Raises TrustError if it was changed."""

    def earlier(self) -> EarlierModel | None:
        """Return the model that the study continues, if any. Raises TrustError, StudyError."""

    def compared(self) -> Vector:
        """Return the published models that are compared or watched. Raises as ``earlier`` does."""

    def nodes(self) -> dict[str, int]:
        """Return hospital id -> Flower's node id."""

    def connections(self) -> dict[str, int]:
        """Return hospital id -> how often its agent has connected."""

    def pause(self, **facts: object) -> None:
        """Pause the run; it can continue later from its saved state. ``facts``: the event's."""

    def end(self, status: str, result: dict[str, Any]) -> None:
        """End the run with this status and result, and record the event."""

    def failed(self, why: str) -> None:
        """Record that this process cannot continue the run."""


def execute_run(
    study: Study,
    run: str,
    grid: Any,
    kept: RunBackend,
    publish: Callable[[RunState], str],
    *,
    here: bool,
) -> None:
    """Carry out a run until it is paused or over.

    ``publish`` stores the model of a state and returns its location. ``here``: on the coordinator's
    machine.

    Raises:
        FloError: the saved state cannot be opened, the coordinator does not answer, or another
            process has taken over the run.
    """
    bodies = GridLargeBodies(grid, here=here)
    messages = GridMessages(grid)
    exchange = GridExchange(messages, kept.nodes, kept.connections, kept.stop_requested, bodies)
    try:
        _carry_out(study, run, exchange, kept, publish)
    except FloError as error:
        kept.failed(str(error))
        raise


def _carry_out(
    study: Study,
    run: str,
    exchange: GridExchange,
    kept: RunBackend,
    publish: Callable[[RunState], str],
) -> None:
    saved = kept.load()
    present = exchange.wait_for(
        [hospital.id for hospital in study.hospitals],
        min(study.limits.deadline_seconds, _BACK_SECONDS if saved else math.inf),
    )
    kept.event("online", hospitals=sorted(present))
    start = saved or RunState.start(study, kept.earlier(), kept.compared())
    running = StudyRun(study, run, start, exchange, kept)
    del saved, start  # it may be large, and the run mutates it
    give_back_freed_memory()  # freed after making or reading a model; rounds need another layout
    state, end = running.as_far_as_it_goes()
    if end == "paused":
        kept.pause(round=state.round, phase=state.phase)
    else:
        state = with_model_of_inputs(study, state)
        kept.end(end, _result(study, state, publish(state) if study.trains else None))


def _result(study: Study, state: RunState, model: str | None) -> dict[str, Any]:
    plan = Plan.of(study)
    if not study.trains:
        return _counted(study, state)
    training = (
        study.mechanism.steps if state.phase in ("evaluation", "gate", "done") else state.round - 1
    )
    result: dict[str, Any] = {
        "rounds": training,
        "epsilon": plan.epsilon,
        "delta": study.mechanism.delta,
    }
    return result | {
        "estimate": asdict(state.estimate) if state.estimate else None,
        "subgroups": {name: asdict(found) for name, found in state.subgroups.items()},
        "calibration": state.calibration and state.calibration.model_dump(mode="json"),
        **({"earlier_horizons": _dumped(state.earlier_horizons)} if state.earlier_horizons else {}),
        **({"steps": _dumped(state.steps)} if state.steps else {}),
        **({"by_class": _dumped(state.by_class)} if state.by_class else {}),
        "model": model,
        "model_digest": model_digest(state.model),
        **({"gate": _asked(state)} if state.compared_digest else {}),
        **({"evaluated": _evaluated(state)} if state.evaluated_by else {}),
        **(_explained(study, state) if study.schema_version >= 4 else {}),
    }


def _explained(study: Study, state: RunState) -> dict[str, Any]:
    """Return golden cases, noise and average of the model, as its card states them."""
    golden = Golden.of(study, state.model, state.calibration)
    found: dict[str, Any] = {"golden": golden.model_dump(mode="json") if golden else None}
    noise = known_noise(study, state)
    if noise is None:
        return found
    covariance = model_noise.packed(noise.covariance)
    return found | {
        "noise": covariance.tolist(),
        "average": noise.average.tolist(),
        "average_deviation": noise.deviation,
    }


def _dumped(curves: Sequence[Calibration]) -> list[dict[str, Any]]:
    return [one.model_dump(mode="json") for one in curves]


def _sum(state: RunState) -> dict[str, Any]:
    return {"values": state.sums.tolist(), "hospitals": list(state.sums_of)}


def _evaluated(state: RunState) -> dict[str, Any]:
    return {"values": state.evaluated.tolist(), "hospitals": list(state.evaluated_by)}


def _asked(state: RunState) -> dict[str, Any]:
    return _sum(state) | {"asked": state.compared_digest}


def _counted(study: Study, state: RunState) -> dict[str, Any]:
    """Return the result of a study that trains nothing; without figures if it released nothing."""
    released = bool(len(state.sums)) or bool(state.regressed_of)
    plan = Plan.of(study)
    result: dict[str, Any] = {
        "rounds": int(len(state.sums) > 0) + len(state.regressed_of),
        "epsilon": plan.epsilon,
        "delta": study.mechanism.delta,
    }
    if not released:
        return result
    if study.compares:
        return result | {"gate": _asked(state)}
    if study.monitor:
        return result | {"monitor": _asked(state)}
    count = max(len(state.regressed_of), 1)
    rounds = zip(np.split(state.regressed, count), np.split(state.regressed_at, count), strict=True)
    return result | {
        "statistics": {
            **_sum(state),
            "rounds": [
                {"values": one.tolist(), "asked": asked.tolist(), "hospitals": list(of)}
                for (one, asked), of in zip(rounds, state.regressed_of, strict=False)
            ],
        }
    }
