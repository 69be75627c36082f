"""Desk pages for the site's records: budget, releases and audit log."""

from __future__ import annotations

from contextlib import closing

from fastapi import APIRouter, Request
from starlette.responses import Response

from flo.audit.chain_check import IncrementalVerifier, countersigned
from flo.clients.desk import facts
from flo.clients.desk.context import DeskContext
from flo.errors import UsageError

_ENTRIES = 100


def record_router(context: DeskContext) -> APIRouter:
    """Return routes that read budget, releases and audit log, and change none of them."""
    router, home = APIRouter(), context.home
    check = IncrementalVerifier(home.open_audit_log())

    @router.get(f"{context.base}/budget")
    def budget(request: Request, population: str = "", epsilon: str = "") -> Response:
        with closing(home.open_ledger()) as ledger:
            asked = _asked(epsilon)
            chosen = home.read_config().population(population).name if asked else ""
            answers = facts.would_fit(ledger, chosen, asked) if asked else []
            room = facts.would_take(ledger, chosen, asked) if asked else None
            found = facts.lives(ledger)
        values = {"lives": found, "answers": answers, "asked": population, "epsilon": epsilon}
        values |= {"room": room}
        return context.page(request, "budget.html.j2", **values)

    @router.get(f"{context.base}/releases")
    def releases(request: Request) -> Response:
        with closing(home.open_ledger()) as ledger:
            found, count = facts.releases(ledger)
        return context.page(request, "releases.html.j2", releases=found, count=count)

    @router.get(f"{context.base}/log")
    def log(request: Request, study: str = "", kind: str = "") -> Response:
        with closing(home.open_audit_log()) as audit:
            entries, count = audit.latest(_ENTRIES, study=study or None, kind=kind or None)
            signers = countersigned(audit)
        return context.page(
            request,
            "log.html.j2",
            entries=entries,
            count=count,
            checked=check.verify_next(),
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
