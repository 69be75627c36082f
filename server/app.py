"""The ServerApp that Flower's SuperExec starts: one run, from its checkpoint to its model.

Loaded by name from the app descriptor (``flo.server.app:app``). It reads its run from the
coordinator's folder and carries messages through Flower's grid; everything it decides is in
``flo.server.rounds``.
"""

from __future__ import annotations

import math
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flo.claims import Head
from flo.errors import UsageError
from flo.keystore import KeyStore, LocalKeyStore
from flo.messages import model_digest
from flo.privacy.plan import Plan
from flo.server import checkpoint
from flo.server.grid import GridExchange, server_app
from flo.server.home import CHECKPOINT_KEY_VARIABLE, HOME_VARIABLE, CoordinatorHome
from flo.server.publish import write_tensors
from flo.server.rounds import RunState
from flo.server.run import run_study
from flo.server.store import Store
from flo.study import Study

_BACK_SECONDS = 3.0  # for agents to come back after a restart


class StoredRun:
    """A run's state in the coordinator's database, sealed; written by the latest launch only."""

    def __init__(self, store: Store, run: str, study: Study, keystore: KeyStore) -> None:
        self._store, self._run, self._study = store, run, study
        self._keystore, self._launch = keystore, store.take_run(run)
        self._context = {"purpose": "checkpoint", "study": study.digest, "run": run}

    def load(self) -> RunState | None:
        """The saved state; None if there is none yet. Raises TrustError if it was changed."""
        record = self._store.run(self._run)
        if record is None or record.state is None:
            return None
        return checkpoint.from_bytes(self._keystore.open(self._context, record.state))

    def save(self, state: RunState) -> None:
        sealed = self._keystore.seal(self._context, checkpoint.to_bytes(state))
        self._store.save_state(self._run, self._launch, sealed)

    def pause(self) -> None:
        self._store.pause_run(self._run, self._launch)

    def end(self, status: str, result: dict[str, Any]) -> None:
        self._store.end_run(self._run, self._launch, status, result)

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
    stored = StoredRun(store, run, study, LocalKeyStore(Path(os.environ[CHECKPOINT_KEY_VARIABLE])))
    saved = stored.load()
    present = exchange.wait_for(
        [hospital.id for hospital in study.hospitals],
        min(study.limits.deadline_seconds, _BACK_SECONDS if saved else math.inf),
    )
    stored.event("online", hospitals=sorted(present))
    state, end = run_study(study, run, saved or RunState.start(study), exchange, stored)
    if end == "paused":
        stored.pause()
        stored.event("paused", round=state.round, phase=state.phase)
    else:
        path = None if study.survey else write_tensors(home, study, run, state)
        result = _result(study, state, path)
        stored.end(end, result)
        stored.event(end, **result)
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
