"""Storage of a run that is carried out elsewhere: states in a store, the rest at the coordinator.

A state is saved in this order: it is sealed and put into the store, which never overwrites; then
its place is reported to the coordinator, which accepts reports of the latest launch only. So the
coordinator always knows the digest of the one valid state, and an older state that is put in its
place is noticed.
"""

from __future__ import annotations

import contextlib
import time
from typing import Any

from flo.documents import canonical
from flo.documents.document import parse
from flo.errors import FloError, MessageError, RefusedError, TrustError, UsageError
from flo.keys import sealed
from flo.keys.claims import LedgerHead
from flo.keys.keystore import Context, KeyStore
from flo.server.rounds import checkpoint
from flo.server.rounds.checkpoint_vectors import REUSED, KeptVectors
from flo.server.rounds.continuing import EarlierModel
from flo.server.rounds.state import RunState
from flo.server.runs import earlier
from flo.server.runs.remote_client import RemoteRunClient
from flo.server.runs.remote_documents import (
    ClaimedRun,
    RunEnd,
    RunEvent,
    RunReport,
    RunStatus,
    Saved,
    facts_of,
)
from flo.storage.artifacts import ArtifactStore
from flo.study.document import Study
from flo.study.loading import from_canonical
from flo.study.parameters import Vector

MAX_STATE_BYTES = 64 << 20
_FRESH_SECONDS = 0.3  # a status of the coordinator is used for this long
_LONGEST = 500  # characters of a reason
EARLIER = "state-00000000-000000"  # before every number and launch
# Older states are kept because a coordinator restored from a backup continues from one of them.
_KEEP, _CLEAR_EVERY = 256, 64


