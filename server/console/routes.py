"""The console's pages and the forms on them, for whoever the door let in.

GET shows, POST does; whatever costs or cannot be taken back is asked for once more on a page that
says what it means.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from starlette.responses import Response

from flo import pages
from flo.audit_log import AuditLog
from flo.errors import FloError, StudyError
from flo.model_card import ModelCard, read_card
from flo.pages.live import Live
from flo.pages.record import ChainCheck, countersigned
from flo.privacy.report_page import render
from flo.privacy.sheet import sections
from flo.server.acts import Acts
from flo.server.console.door import CONSOLE, TEMPLATES, person_of
from flo.server.console.studies import (
    STEPS,
    Board,
    epsilon_plot,
    quality_plot,
    seconds_plot,
    state_of,
    step_of,
)
from flo.server.drafts import Draft
from flo.server.members import Member
from flo.server.publish import published
from flo.server.refusals import Refusals
from flo.server.roles import ALLOWED
from flo.server.store import Offer
from flo.server.tokens import Token
from flo.study import MAX_STUDY_BYTES, Study, from_toml

_MOST_FORM = 3 * MAX_STUDY_BYTES + 4096  # a browser sends a study's special letters as three
_ENTRIES = 100
_FIRST_DRAFT = "# A study in TOML: `flo study new` writes one to begin with.\n"


@dataclass(frozen=True)
class Console:
    """What the pages are made from.

    ``log``: the audit log, up to date after ``sign``. ``fingerprint``: the coordinator's own.
    """

    acts: Acts
    board: Board
    log: AuditLog
    sign: Callable[[], None]
    fingerprint: str
    refusals: Refusals
    live: Live = field(default_factory=Live)

    def app(self) -> FastAPI:
        return _app(self)


def _app(console: Console) -> FastAPI:
    app = FastAPI(title="FLO console", docs_url=None, redoc_url=None, openapi_url=None)
    shown = pages.Pages(TEMPLATES, base=CONSOLE, fingerprint=console.fingerprint, steps=STEPS)
    acts, board, store = console.acts, console.board, console.acts.store
    check = ChainCheck(console.log)

    def page(request: Request, template: str, status: int = 200, /, **values: Any) -> Response:
        person = person_of(request.scope)
        return shown.page(template, status, **_always(person, request.url.path), **values)

    def stream(request: Request, template: str, values: Callable[[], dict[str, Any]]) -> Response:
        person = person_of(request.scope)
        path = request.url.path.removesuffix("/live")
        return console.live.stream(
            board.version,
            lambda: shown.parts(template, **_always(person, path), **values()),
            shown=f"{path} {person.role}",
            owner=person.id,
            until=person.expires,
        )

    @app.exception_handler(FloError)
    async def _problem(request: Request, error: FloError) -> Response:
        person, path = person_of(request.scope), request.url.path[:80]
        await asyncio.to_thread(
            console.refusals.note, "refused-call", path=path, person=person.name, why=str(error)
        )
        return page(
            request, "problem.html.j2", 400, title="That did not work", why=str(error),
            hint=error.hint,
        )  # fmt: skip

    @app.exception_handler(Exception)
    async def _bug(request: Request, error: Exception) -> Response:
        """Of whatever kind; it is in the coordinator's log, with its place."""
        why = f"This is a bug in FLO ({type(error).__name__}). "
        hint = "the coordinator's log names the place; please report it"
        return page(request, "problem.html.j2", 500, title="A bug", why=why, hint=hint)

    # -- studies ---------------------------------------------------------------------------------

    def studies_shown() -> dict[str, Any]:
        return {"lines": board.lines(), "drafts": _drafts(store.drafts())}

    @app.get(CONSOLE)
    def studies(request: Request) -> Response:
        return page(request, "studies.html.j2", live=f"{CONSOLE}/live", **studies_shown())

    @app.get(f"{CONSOLE}/live")
    async def studies_live(request: Request) -> Response:
        return stream(request, "studies.html.j2", studies_shown)

    def study_shown(digest: str) -> dict[str, Any]:
        return _study_shown(acts.find(digest), board)

    @app.get(f"{CONSOLE}/studies/{{digest}}")
    def study(digest: str, request: Request) -> Response:
        here = f"{CONSOLE}/studies/{digest}"
        return page(request, "study.html.j2", live=f"{here}/live", **study_shown(digest))

    @app.get(f"{CONSOLE}/studies/{{digest}}/live")
    async def study_live(digest: str, request: Request) -> Response:
        await asyncio.to_thread(acts.find, digest)
        return stream(request, "study.html.j2", lambda: study_shown(digest))

    @app.get(f"{CONSOLE}/studies/{{digest}}/sheet")
    def sheet(digest: str, request: Request) -> Response:
        found = acts.find(digest).study
        return page(request, "sheet.html.j2", study=found, sections=sections(found))

    @app.get(f"{CONSOLE}/studies/{{digest}}/stop")
    def ask_to_stop(digest: str, request: Request) -> Response:
        return page(request, "stop.html.j2", offer=acts.find(digest))

    @app.post(f"{CONSOLE}/studies/{{digest}}/stop")
    def stop(digest: str, request: Request) -> Response:
        acts.stop(digest, person_of(request.scope).name)
        return pages.redirect(f"{CONSOLE}/studies/{digest}")

    @app.get(f"{CONSOLE}/studies/{{digest}}/shred")
    def ask_to_shred(digest: str, request: Request) -> Response:
        return page(request, "shred.html.j2", offer=acts.find(digest), removed=None)

    @app.post(f"{CONSOLE}/studies/{{digest}}/shred")
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
        return page(request, "shred.html.j2", offer=offer, removed=removed)

    # -- drafts ----------------------------------------------------------------------------------

    @app.get(f"{CONSOLE}/drafts/new")
    def new_draft(request: Request) -> Response:
        return page(request, "write.html.j2", document=_FIRST_DRAFT, draft=None, why="")

    @app.get(f"{CONSOLE}/drafts/{{draft}}/edit")
    def edit_draft(draft: str, request: Request) -> Response:
        found = store.draft(draft)
        return page(request, "write.html.j2", document=found.document, draft=draft, why="")

    @app.post(f"{CONSOLE}/drafts")
    async def save_draft(request: Request) -> Response:
        return await keep_draft(request, None)

    @app.post(f"{CONSOLE}/drafts/{{draft}}/edit")
    async def save_again(draft: str, request: Request) -> Response:
        await asyncio.to_thread(store.draft, draft)
        return await keep_draft(request, draft)

    async def keep_draft(request: Request, draft: str | None) -> Response:
        document = (await pages.read_form(request.receive, _MOST_FORM)).get("document", "")
        try:
            from_toml(document, what="this draft")
        except FloError as error:
            shown_again = {"document": document, "draft": draft, "why": str(error)}
            return page(request, "write.html.j2", 400, **shown_again)
        person = person_of(request.scope).name
        kept = await asyncio.to_thread(store.save_draft, document, person, draft)
        return pages.redirect(f"{CONSOLE}/drafts/{kept}")

    @app.get(f"{CONSOLE}/drafts/{{draft}}")
    def draft_page(draft: str, request: Request) -> Response:
        found = store.draft(draft)
        planned = from_toml(found.document, what="this draft")
        members = {m.id: m for m in store.members() if not m.revoked}
        ready = [(h, members.get(h.id)) for h in planned.hospitals]
        known = _with_keys(planned, store.members())
        return page(
            request,
            "draft.html.j2",
            draft=found,
            study=known,
            ready=ready,
            sections=sections(known),
            places=acts.places,
        )

    @app.post(f"{CONSOLE}/drafts/{{draft}}/sign")
    async def sign_draft(draft: str, request: Request) -> Response:
        fields = await pages.read_form(request.receive, 4096)
        place = fields.get("place")
        chosen = next((known for known in acts.places if known == place), None)
        if chosen is None:
            raise StudyError(f"runs cannot be carried out at {place!r} here")
        found = await asyncio.to_thread(store.draft, draft)
        planned = _with_keys(from_toml(found.document, what="this draft"), store.members())
        if fields.get("digest") != planned.digest:
            raise StudyError(
                "nothing was signed: the draft, or a hospital's key, is another than was shown",
                hint="read the draft again",
            )
        person = person_of(request.scope).name
        offer = await asyncio.to_thread(acts.offer, planned, person, chosen)
        await asyncio.to_thread(store.discard_draft, draft)
        return pages.redirect(f"{CONSOLE}/studies/{offer.study.digest}")

    @app.post(f"{CONSOLE}/drafts/{{draft}}/discard")
    def discard_draft(draft: str, request: Request) -> Response:
        store.discard_draft(draft)
        return pages.redirect(CONSOLE)

    # -- hospitals, models, record ---------------------------------------------------------------

    def hospitals_shown() -> dict[str, Any]:
        return {"hospitals": board.hospitals()}

    @app.get(f"{CONSOLE}/hospitals")
    def hospitals(request: Request) -> Response:
        live = f"{CONSOLE}/hospitals/live"
        return page(request, "hospitals.html.j2", live=live, **hospitals_shown())

    @app.get(f"{CONSOLE}/hospitals/live")
    async def hospitals_live(request: Request) -> Response:
        return stream(request, "hospitals.html.j2", hospitals_shown)

    @app.get(f"{CONSOLE}/studies/{{digest}}/model")
    def model(digest: str, request: Request) -> Response:
        offer = acts.find(digest)
        card, _ = _model_files(board, offer)
        return page(request, "model.html.j2", **_model_shown(board, offer, read_card(card)))

    @app.get(f"{CONSOLE}/studies/{{digest}}/report")
    def report(digest: str) -> Response:
        document = _report_of(_model_files(board, acts.find(digest))[0])
        return Response(render(document.read_bytes()), headers=pages.ALONE, media_type="text/html")

    @app.get(f"{CONSOLE}/studies/{{digest}}/files/{{file}}")
    def model_file(digest: str, file: str) -> Response:
        card, tensors = _model_files(board, acts.find(digest))
        path = {"card": card, "tensors": tensors, "report": _report_of(card)}[file]
        return pages.download(path.read_bytes(), path.name)

    @app.get(f"{CONSOLE}/audit")
    def audit(request: Request, study: str = "", kind: str = "") -> Response:
        console.sign()
        entries, count = console.log.latest(_ENTRIES, study=study or None, kind=kind or None)
        names = {member.fingerprint: member.id for member in store.members()}
        return page(
            request,
            "audit.html.j2",
            entries=entries,
            count=count,
            checked=check.go_on(),
            countersigned=[(names.get(f, f), n) for f, n in countersigned(console.log)],
            study=study,
            kind=kind,
        )

    @app.get(f"{CONSOLE}/audit/export")
    def export_audit(request: Request) -> Response:
        copied = acts.export_log(person_of(request.scope).name)
        return pages.download(copied, "coordinator.audit.json", "application/json")

    return app


