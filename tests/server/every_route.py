"""FLO's own calls of the private listener, as far as their routes matter."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from fastapi import FastAPI

from flo.audit.log import AuditLog
from flo.keys.identity import Identity
from flo.published.model_states import ModelStates
from flo.server.api.operator_api import operator_app
from flo.server.audit.rate_limited import RateLimitedAudit
from flo.server.console.context import ConsoleContext
from flo.server.console.routes import console_app
from flo.server.console.view import ProgressCache, StudyViews
from flo.server.home.coordinator_home import CoordinatorHome
from flo.server.http.last_seen import LastSeen
from flo.server.runs.job_access import JobKeys
from flo.server.store.store import Offer, Store
from flo.server.studies.actions import OperatorActions
from flo.server.studies.model_decisions import Step
from flo.server.studies.signing import StudySigner
from flo.study.document import Study


@contextmanager
def own_calls(folder: Path) -> Iterator[list[FastAPI]]:
    """The applications behind them, which do nothing: for programs, and the console."""
    identity = Identity.new()
    with (
        closing(Store(folder / "coordinator.sqlite")) as store,
        closing(AuditLog(folder / "audit.sqlite", identity)) as log,
    ):
        signer = StudySigner(CoordinatorHome(folder), store)
        actions, audit = (
            OperatorActions(store, signer, _offers, _decides, _shreds, bytes),
            RateLimitedAudit(store),
        )
        views = StudyViews(store, ProgressCache(store), LastSeen(), _Nobody(), "0" * 64)
        room = ConsoleContext(actions, views, log, _nothing, identity.fingerprint, audit)
        yield [
            operator_app(store, actions, Path(), list, _opens, bool, audit),
            console_app(room),
        ]


class _Nobody:
    """No agent is connected."""

    def is_online(self, node: int) -> bool:
        return False

    def oldest_pending_request(self, node: int) -> float | None:
        return None


def filled(path: str) -> str:
    """A route's path with names of nothing that is there."""
    run = "run-0-000000"
    for name, value in {
        "{digest}": "0" * 64,
        "{run}": run,
        "{job}": f"flo-{run}-1",
        "{draft}": "0" * 16,
        "{file}": "card",
        "{form}": "json",
        "{step}": "withdraw",
    }.items():
        path = path.replace(name, value)
    return path


def _offers(study: Study, person: str, place: str) -> Offer:
    return Offer(study, "", "offered")


def _decides(offer: Offer, step: Step, why: str, person: str) -> ModelStates:
    return ModelStates(name=offer.study.name)


def _shreds(offer: Offer, person: str) -> int:
    return 0


def _opens(job: str) -> JobKeys:
    raise AssertionError


def _nothing() -> None:
    return
