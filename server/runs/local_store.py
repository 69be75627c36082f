"""Storage of a run that is carried out here: its sealed state is in the coordinator's database.

Large vectors are in ``states/`` of the coordinator's folder.
"""

from __future__ import annotations

from typing import Any

from flo.host.memory import give_back_freed_memory
from flo.keys.claims import LedgerHead
from flo.keys.keystore import AesKeyStore
from flo.server.rounds import checkpoint
from flo.server.rounds.checkpoint_vectors import KeptVectors
from flo.server.rounds.continuing import EarlierModel
from flo.server.rounds.state import RunState
from flo.server.runs import earlier
from flo.server.runs.remote_documents import facts_of
from flo.server.store.run_tables import Event
from flo.server.store.store import Store
from flo.storage.artifacts import LocalArtifacts
from flo.study.document import Study
from flo.study.parameters import Vector

# Prefix of models published before (``flo.server.runs.earlier``), before every launch and number.
EARLIER = "000000-00000000"
_KEEP = 3  # saves whose vectors are kept, for a backup that is being made


class LocalRunStore:
    """Storage of one run; only the run's latest launch may write."""

    def __init__(
        self, store: Store, run: str, study: Study, keystore: AesKeyStore, artifacts: LocalArtifacts
    ) -> None:
        self._store, self._run, self._study = store, run, study
        self._keystore, self._launch = keystore, store.take_run(run)
        self._context = {"purpose": "checkpoint", "study": study.digest, "run": run}
        self._artifacts, self._number = artifacts, 0
        self._vectors = KeptVectors(artifacts, keystore, self._context)
        self._named: list[set[str]] = []  # keys that the last saves named
        self.nodes, self.connections = store.nodes, store.connections

    def load(self) -> RunState | None:
        """Return the saved state; None if there is none. Raises TrustError if it was changed."""
        record = self._store.run(self._run)
        if record is None or record.state is None:
            return None
        state = self._keystore.open(self._context, record.state)
        return checkpoint.from_bytes(state, self._vectors.load)

    def earlier(self) -> EarlierModel | None:
        """Return the model that the study continues, if any. Raises TrustError as ``load`` does."""
        return earlier.load_earlier(self._study, self._vectors, self._run, EARLIER)

    def compared(self) -> Vector:
        """Return the gate's models that were published before. Raises as ``load`` does."""
        return earlier.load_compared(self._study, self._vectors, self._run, EARLIER)

    def save(self, state: RunState) -> None:
        """Seal the state into the database and its large vectors into files; remove old vectors.

        Raises:
            RefusedError: the run is over, or a later launch has taken it over.
        """
        self._save(state)

    def save_round(self, state: RunState, **facts: object) -> None:
        """Save the state and the event ``round`` in one transaction. Raises as ``save`` does."""
        self._save(state, ("round", facts))

    def _save(self, state: RunState, *events: Event) -> None:
        self._number += 1
        named: set[str] = set()

        def keep(name: str, vector: Any) -> str:
            key = f"runs/{self._run}/{self._launch:06}-{self._number:08}-{name}.sealed"
            named.add(kept := self._vectors.keep(name, vector, self._number, key))
            return kept

        sealed = self._keystore.seal(self._context, checkpoint.to_bytes(state, keep))
        self._store.save_state(self._run, self._launch, sealed, events)
        self._vectors.forget_all_but(named)
        if named:
            self._remove_all_but(named)
            give_back_freed_memory()  # the old vectors', before other objects fill it

    def pause(self, **facts: object) -> None:
        """Pause the run. Raises RefusedError, as ``save`` does."""
        self._store.pause_run(self._run, self._launch)
        self.event("paused", **facts)

    def end(self, status: str, result: dict[str, Any]) -> None:
        """Store the result and remove all vectors. Raises RefusedError, as ``save`` does."""
        self._store.end_run(self._run, self._launch, status, result)
        self._named = []
        self._remove_all_but(set())
        self.event(status, **facts_of(result))

    def failed(self, why: str) -> None:
        """Record the failure as an event; the run stays as it was saved."""
        self.event("failed", why=why)

    def heads(self) -> dict[str, LedgerHead]:
        """Return the highest head seen, in any study, of each of this study's hospitals."""
        partners = {hospital.id for hospital in self._study.hospitals}
        return {name: head for name, head in self._store.heads().items() if name in partners}

    def keep_head(self, hospital: str, head: LedgerHead) -> None:
        """Store a head. Raises TrustError if it is not signed by the key that the study names."""
        head.check(self._study.hospital(hospital).fingerprint)
        self._store.keep_head(hospital, head, self._study.digest)

    def event(self, kind: str, **facts: object) -> None:
        """Record an event of the study."""
        self._store.add_event(self._study.digest, kind, **facts)

    def stop_requested(self) -> bool:
        """Return whether the run is to end, as the database has it now."""
        return self._store.stop_requested(self._run)

    def _remove_all_but(self, named: set[str]) -> None:
        """Remove vectors that the last saves do not use, but none of a later launch."""
        self._named = [*self._named, named][-_KEEP:]
        needed = set().union(*self._named)
        for key in self._artifacts.keys(f"runs/{self._run}/"):
            if key not in needed and key < f"runs/{self._run}/{self._launch + 1:06}":
                self._artifacts.remove(key)