def _always(person: Token, path: str) -> dict[str, Any]:
    """What the frame of every page shows."""
    allowed = {action for (role, action), yes in ALLOWED.items() if role == person.role and yes}
    return {"person": person, "path": path, "allowed": allowed, "now": pages.now()}


def _study_shown(offer: Offer, board: Board) -> dict[str, Any]:
    story = board.stories.of(offer.study)
    record = board.store.last_run(offer.study.digest)
    result = (record.result or {}) if record else {}
    word, chip = state_of(offer, story)
    recent = board.store.latest_events(offer.study.digest, 15)
    return {
        "offer": offer,
        "study": offer.study,
        "story": story,
        "word": word,
        "chip": chip,
        "step": step_of(offer, has_run=record is not None),
        "seats": board.seats(offer.study),
        "seconds": seconds_plot(story),
        "epsilons": epsilon_plot(story),
        "quality": quality_plot(result),
        "result": result,
        "stopping": record is not None and board.store.stop_requested(record.id),
        "has_card": published(board.store, offer.study.digest) is not None,
        "events": recent,
    }


def _model_shown(board: Board, offer: Offer, card: ModelCard) -> dict[str, Any]:
    """Card, and lineage: the versions of this study that were signed here, and their models."""
    versions = [other for other in board.store.offers() if other.study.name == offer.study.name]
    return {
        "study": offer.study,
        "card": card,
        "quality": quality_plot(card.model_dump(include={"evaluation", "subgroups"})),
        "versions": [
            (other, published(board.store, other.study.digest) is not None) for other in versions
        ],
        "extracts": sorted(board.store.extracts(offer.study.digest)),
        "has_report": _report_of(_model_files(board, offer)[0]).is_file(),
    }


def _model_files(board: Board, offer: Offer) -> tuple[Path, Path]:
    """Card and tensors. Raises StudyError if they are not there (yet)."""
    found = published(board.store, offer.study.digest)
    if found is None:
        raise StudyError(
            f"study {offer.study.name} has no published model",
            hint="a model is published when its run is done and its hospitals have reported",
        )
    return found


def _report_of(card: Path) -> Path:
    return card.with_name(card.name.replace(".card.", ".report."))


def _with_keys(planned: Study, members: list[Member]) -> Study:
    """With the keys of its hospitals, once all of them are enrolled."""
    keys = {member.id: member.fingerprint for member in members if not member.revoked}
    enrolled = all(hospital.id in keys for hospital in planned.hospitals)
    return planned.with_fingerprints(keys) if enrolled else planned


@functools.lru_cache(maxsize=128)
def _read_draft(document: str) -> Study | None:
    """None for one that an earlier version of FLO could read."""
    try:
        return from_toml(document, what="draft")
    except FloError:
        return None


def _drafts(drafts: list[Draft]) -> list[tuple[Draft, Study | None]]:
    """With what each says."""
    return [(draft, _read_draft(draft.document)) for draft in drafts]
