"""The console's pages about published models: card, lineage, report, files."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import FileResponse, Response

from flo.errors import StudyError
from flo.keys.identity import fingerprint
from flo.pages.forms import read_form
from flo.pages.responses import ALONE, HEADERS, redirect
from flo.privacy.report.page import render
from flo.privacy.report.wording import LIFE, of_life
from flo.published import explained_page
from flo.published.card_plots import gate_plot, quality_of_card
from flo.published.gate_result import GateSums
from flo.published.gate_words import rows
from flo.published.model_card import BINS_HIDE, ModelCard, PublishedModel, read_card
from flo.published.stated_curves import stated
from flo.server.console.context import ConsoleContext
from flo.server.console.sign_in import CONSOLE, person_of
from flo.server.console.view import StudyViews
from flo.server.store.store import Offer
from flo.server.studies.model_decisions import Step, states_of
from flo.server.studies.publish import published, report_path
from flo.study.document import Study
from flo.study.wording import measure_of

_MOST_FORM = 8192


def model_router(context: ConsoleContext) -> APIRouter:
    """Return routes to read a published model's card and report, to download its files, and to
    decide which version is in use."""
    router, actions, views = APIRouter(), context.actions, context.views

    @router.get(f"{CONSOLE}/studies/{{digest}}/model")
    def model(digest: str, request: Request) -> Response:
        offer = actions.find(digest)
        card, _ = _model_files(views, offer)
        return context.page(request, "model.html.j2", **_model_shown(views, offer, read_card(card)))

    @router.post(f"{CONSOLE}/studies/{{digest}}/model/{{step}}")
    async def decide(digest: str, step: Step, request: Request) -> Response:
        why = (await read_form(request.receive, _MOST_FORM)).get("why", "").strip()
        person, offer = person_of(request.scope).name, await asyncio.to_thread(actions.find, digest)
        await asyncio.to_thread(actions.decide, offer, step, why, person)
        return redirect(f"{CONSOLE}/studies/{digest}/model")

    @router.get(f"{CONSOLE}/studies/{{digest}}/report")
    def report(digest: str) -> Response:
        offer = actions.find(digest)
        document, card = _file_of(views, offer, "report"), _file_of(views, offer, "card")
        page = render(
            document.read_bytes(),
            read_card(card).risks_of_yes_or_no,
            electricity=views.progress_cache.of(offer.study).emitted,
        )
        return Response(page, headers=ALONE, media_type="text/html")

    @router.get(f"{CONSOLE}/studies/{{digest}}/files/{{file}}")
    def model_file(digest: str, file: str) -> Response:
        path = _file_of(views, actions.find(digest), file)
        return FileResponse(path, headers=HEADERS, filename=path.name)

    return router


def _model_shown(views: StudyViews, offer: Offer, card: ModelCard) -> dict[str, Any]:
    """Return the page's values: the card, and all signed versions of the study."""
    versions = [other for other in views.store.offers() if other.study.name == offer.study.name]
    states = states_of(views.store, offer.study.name)
    return {
        "study": offer.study,
        "card": card,
        "state": states.state_of(offer.study.digest),
        "decided": [one for one in states.decisions if one.model.study == offer.study.digest],
        "in_use": states.current,
        "can_go_back": states.previous() is not None,
        "bins_hide": BINS_HIDE,
        "life": LIFE,
        "of_life": of_life,
        "measure": measure_of(offer.study),
        "curves": stated(offer.study, card),
        **gate_shown(offer.study, card.gate),
        **explained_page.shown(_opened(views, offer)),
        "quality": quality_of_card(offer.study, card),
        "versions": [
            (
                other,
                published(views.store, other.study.digest) is not None,
                states.state_of(other.study.digest),
            )
            for other in versions
        ],
        "extracts": sorted(views.store.extracts(offer.study.digest)),
        "has_report": report_path(_model_files(views, offer)[0]).is_file(),
    }


def _opened(views: StudyViews, offer: Offer) -> PublishedModel:
    card_path, tensors = _model_files(views, offer)
    card = read_card(card_path)
    signed_by = fingerprint(bytes.fromhex(card.coordinator))  # an own file, of this or an older key
    return PublishedModel.of(card, tensors.read_bytes(), signed_by)


def gate_shown(study: Study, sums: GateSums | None) -> dict[str, Any]:
    """Return what a page says of a gate: its rows and its plot; none if there is no release."""
    if study.gate is None or sums is None:
        return {"gate_rows": [], "gate_plot": None}
    found = sums.comparison(study)
    return {"gate_rows": rows(study, found), "gate_plot": gate_plot(found)}


def _model_files(views: StudyViews, offer: Offer) -> tuple[Path, Path]:
    """Return the paths of card and tensors. Raises StudyError if no model is published."""
    found = published(views.store, offer.study.digest)
    if found is None:
        raise StudyError(
            f"study {offer.study.name} has no published model",
            hint="a model is published some seconds after its run has ended",
        )
    return found


def _file_of(views: StudyViews, offer: Offer, name: str) -> Path:
    """Return the path of a published file. Raises StudyError if it does not exist (yet)."""
    card, tensors = _model_files(views, offer)
    path = {"card": card, "tensors": tensors, "report": report_path(card)}.get(name)
    if path is None or not path.is_file():
        raise StudyError(
            f"the model of study {offer.study.name} has no file {name[:20]!r}",
            hint="the model's page lists its files",
        )
    return path
