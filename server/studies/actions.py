"""Operators' actions at the coordinator, shared by the HTTP API and the console.

The audit log records each with the name of the person; ``flo.server.http.roles`` says which role
may do it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from flo.errors import StudyError
from flo.published.model_states import ModelStates
from flo.server.store.store import Offer, RunPlace, Store
from flo.server.studies.model_decisions import Step
from flo.server.studies.publish import published_result
from flo.server.studies.signing import StudySigner
from flo.study.document import Study


@dataclass(frozen=True)
class OperatorActions:
    """``signer``: says what would be signed. ``offer``: signs and offers a study for a person, with
    the place of its runs.

    ``decide``: promotes, rolls back or withdraws a study's model, for a reason and a person.
    ``shred``: erases a study's key and files for a person. ``export``: returns a signed copy of
    the audit log. ``places``: where runs can be executed.
    """

    store: Store
    signer: StudySigner
    offer: Callable[[Study, str, RunPlace], Offer]
    decide: Callable[[Offer, Step, str, str], ModelStates]
    shred: Callable[[Offer, str], int]
    export: Callable[[], bytes]
    places: tuple[RunPlace, ...] = ("here",)

    def find(self, digest: str) -> Offer:
        """Return the study with this digest. Raises StudyError if it does not exist."""
        found = self.store.offer(digest)
        if found is None:
            raise StudyError(f"study {digest[:12]} does not exist", hint="see `flo study list`")
        return found

    def statistics(self, digest: str) -> Path:
        """Return the path of a study's signed statistics. Raises StudyError: there are none."""
        asked = self.find(digest).study.statistics is not None
        return self._result(digest, asked, "statistics", "only a study with [statistics] has them")

    def gate(self, digest: str) -> Path:
        """Return the path of the signed result of a gate between two published models.

        Raises StudyError: there is none.
        """
        asked, otherwise = (
            self.find(digest).study.compares,
            "flo model show states the gate of a model",
        )
        return self._result(digest, asked, "gate's result", otherwise)

    def monitor(self, digest: str) -> list[Path]:
        """Return the paths of the signed results of a monitor's periods, up to this one.

        Raises StudyError: there is none.
        """
        found = self.find(digest).study.monitor
        if found is None:
            raise StudyError(
                "only a study with [monitor] has one", hint="flo model monitor drafts it"
            )
        periods = (published_result(self.store, one) for one in (*found.earlier, digest))
        paths = [path for path in periods if path is not None]
        if not paths:
            self._result(digest, True, "monitor's result", "")
        return paths

    def _result(self, digest: str, asked: bool, what: str, otherwise: str) -> Path:
        """Return the path of a signed result; ``otherwise``: the hint if it was not ``asked``."""
        study = self.find(digest).study
        path = published_result(self.store, digest) if asked else None
        if path is None:
            soon = "a result is published some seconds after the run has ended"
            raise StudyError(f"study {study.name} has no {what}", hint=soon if asked else otherwise)
        return path

    def stop(self, digest: str, person: str) -> None:
        """Stop a study after its current round, or immediately if no run has started.

        Raises:
            StudyError: the study is over, or does not exist.
        """
        found = self.find(digest)
        if not self.store.request_stop(digest):
            if found.status != "offered":
                raise StudyError(f"study {found.study.name} is {found.status}, not running")
            self.store.set_status(digest, "stopped")
        self.store.add_event(digest, "stop-requested", by=person)

    def export_log(self, person: str) -> bytes:
        """Return a signed copy of the audit log; its last entries include this export."""
        self.store.add_event(None, "audit-log-exported", by=person)
        return self.export()
