"""The console's pages about studies that were signed: how far each is; stop it, erase it."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from flo import pages
from flo.errors import StudyError
from flo.privacy.sheet import sections
from flo.server.console.door import CONSOLE, person_of
from flo.server.console.draft_pages import read_drafts
from flo.server.console.room import Room
from flo.server.console.studies import (
    ABSENT,
    Board,
    epsilon_plot,
    quality_plot,
    seconds_plot,
    state_of,
    step_of,
)
from flo.server.publish import published
from flo.server.store import Offer

_LATEST = 15


def study_router(room: Room) -> APIRouter:
    """Routes of signed studies: the list, one as it goes on, its review sheet, stop, erase."""
    router, acts, board = APIRouter(), room.acts, room.board

    def studies_shown() -> dict[str, Any]:
        return {"lines": board.lines(), "drafts": read_drafts(acts.store.drafts())}

    @router.get(CONSOLE)
    def studies(request: Request) -> Response:
        return room.page(request, "studies.html.j2", live=f"{CONSOLE}/live", **studies_shown())

    @router.get(f"{CONSOLE}/live")
    async def studies_live(request: Request) -> Response:
        return room.stream(request, "studies.html.j2", studies_shown)

    def study_shown(digest: str) -> dict[str, Any]:
        return _study_shown(acts.find(digest), board)

    @router.get(f"{CONSOLE}/studies/{{digest}}")
    def study(digest: str, request: Request) -> Response:
        here = f"{CONSOLE}/studies/{digest}"
        return room.page(request, "study.html.j2", live=f"{here}/live", **study_shown(digest))

    @router.get(f"{CONSOLE}/studies/{{digest}}/live")
    async def study_live(digest: str, request: Request) -> Response:
        await asyncio.to_thread(acts.find, digest)
        return room.stream(request, "study.html.j2", lambda: study_shown(digest))

    @router.get(f"{CONSOLE}/studies/{{digest}}/sheet")
    def sheet(digest: str, request: Request) -> Response:
        found = acts.find(digest).study
        return room.page(request, "sheet.html.j2", study=found, sections=sections(found))

    @router.get(f"{CONSOLE}/studies/{{digest}}/stop")
    def ask_to_stop(digest: str, request: Request) -> Response:
        return room.page(request, "stop.html.j2", offer=acts.find(digest))

    @router.post(f"{CONSOLE}/studies/{{digest}}/stop")
    def stop(digest: str, request: Request) -> Response:
        acts.stop(digest, person_of(request.scope).name)
        return pages.redirect(f"{CONSOLE}/studies/{digest}")

    @router.get(f"{CONSOLE}/studies/{{digest}}/shred")
    def ask_to_shred(digest: str, request: Request) -> Response:
        return room.page(request, "shred.html.j2", offer=acts.find(digest), removed=None)

    @router.post(f"{CONSOLE}/studies/{{digest}}/shred")
    async def shred(digest: str, request: Request) -> Response:
        fields, offer = (
            await pages.read_form(request.receive, 4096),
            await asyncio.to_thread(acts.find, digest),
        )
        if fields.get("name") != offer.study.name:
            raise StudyError(
                f"nothing was erased: the name typed is not {offer.study.name!r}",
                hint="go back, and type the study's name",
            )
        removed = await asyncio.to_thread(acts.shred, offer, person_of(request.scope).name)
        return room.page(request, "shred.html.j2", offer=offer, removed=removed)

    return router


def _study_shown(offer: Offer, board: Board) -> dict[str, Any]:
    story = board.stories.of(offer.study)
    record = board.store.last_run(offer.study.digest)
    result = (record.result or {}) if record else {}
    word, chip = state_of(offer, story)
    seats = board.seats(offer.study)
    recent = board.store.latest_events(offer.study.digest, _LATEST)
    return {
        "offer": offer,
        "study": offer.study,
        "story": story,
        "word": word,
        "chip": chip,
        "step": step_of(offer, has_run=record is not None),
        "seats": seats,
        "seconds": seconds_plot(story),
        "epsilons": epsilon_plot(story),
        "quality": quality_plot(result),
        "result": result,
        "stopping": record is not None and board.store.stop_requested(record.id),
        "has_card": published(board.store, offer.study.digest) is not None,
        "events": recent,
        "absent": [seat.hospital for seat in seats if seat.agent == ABSENT],
    }
