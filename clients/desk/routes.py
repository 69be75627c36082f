"""Desk application: the inbox, the emergency stop, and pages for errors.

GET shows and POST acts. About patients' values, FLO's error messages name only column, rule and
rows, as on the site's own terminal.
"""

from __future__ import annotations

from contextlib import closing
from typing import Any

from fastapi import FastAPI, Request
from starlette.responses import Response

from flo.clients.connection.enrolment import connect
from flo.clients.desk import facts
from flo.clients.desk.comparison_pages import comparison_router
from flo.clients.desk.context import DeskContext
from flo.clients.desk.model_pages import model_router
from flo.clients.desk.policy_pages import policy_router
from flo.clients.desk.record_pages import record_router
from flo.clients.desk.roster_pages import roster_router
from flo.clients.desk.study_pages import study_router
from flo.clients.desk.watch_pages import watch_router
from flo.clients.home.emergency_stop import halt, resume
from flo.clients.home.site_home import SiteHome
from flo.clients.inbox.inbox import Listed, listed, listed_here
from flo.errors import FloError, TrustError
from flo.host.machine_errors import of_the_machine
from flo.pages.forms import came_from
from flo.pages.responses import redirect

_LATEST = 5
_WATCHED = (
    "ledger.sqlite",
    "ledger.sqlite-wal",
    "audit.sqlite",
    "audit.sqlite-wal",
    "policy.toml",
    "policy.signed.json",
    "halted.json",
)


def desk_app(context: DeskContext) -> FastAPI:
    """Return the application behind ``DeskAuth``: all pages, and an error page per failure."""
    app = FastAPI(title="FLO desk", docs_url=None, redoc_url=None, openapi_url=None)
    home, base = context.home, context.base

    def problem(request: Request, status: int, error: FloError) -> Response:
        shown = {"why": str(error), "hint": error.hint, "back": came_from(request)}
        return context.page(request, "problem.html.j2", status, **shown)

    @app.exception_handler(FloError)
    async def _problem(request: Request, error: FloError) -> Response:
        return problem(request, 400, error)

    @app.exception_handler(Exception)
    async def _bug(request: Request, error: Exception) -> Response:
        if known := of_the_machine(error):
            return problem(request, 503, known)
        why = f"this is a bug in FLO ({type(error).__name__})"
        return context.page(
            request, "problem.html.j2", 500, why=why, hint="please report it", back=""
        )

    @app.get(base)
    def inbox(request: Request) -> Response:
        studies, why = _inbox(home)
        return context.page(request, "inbox.html.j2", studies=studies, why=why, **_now(home))

    @app.get(f"{base}/live")
    async def live() -> Response:
        def parts() -> dict[str, str]:
            return context.parts("inbox.html.j2", base, **_now(home))

        return context.live.stream(lambda: _version(home), parts, shown=base)

    @app.post(f"{base}/stop")
    def stop(request: Request) -> Response:
        return context.page(request, "stopped.html.j2", but=halt(home)[1])

    @app.post(f"{base}/resume")
    def go_on() -> Response:
        resume(home)
        return redirect(base)

    for router in (
        study_router,
        record_router,
        roster_router,
        comparison_router,
        watch_router,
        model_router,
        policy_router,
    ):
        app.include_router(router(context))
    return app


def _now(home: SiteHome) -> dict[str, Any]:
    """Return the inbox's live values, which are updated while the page is open."""
    with closing(home.open_ledger()) as ledger:
        found, count = facts.releases(ledger)
    return {
        "unsigned": _unsigned(home),
        "agent": home.is_agent_running(),
        "latest": found[:_LATEST],
        "count": count,
    }


def _unsigned(home: SiteHome) -> str:
    """Return why the policy is not in force; empty if it is."""
    try:
        home.read_policy()
    except TrustError as error:
        return str(error)
    return ""


def _version(home: SiteHome) -> object:
    """Return a value that changes when a watched file is written or removed."""
    times = list[int | None]()
    for name in _WATCHED:
        try:
            times.append((home.directory / name).stat().st_mtime_ns)
        except FileNotFoundError:
            times.append(None)
    return times


def _inbox(home: SiteHome) -> tuple[list[Listed], str]:
    """Return studies, and why the coordinator could not be asked (empty if it could)."""
    try:
        with connect(home) as api:
            return listed(home, api), ""
    except FloError as error:
        return listed_here(home), f"{error}. {error.hint}".strip()
