"""The ServerApp that Flower's SuperExec starts: one run, from its checkpoint to its model.

Loaded by name from the app descriptor (``flo.server.app:app``). It reads its run from the
coordinator's folder and carries messages through Flower's grid; everything it decides is in
``flo.server.rounds``.
"""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flo.claims import Head
from flo.errors import UsageError
from flo.messages import model_digest
from flo.privacy.plan import Plan
from flo.server import checkpoint
from flo.server.grid import GridExchange, server_app
from flo.server.home import HOME_VARIABLE, CoordinatorHome
from flo.server.publish import write_tensors
from flo.server.rounds import RunState
from flo.server.run import run_study
from flo.server.store import Store
from flo.study import Study


class StoredRun:
    """A run's state in the coordinator's database."""

    def __init__(self, store: Store, run: str, study: Study) -> None:
        self._store, self._run, self._study = store, run, study

    def save(self, state: RunState) -> None:
        self._store.save_state(self._run, checkpoint.to_bytes(state))

    def heads(self) -> dict[str, Head]:
        partners = {hospital.id for hospital in self._study.hospitals}
        return {name: head for name, head in self._store.heads().items() if name in partners}

    def keep_head(self, hospital: str, head: Head) -> None:
        head.check(self._study.hospital(hospital).fingerprint)
        self._store.keep_head(hospital, head)

    def event(self, kind: str, **facts: object) -> None:
        self._store.add_event(self._study.digest, kind, **facts)

    def stop_requested(self) -> bool:
        return self._store.stop_requested(self._run)


def _main(grid: Any, run: str) -> None:
    home = CoordinatorHome.open(Path(os.environ[HOME_VARIABLE]))
    store = home.store()
    record = store.run(run)
    offer = store.offer(record.study) if record else None
    if record is None or offer is None:
        raise UsageError(f"run {run} is not known here")
    study = offer.study
    exchange = GridExchange(grid, store.nodes, store.connections, lambda: store.stop_requested(run))
    stored = StoredRun(store, run, study)
    present = exchange.wait_for(
        [hospital.id for hospital in study.hospitals],
        study.cohort_floor,
        study.limits.deadline_seconds,
    )
    stored.event("online", hospitals=sorted(present))
    state = checkpoint.from_bytes(record.state) if record.state else RunState.start(study)
    state = run_study(study, run, state, exchange, stored)
    path = None if study.survey else write_tensors(home, study, run, state)
    status = "done" if state.phase == "done" else "stopped" if stored.stop_requested() else "ended"
    result = _result(study, state, path)
    store.end_run(run, status, result)
    store.add_event(study.digest, status, **result)
    store.close()


def _result(study: Study, state: RunState, path: Path | None) -> dict[str, Any]:
    plan = Plan.of(study)
    training = study.mechanism.steps if state.phase in ("evaluation", "done") else state.round - 1
    result: dict[str, Any] = {
        "rounds": int(bool(state.counted)) if study.survey else training,
        "epsilon": plan.epsilon,
        "delta": study.mechanism.delta,
    }
    if path is None:
        return result | {
            "survey": {
                hospital: [asdict(column) for column in columns]
                for hospital, columns in state.counted.items()
            }
        }
    return result | {
        "estimate": asdict(state.estimate) if state.estimate else None,
        "subgroups": {name: asdict(found) for name, found in state.subgroups.items()},
        "model": str(path),
        "model_digest": model_digest(state.model),
    }


app = server_app(_main)
