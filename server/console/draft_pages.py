"""The console's pages about draft studies: save, change, sign, discard."""

from __future__ import annotations

import asyncio
import functools

from fastapi import APIRouter, Request
from starlette.responses import Response

from flo.errors import FloError, StudyError
from flo.pages.forms import read_form
from flo.pages.responses import redirect
from flo.privacy.report.sheet import sections
from flo.server.console.context import ConsoleContext
from flo.server.console.sign_in import CONSOLE, person_of
from flo.server.store.drafts import SavedDraft
from flo.server.studies.signing import StudySigner
from flo.study.document import MAX_STUDY_BYTES, Study
from flo.study.loading import from_toml

_MOST_FORM = 3 * MAX_STUDY_BYTES + 4096  # bytes; percent-encoding triples special characters
_FIRST_DRAFT = "# A study in TOML; `flo study new` writes a first version.\n"


def draft_router(context: ConsoleContext) -> APIRouter:
    """Return routes to write, change, sign and discard drafts."""
    router, actions, store = APIRouter(), context.actions, context.actions.store

    @router.get(f"{CONSOLE}/drafts/new")
    def new_draft(request: Request) -> Response:
        return context.page(request, "write.html.j2", document=_FIRST_DRAFT, draft=None, why="")

    @router.get(f"{CONSOLE}/drafts/{{draft}}/edit")
    def edit_draft(draft: str, request: Request) -> Response:
        found = store.draft(draft)
        return context.page(request, "write.html.j2", document=found.document, draft=draft, why="")

    @router.post(f"{CONSOLE}/drafts")
    async def save_draft(request: Request) -> Response:
        return await keep_draft(request, None)

    @router.post(f"{CONSOLE}/drafts/{{draft}}/edit")
    async def save_again(draft: str, request: Request) -> Response:
        await asyncio.to_thread(store.draft, draft)
        return await keep_draft(request, draft)

    async def keep_draft(request: Request, draft: str | None) -> Response:
        document = (await read_form(request.receive, _MOST_FORM)).get("document", "")
        try:
            from_toml(document, what="this draft")
        except FloError as error:
            shown_again = {"document": document, "draft": draft, "why": str(error)}
            return context.page(request, "write.html.j2", 400, **shown_again)
        person = person_of(request.scope).name
        kept = await asyncio.to_thread(store.save_draft, document, person, draft)
        return redirect(f"{CONSOLE}/drafts/{kept}")

    @router.get(f"{CONSOLE}/drafts/{{draft}}")
    def draft_page(draft: str, request: Request) -> Response:
        found = store.draft(draft)
        planned = from_toml(found.document, what="this draft")
        keys = store.keys()
        known = _as_signed(planned, actions.signer)
        return context.page(
            request,
            "draft.html.j2",
            draft=found,
            study=known,
            ready=[(hospital.id, keys.get(hospital.id)) for hospital in planned.hospitals],
            sections=sections(known),
            places=actions.places,
        )

    @router.post(f"{CONSOLE}/drafts/{{draft}}/sign")
    async def sign_draft(draft: str, request: Request) -> Response:
        fields = await read_form(request.receive, 4096)
        place = fields.get("place")
        chosen = next((known for known in actions.places if known == place), None)
        if chosen is None:
            raise StudyError(
                f"this coordinator cannot carry out runs at {place!r}",
                hint=f"choose one of: {', '.join(actions.places)}",
            )
        found = await asyncio.to_thread(store.draft, draft)
        written = from_toml(found.document, what="this draft")
        planned = await asyncio.to_thread(_as_signed, written, actions.signer)
        if fields.get("digest") != planned.digest:
            raise StudyError(
                "nothing was signed: the draft or a hospital's key has changed since it was shown",
                hint="read the draft again, then sign it",
            )
        person = person_of(request.scope).name
        offer = await asyncio.to_thread(actions.offer, planned, person, chosen)
        await asyncio.to_thread(store.discard_draft, draft)
        return redirect(f"{CONSOLE}/studies/{offer.study.digest}")

    @router.post(f"{CONSOLE}/drafts/{{draft}}/discard")
    def discard_draft(draft: str, request: Request) -> Response:
        store.discard_draft(draft)
        return redirect(CONSOLE)

    return router


@functools.lru_cache(maxsize=128)
def _read_draft(document: str) -> Study | None:
    """Parse a draft; return None if only an earlier version of FLO could read it."""
    try:
        return from_toml(document, what="draft")
    except FloError:
        return None


def read_drafts(drafts: list[SavedDraft]) -> list[tuple[SavedDraft, Study | None]]:
    """Return each draft with its parsed study, None if this version of FLO cannot read it."""
    return [(draft, _read_draft(draft.document)) for draft in drafts]


def _as_signed(planned: Study, signer: StudySigner) -> Study:
    """Return the study with what signing adds; unchanged if it cannot be signed yet."""
    try:
        return signer.filled_in(planned)
    except FloError:  # among them a key store that does not answer
        return planned
