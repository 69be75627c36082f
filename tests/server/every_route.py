"""FLO's own calls of the private listener, as far as their routes matter."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from fastapi import FastAPI

from flo.audit_log import AuditLog
from flo.identity import Identity
from flo.server.acts import Acts
from flo.server.console.room import Room
from flo.server.console.routes import console_app
from flo.server.console.studies import Board, Stories
from flo.server.heard import Heard
from flo.server.job_access import JobKeys
from flo.server.operator_api import operator_app
from flo.server.refusals import Refusals
from flo.server.store import Offer, Store
from flo.study import Study


@contextmanager
def own_calls(folder: Path) -> Iterator[list[FastAPI]]:
    """The applications behind them, which do nothing: for programs, and the console."""
    identity = Identity.new()
    with (
        closing(Store(folder / "coordinator.sqlite")) as store,
        closing(AuditLog(folder / "audit.sqlite", identity)) as log,
    ):
        acts, refusals = Acts(store, _offers, _shreds, bytes), Refusals(store)
        board = Board(store, Stories(store), Heard(), _Nobody(), "0" * 64)
        room = Room(acts, board, log, _nothing, identity.fingerprint, refusals)
        yield [
            operator_app(store, acts, Path(), list, _opens, bool, refusals),
            console_app(room),
        ]


class _Nobody:
    """No agent is connected."""

    def is_online(self, node: int) -> bool:
        return False

    def owes_since(self, node: int) -> float | None:
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
    }.items():
        path = path.replace(name, value)
    return path


def _offers(study: Study, person: str, place: str) -> Offer:
    return Offer(study, "", "offered")


def _shreds(offer: Offer, person: str) -> int:
    return 0


def _opens(job: str) -> JobKeys:
    raise AssertionError


def _nothing() -> None:
    return
