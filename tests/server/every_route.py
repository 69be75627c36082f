"""FLO's own calls of the private listener, as far as their routes matter."""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI

from flo.server.job_access import JobKeys
from flo.server.operator_api import operator_app
from flo.server.refusals import Refusals
from flo.server.store import Offer, Store
from flo.study import Study


def own_calls(store: Store) -> FastAPI:
    """The application behind them, which does nothing."""
    return operator_app(store, Path(), list, _offers, _shreds, _opens, bytes, bool, Refusals(store))


def filled(path: str) -> str:
    """A route's path with names of nothing that is there."""
    run = "run-0-000000"
    for name, value in {"{digest}": "0" * 64, "{run}": run, "{job}": f"flo-{run}-1"}.items():
        path = path.replace(name, value)
    return path


def _offers(study: Study, person: str, place: str) -> Offer:
    return Offer(study, "", "offered")


def _shreds(offer: Offer, person: str) -> int:
    return 0


def _opens(job: str) -> JobKeys:
    raise AssertionError