class RemoteRunStore:
    """Storage of one run. Creating it takes over the run: earlier launches are refused."""

    def __init__(
        self,
        link: RemoteRunClient,
        run: str,
        study: str,
        artifacts: ArtifactStore,
        keystore: KeyStore,
    ) -> None:
        """``study``: the digest of the study that this aggregator was launched for.

        Raises:
            TrustError: the coordinator sends another one. Also raises as ``RemoteRunClient.post``.
        """
        self._link, self._run = link, run
        self._artifacts, self._keystore = artifacts, keystore
        taken = parse(ClaimedRun, link.post("take", b""), "the coordinator's answer")
        self.study: Study = from_canonical(taken.study.encode())
        if self.study.digest != study:
            raise TrustError("the coordinator sent another study than this job is for")
        self._launch, self._saved = taken.launch, taken.saved
        context = {"purpose": "checkpoint", "study": study, "run": run}
        self._vectors = KeptVectors(artifacts, keystore, context)
        self._number = taken.saved.number if taken.saved else 0
        self._events: list[RunEvent] = []
        self._heads: dict[str, LedgerHead] = {}
        self._look, self._looked = taken.look, time.monotonic()

    # -- the state -------------------------------------------------------------------------------

    def load(self) -> RunState | None:
        """Return the saved state; None if there is none yet.

        Raises:
            TrustError: it is missing, is not the last one saved, or was changed.
        """
        saved = self._saved
        if saved is None:
            return None
        what = f"the saved state of {saved.phase} {saved.round} ({self._key(saved.number)})"
        try:
            kept = self._artifacts.get(self._key(saved.number), MAX_STATE_BYTES)
        except UsageError as error:
            raise TrustError(f"{what} is missing") from error
        if canonical.digest(kept) != saved.digest:
            raise TrustError(f"{what} is not the last one saved, or was changed")
        state = sealed.unseal(self._keystore, self._context(saved.phase, saved.round), kept, what)
        return checkpoint.from_bytes(state, self._vectors.load)

    def earlier(self) -> EarlierModel | None:
        """Return the model that the study continues, if any. Raises TrustError as ``load`` does."""
        return earlier.load_earlier(self.study, self._vectors, self._run, EARLIER)

    def compared(self) -> Vector:
        """Return the gate's models that were published before. Raises as ``load`` does."""
        return earlier.load_compared(self.study, self._vectors, self._run, EARLIER)

    def save(self, state: RunState) -> None:
        """Seal the state, put it into the store, and report its place.

        Raises:
            RefusedError: a later launch has taken over the run, or it is over.
        """
        context = self._context(state.phase, state.round)
        named: set[str] = set()

        def keep(name: str, vector: Vector) -> str:
            named.add(key := self._keep(name, vector))
            return key

        kept = sealed.seal(self._keystore, context, checkpoint.to_bytes(state, keep))
        self._vectors.forget_all_but(named)
        self._put(kept)
        self._tell(
            saved=Saved(
                number=self._number,
                digest=canonical.digest(kept),
                phase=state.phase,
                round=state.round,
            )
        )
        if self._number % _CLEAR_EVERY == 0:
            self._remove_before(self._number - _KEEP)

    def save_round(self, state: RunState, **facts: object) -> None:
        """Save the state; its report includes the event ``round``. Raises as ``save`` does."""
        self.event("round", **facts)
        self.save(state)

    def _keep(self, name: str, vector: Vector) -> str:
        """Store a vector of the next state under a key that only this launch uses."""
        number = self._number + 1
        key = f"runs/{self._run}/state-{number:08}-{self._launch:06}-{name}.sealed"
        return self._vectors.keep(name, vector, number, key)

    def _put(self, kept: bytes) -> None:
        """Store a state under the next free number; another launch's process may have used some."""
        while True:
            self._number += 1
            try:
                self._artifacts.put(self._key(self._number), kept)
            except RefusedError:
                self._tell()  # raises RefusedError if that launch is a later one
            else:
                return

    def _remove_before(self, number: int) -> None:
        """Remove states with a smaller number, and vectors that no later state can reference."""
        for key in self._artifacts.keys(f"runs/{self._run}/"):
            oldest = number - (0 if key == self._key(_number_of(key)) else REUSED)
            if _number_of(key) < oldest:
                self._artifacts.remove(key)

    def _key(self, number: int) -> str:
        return f"runs/{self._run}/state-{number:08}.sealed"

    def _context(self, phase: str, round_: int) -> Context:
        return {
            "purpose": "checkpoint",
            "study": self.study.digest,
            "run": self._run,
            "round": f"{phase} {round_}",
        }

    # -- what the coordinator keeps ----------------------------------------------------------------

    def keep_head(self, hospital: str, head: LedgerHead) -> None:
        """Buffer a head for the next report. Raises TrustError if the hospital did not sign it."""
        head.check(self.study.hospital(hospital).fingerprint)
        if hospital not in self._heads or head.sequence > self._heads[hospital].sequence:
            self._heads[hospital] = head

    def heads(self) -> dict[str, LedgerHead]:
        """Report the heads seen here; return the coordinator's highest heads."""
        self._tell()
        return dict(self._look.heads)

    def event(self, kind: str, **facts: object) -> None:
        """Buffer an event for the next report; texts are truncated to 500 characters.

        Raises:
            UsageError: a run has no such event, or the event has other facts.
        """
        cut = {n: v[:_LONGEST] if isinstance(v, str) else v for n, v in facts.items()}
        self._events.append(parse(RunEvent, {"kind": kind, "facts": cut}, "an event"))

    def stop_requested(self) -> bool:
        """Return whether the run is to end, as reported within the last 0.3 seconds."""
        return self._fresh().stop

    def nodes(self) -> dict[str, int]:
        """Return hospital id -> Flower's node id, as reported within the last 0.3 seconds."""
        return {hospital: int(node) for hospital, node in self._fresh().nodes.items()}

    def connections(self) -> dict[str, int]:
        """Return hospital id -> number of connections, as reported within the last 0.3 seconds."""
        return dict(self._fresh().connections)

    def pause(self, **facts: object) -> None:
        """Report the pause; the saved states are kept."""
        self.event("paused", **facts)
        self._tell(end=RunEnd(status="paused"))

    def end(self, status: str, result: dict[str, Any]) -> None:
        """Report the end, then remove every saved state of the run."""
        self.event(status, **facts_of(result))
        self._tell(end=parse(RunEnd, {"status": status, "result": result}, "the end"))
        self._remove_before(self._number + 1 + REUSED)

    def failed(self, why: str) -> None:
        """Report the failure if possible; a report that fails raises no error."""
        self.event("failed", why=why)
        with contextlib.suppress(FloError):  # another process has the run, or no answer
            self._tell()

    def _fresh(self) -> RunStatus:
        if time.monotonic() > self._looked + _FRESH_SECONDS:
            self._tell()
        return self._look

    def _tell(self, *, saved: Saved | None = None, end: RunEnd | None = None) -> None:
        """Report all that is buffered. Raises RefusedError if another launch has the run."""
        told = RunReport(
            launch=self._launch, events=tuple(self._events), heads=self._heads, saved=saved, end=end
        )
        answer = self._link.post("tell", told.to_bytes())
        try:
            self._look = parse(RunStatus, answer, "the coordinator's answer")
        except UsageError as error:
            raise MessageError(str(error)) from error
        self._looked = time.monotonic()
        self._events, self._heads = [], {}
        if saved is not None:
            self._saved = saved


def _number_of(key: str) -> int:
    return int(key.rpartition("/state-")[2][:8])
