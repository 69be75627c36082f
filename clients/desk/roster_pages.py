"""Desk page on which a steward confirms all partners' keys on one call."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from flo.clients.approvals import roster
from flo.clients.connection.enrolment import connect
from flo.clients.desk import facts
from flo.clients.desk.context import DeskContext
from flo.errors import NetworkError
from flo.keys.roster import WitnessedRoster

_TICKED = "of-"


def roster_router(context: DeskContext) -> APIRouter:
    """Return the routes of the roster: look at it, and confirm whom the steward heard."""
    router, home = APIRouter(), context.home

    @router.get(f"{context.base}/roster")
    def look(request: Request) -> Response:
        try:
            with connect(home) as api:
                return shown(request, roster.fetch(home, api))
        except NetworkError as error:
            return shown(request, roster.read(home), away=str(error))

    @router.post(f"{context.base}/roster")
    async def confirm(request: Request) -> Response:
        return await asyncio.to_thread(confirmed, request, await context.form(request))

    def confirmed(request: Request, fields: dict[str, str]) -> Response:
        spoken = fields.get("digest", "")
        heard = [name.removeprefix(_TICKED) for name in fields if name.startswith(_TICKED)]
        with connect(home) as api:
            if heard:
                fetched = roster.confirm(home, api, spoken, heard)
                return shown(request, fetched, saved=heard)
            fetched = roster.fetch(home, api)
        roster.check_spoken(fetched.roster, spoken)
        return shown(request, fetched, checked=True, digest=spoken)

    def shown(request: Request, fetched: WitnessedRoster, **values: Any) -> Response:
        return context.page(
            request, "roster.html.j2", **(facts.roster_facts(home, fetched) | values)
        )

    return router
