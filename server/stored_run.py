"""A run that is carried out here: its state in the coordinator's database, sealed."""

from __future__ import annotations

from typing import Any

from flo.claims import Head
from flo.keystore import KeyStore
from flo.server import checkpoint
from flo.server.rounds import RunState
from flo.server.store import Store
from flo.study import Study


class StoredRun:
    """Written by the latest launch only."""

    def __init__(self, store: Store, run: str, study: Study, keystore: KeyStore) -> None:
        self._store, self._run, self._study = store, run, study
        self._keystore, self._launch = keystore, store.take_run(run)
        self._context = {"purpose": "checkpoint", "study": study.digest, "run": run}
        self.nodes, self.connections = store.nodes, store.connections

    def load(self) -> RunState | None:
        record = self._store.run(self._run)
        if record is None or record.state is None:
            return None
        return checkpoint.from_bytes(self._keystore.open(self._context, record.state))

    def save(self, state: RunState) -> None:
        sealed = self._keystore.seal(self._context, checkpoint.to_bytes(state))
        self._store.save_state(self._run, self._launch, sealed)

    def pause(self, **facts: object) -> None:
        self._store.pause_run(self._run, self._launch)
        self.event("paused", **facts)

    def end(self, status: str, result: dict[str, Any]) -> None:
        self._store.end_run(self._run, self._launch, status, result)
        self.event(status, **result)

    def failed(self, why: str) -> None:
        self.event("failed", why=why)

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
