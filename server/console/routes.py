"""The console's application: all routers, the hospital and audit log pages, error pages.

GET displays, POST acts. An action that has a cost or cannot be undone needs a confirmation on a
page that explains its consequences.
"""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from starlette.responses import Response

from flo.audit.chain_check import IncrementalVerifier, countersigned
from flo.errors import FloError
from flo.host.machine_errors import of_the_machine
from flo.pages.forms import came_from
from flo.pages.responses import download
from flo.server.console.context import ConsoleContext
from flo.server.console.draft_pages import draft_router
from flo.server.console.model_pages import model_router
from flo.server.console.sign_in import CONSOLE, person_of
from flo.server.console.statistics_pages import statistics_router
from flo.server.console.study_pages import study_router

_ENTRIES = 100


def console_app(context: ConsoleContext) -> FastAPI:
    """Return the application; ``flo.server.console.sign_in`` has authorised its requests."""
    app = FastAPI(title="FLO console", docs_url=None, redoc_url=None, openapi_url=None)

    @app.exception_handler(FloError)
    async def _problem(request: Request, error: FloError) -> Response:
        person, path, why = person_of(request.scope), request.url.path[:80], str(error)
        await asyncio.to_thread(
            context.audit.record, "refused-call", path=path, person=person.name, why=why
        )
        shown = {"title": "That did not work", "why": why, "hint": error.hint}
        return context.page(request, "problem.html.j2", 400, **shown, back=came_from(request))

    @app.exception_handler(Exception)
    async def _bug(request: Request, error: Exception) -> Response:
        """Show any other error; the coordinator's log has its traceback."""
        if known := of_the_machine(error):
            shown = {"title": "This machine has a problem", "why": str(known), "hint": known.hint}
            return context.page(request, "problem.html.j2", 503, **shown)
        why = f"This is a bug in FLO ({type(error).__name__})."
        hint = "please report it, with the traceback in the coordinator's log"
        return context.page(request, "problem.html.j2", 500, title="A bug", why=why, hint=hint)

    for router in (
        study_router,
        draft_router,
        model_router,
        statistics_router,
        _record_router,
    ):
        app.include_router(router(context))
    return app


def _record_router(context: ConsoleContext) -> APIRouter:
    """Return routes of the hospital and audit log pages."""
    router, actions, views = APIRouter(), context.actions, context.views
    store = actions.store
    check = IncrementalVerifier(context.log)

    def hospitals_shown() -> dict[str, Any]:
        return {"hospitals": views.hospitals(), "roster": store.roster().roster.digest}

    @router.get(f"{CONSOLE}/hospitals")
    def hospitals(request: Request) -> Response:
        live = f"{CONSOLE}/hospitals/live"
        return context.page(request, "hospitals.html.j2", live=live, **hospitals_shown())

    @router.get(f"{CONSOLE}/hospitals/live")
    async def hospitals_live(request: Request) -> Response:
        return context.stream(request, "hospitals.html.j2", hospitals_shown)

    @router.get(f"{CONSOLE}/audit")
    def audit(request: Request, study: str = "", kind: str = "") -> Response:
        context.sign()
        entries, count = context.log.latest(_ENTRIES, study=study or None, kind=kind or None)
        names = {member.fingerprint: member.id for member in store.members()}
        return context.page(
            request,
            "audit.html.j2",
            entries=entries,
            count=count,
            checked=check.verify_next(),
            countersigned=[(names.get(f, f), n) for f, n in countersigned(context.log)],
            study=study,
            kind=kind,
        )

    @router.get(f"{CONSOLE}/audit/export")
    def export_audit(request: Request) -> Response:
        copied = actions.export_log(person_of(request.scope).name)
        return download(copied, "coordinator.audit.json", "application/json")

    return router
