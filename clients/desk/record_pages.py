"""The desk's pages that look back: the budget, what left, and the audit log."""

from __future__ import annotations

from contextlib import closing
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from flo.clients.desk import facts
from flo.clients.desk.room import Room
from flo.errors import UsageError
from flo.pages.record import ChainCheck, countersigned

_ENTRIES = 100


def record_router(room: Room) -> APIRouter:
    """Routes to read budget, releases and audit log; nothing is changed by them."""
    router, home = APIRouter(), room.home
    check = ChainCheck(home.audit_log())

    @router.get(f"{room.base}/budget")
    def budget(request: Request, population: str = "", epsilon: str = "") -> Response:
        with closing(home.ledger()) as ledger:
            asked = _asked(epsilon)
            chosen = home.config.population(population).name if asked else ""
            answers = facts.would_fit(ledger, chosen, asked) if asked else []
            found = facts.lives(ledger)
        values: dict[str, Any] = {
            "lives": found,
            "answers": answers,
            "asked": population,
            "epsilon": epsilon,
        }
        return room.page(request, "budget.html.j2", **values)

    @router.get(f"{room.base}/releases")
    def releases(request: Request) -> Response:
        with closing(home.ledger()) as ledger:
            found, count = facts.releases(ledger)
        return room.page(request, "releases.html.j2", releases=found, count=count)

    @router.get(f"{room.base}/log")
    def log(request: Request, study: str = "", kind: str = "") -> Response:
        with closing(home.audit_log()) as audit:
            entries, count = audit.latest(_ENTRIES, study=study or None, kind=kind or None)
            signers = countersigned(audit)
        return room.page(
            request,
            "log.html.j2",
            entries=entries,
            count=count,
            checked=check.go_on(),
            countersigned=[("the coordinator", number) for _, number in signers],
            study=study,
            kind=kind,
        )

    return router


def _asked(epsilon: str) -> float | None:
    if not epsilon.strip():
        return None
    try:
        asked = float(epsilon.replace(",", "."))
    except ValueError as error:
        raise UsageError(f"{epsilon[:20]!r} is not a number", hint="such as 0.3") from error
    if not 0.01 <= asked <= 10:
        raise UsageError(f"ε = {asked:g} is not within 0.01 and 10", hint="such as 0.3")
    return asked
