"""The console's pages about signed studies: progress, stop, erase."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from flo.errors import FloError, StudyError
from flo.keys.identity import fingerprint
from flo.pages.forms import read_form
from flo.pages.responses import redirect
from flo.privacy.report.sheet import sections
from flo.published.card_plots import quality_plot
from flo.published.gate_result import GateSums, read_gate
from flo.published.monitor_result import read_monitor
from flo.published.monitor_series import series
from flo.published.monitor_words import odds_plot, rows, table
from flo.server.console.context import ConsoleContext
from flo.server.console.draft_pages import read_drafts
from flo.server.console.model_pages import gate_shown
from flo.server.console.sign_in import CONSOLE, person_of
from flo.server.console.view import (
    ABSENT,
    StudyViews,
    epsilon_plot,
    seconds_plot,
    state_of,
    step_of,
)
from flo.server.store.store import Offer
from flo.server.studies.publish import published, published_result
from flo.study.wording import measure_of

_LATEST = 15


def study_router(context: ConsoleContext) -> APIRouter:
    """Return routes of signed studies: list, progress, review sheet, stop, erase."""
    router, actions, views = APIRouter(), context.actions, context.views

    def studies_shown() -> dict[str, Any]:
        return {"lines": views.lines(), "drafts": read_drafts(actions.store.drafts())}

    @router.get(CONSOLE)
    def studies(request: Request) -> Response:
        return context.page(request, "studies.html.j2", live=f"{CONSOLE}/live", **studies_shown())

    @router.get(f"{CONSOLE}/live")
    async def studies_live(request: Request) -> Response:
        return context.stream(request, "studies.html.j2", studies_shown)

    def study_shown(digest: str) -> dict[str, Any]:
        return _study_shown(actions.find(digest), views)

    @router.get(f"{CONSOLE}/studies/{{digest}}")
    def study(digest: str, request: Request) -> Response:
        here = f"{CONSOLE}/studies/{digest}"
        return context.page(request, "study.html.j2", live=f"{here}/live", **study_shown(digest))

    @router.get(f"{CONSOLE}/studies/{{digest}}/live")
    async def study_live(digest: str, request: Request) -> Response:
        await asyncio.to_thread(actions.find, digest)
        return context.stream(request, "study.html.j2", lambda: study_shown(digest))

    @router.get(f"{CONSOLE}/studies/{{digest}}/sheet")
    def sheet(digest: str, request: Request) -> Response:
        found = actions.find(digest).study
        return context.page(request, "sheet.html.j2", study=found, sections=sections(found))

    @router.get(f"{CONSOLE}/studies/{{digest}}/stop")
    def ask_to_stop(digest: str, request: Request) -> Response:
        return context.page(request, "stop.html.j2", offer=actions.find(digest))

    @router.post(f"{CONSOLE}/studies/{{digest}}/stop")
    def stop(digest: str, request: Request) -> Response:
        actions.stop(digest, person_of(request.scope).name)
        return redirect(f"{CONSOLE}/studies/{digest}")

    @router.get(f"{CONSOLE}/studies/{{digest}}/shred")
    def ask_to_shred(digest: str, request: Request) -> Response:
        return context.page(request, "shred.html.j2", offer=actions.find(digest), removed=None)

    @router.post(f"{CONSOLE}/studies/{{digest}}/shred")
    async def shred(digest: str, request: Request) -> Response:
        fields = await read_form(request.receive, 4096)
        offer = await asyncio.to_thread(actions.find, digest)
        if fields.get("name") != offer.study.name:
            raise StudyError(
                f"nothing was erased: the name typed is not {offer.study.name!r}",
                hint="go back, and type the study's name",
            )
        removed = await asyncio.to_thread(actions.shred, offer, person_of(request.scope).name)
        return context.page(request, "shred.html.j2", offer=offer, removed=removed)

    return router


def _gate_sums(views: StudyViews, offer: Offer) -> GateSums | None:
    """Return the published sums of a gate between two published models, if there are any."""
    path = published_result(views.store, offer.study.digest) if offer.study.compares else None
    return read_gate(path).sums if path else None


def _monitor_shown(views: StudyViews, offer: Offer) -> dict[str, Any]:
    """Return what the page says of a monitor's series up to this study; nothing before a result."""
    monitor = offer.study.monitor
    periods = (*monitor.earlier, offer.study.digest) if monitor else ()
    paths = [path for one in periods if (path := published_result(views.store, one))]
    if not paths:
        return {"monitor_rows": [], "monitor_table": [], "monitor_plot": None}
    try:
        results = [read_monitor(path) for path in paths]
        keys = {fingerprint(bytes.fromhex(one.coordinator)) for one in results}  # also older ones
        found = series(results, *keys)
    except FloError as error:  # a damaged file of an earlier period must not hide this study
        unread = [("cannot be read", str(error))]
        return {"monitor_rows": unread, "monitor_table": [], "monitor_plot": None}
    return {
        "monitor_rows": rows(found),
        "monitor_table": table(found),
        "monitor_plot": odds_plot(found),
    }


def _study_shown(offer: Offer, views: StudyViews) -> dict[str, Any]:
    story = views.progress_cache.of(offer.study)
    record = views.store.last_run(offer.study.digest)
    result = (record.result or {}) if record else {}
    word, chip = state_of(offer, story)
    seats = views.seats(offer.study)
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
        "measure": measure_of(offer.study),
        "quality": quality_plot(result),
        "result": result,
        "stopping": record is not None and views.store.stop_requested(record.id),
        "has_statistics": bool(
            offer.study.statistics and published_result(views.store, offer.study.digest)
        ),
        **gate_shown(offer.study, _gate_sums(views, offer)),
        **_monitor_shown(views, offer),
        "has_card": published(views.store, offer.study.digest) is not None,
        "events": views.store.latest_events(offer.study.digest, _LATEST),
        "absent": [seat.hospital for seat in seats if seat.agent == ABSENT],
    }
