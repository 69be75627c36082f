"""Desk pages for one study: read it, compare keys, approve, refuse or withdraw."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from fastapi import APIRouter, Request
from starlette.responses import Response

from flo.clients.approvals import roster
from flo.clients.approvals.approve import dry_run_approval
from flo.clients.approvals.decide import decide
from flo.clients.approvals.decline import refuse, withdraw
from flo.clients.approvals.fingerprints import AddressBook, refuse_strangers
from flo.clients.connection.enrolment import connect
from flo.clients.connection.offers import Offered, known_studies
from flo.clients.desk import facts
from flo.clients.desk.context import DeskContext, person_in
from flo.clients.home.site_config import Population
from flo.clients.home.site_home import SiteHome
from flo.clients.inbox.inbox import decided
from flo.clients.mapping.inspect import inspect
from flo.clients.records import approval
from flo.clients.records.approval import approval_path
from flo.documents import canonical
from flo.errors import FloError, PolicyError, TrustError, UsageError
from flo.pages.responses import redirect
from flo.study.document import UNDER_WAY, Study
from flo.study.loading import from_canonical

_STUDY = "/studies/{digest}"
_AWAY = "not known now"  # status of a study known only from this site's approval


def study_router(context: DeskContext) -> APIRouter:
    """Return the routes of one study; reading its page is entered in the audit log."""
    router, home = APIRouter(), context.home

    def choose(population: str | None) -> Population:
        config = home.read_config()
        return config.population(population or config.populations[0].name)

    @router.get(f"{context.base}{_STUDY}")
    def study(digest: str, request: Request, population: str | None = None) -> Response:
        chosen, known = choose(population), _known(home, digest)
        home.record("reviewed", digest)
        return context.page(
            request,
            "study.html.j2",
            study=known.study,
            status=known.status,
            open=known.status in (*UNDER_WAY, _AWAY),
            here=decided(home, digest),
            sections=facts.sheet(home, known.study, chosen),
            partners=facts.partners(home, known.study),
            populations=[one.name for one in home.read_config().populations],
            population=chosen.name,
        )

    @router.get(f"{context.base}{_STUDY}/data")
    def data(digest: str, request: Request, population: str | None = None) -> Response:
        chosen, study = choose(population), _known(home, digest).study
        return context.page(
            request,
            "data.html.j2",
            study=study.name,
            digest=digest,
            place=chosen.place,
            seen=inspect(home, study, chosen),
        )

    @router.post(f"{context.base}{_STUDY}/confirm")
    async def confirm(digest: str, request: Request) -> Response:
        fields, known = await context.form(request), await asyncio.to_thread(_known, home, digest)
        await asyncio.to_thread(_confirm, home, known.study, fields)
        return redirect(f"{context.base}/studies/{digest}#partners")

    @router.get(f"{context.base}{_STUDY}/approve")
    def ask(
        digest: str, request: Request, population: str | None = None, broken: str = ""
    ) -> Response:
        study = _known(home, digest).study
        return asked(request, study, choose(population), if_broken=bool(broken))

    def asked(
        request: Request,
        study: Study,
        chosen: Population,
        *,
        if_broken: bool,
        looked: list[tuple[str, str]] | None = None,
    ) -> Response:
        strangers = facts.strangers(home, study)
        try:
            refuse_strangers(study, strangers, if_broken=if_broken)
        except PolicyError as error:
            hint = "compare their keys on the study's page; or tick there to approve without that, "
            raise PolicyError(str(error), hint=f"{hint}at the larger ε") from error
        return context.page(
            request,
            "approve.html.j2",
            study=study,
            looked=looked is not None,
            patients=looked or facts.patients(home, study, chosen),
            population=chosen,
            strangers=strangers,
            broken=if_broken,
            costs=facts.costs(home, study, chosen, if_broken=if_broken),
            policy=home.read_policy(),
        )

    @router.post(f"{context.base}{_STUDY}/approve")
    async def say_it(digest: str, request: Request) -> Response:
        return await asyncio.to_thread(approved, digest, request, await context.form(request))

    def approved(digest: str, request: Request, fields: dict[str, str]) -> Response:
        chosen = home.read_config().population(fields.get("population"))
        if_broken = "broken" in fields
        known = _known(home, digest)
        if known.status not in UNDER_WAY:
            raise UsageError(f"study {known.study.name} is {known.status}, not on offer")
        if "only" in fields:
            with connect(home) as api:
                looked = dry_run_approval(home, api, known, chosen, if_broken=if_broken)
            return asked(request, known.study, chosen, if_broken=if_broken, looked=looked)
        with connect(home) as api:
            roster.refuse_rewritten(home, api)
        person = person_in(fields)
        done = decide(
            home, lambda: connect(home), known, chosen, if_broken=if_broken, person=person
        )
        if not done.approved:
            return redirect(f"{context.base}/studies/{digest}")
        told = done.unnotified is None
        return context.page(request, "approved.html.j2", study=known.study, told=told)

    @router.post(f"{context.base}{_STUDY}/refuse")
    async def say_no(digest: str, request: Request) -> Response:
        reason = _reason(await context.form(request))

        def told() -> None:
            with connect(home) as api:
                refuse(home, api, _known(home, digest).study.digest, reason)

        await asyncio.to_thread(told)
        return redirect(f"{context.base}/studies/{digest}")

    @router.post(f"{context.base}{_STUDY}/withdraw")
    async def no_longer(digest: str, request: Request) -> Response:
        reason = _reason(await context.form(request))

        def told() -> bool:
            with connect(home) as api:
                return withdraw(home, api, digest, reason)

        informed = await asyncio.to_thread(told)
        return context.page(request, "withdrawn.html.j2", digest=digest, informed=informed)

    return router


@dataclass(frozen=True)
class _Known(Offered):
    status: str


def _known(home: SiteHome, digest: str) -> _Known:
    """Return a study that names this hospital and is signed by a key of the coordinator.

    A study approved here is returned even if the coordinator does not list it or cannot be reached,
    so the coordinator cannot prevent a withdrawal.

    Raises:
        UsageError: there is no study of this digest. TrustError: it is forged.
    """
    kept = approval.read(home, digest) if approval_path(home, digest).exists() else None
    try:
        with connect(home) as api:
            for item in known_studies(api):
                if canonical.digest(item.study.encode()) == digest:
                    home.read_coordinator().signer_of(item.study.encode(), item.signature)
                    return _Known(from_canonical(item.study.encode()), item.signature, item.status)
    except FloError:
        if kept is None:
            raise
    if kept is None:
        raise UsageError(
            f"no study {digest[:12]} names this hospital", hint="the inbox lists those that do"
        )
    return _Known(kept.read_study(), kept.study_signature, _AWAY)


def _confirm(home: SiteHome, study: Study, fields: dict[str, str]) -> None:
    """Store partners' fingerprints if all typed ends match those that the study names."""
    heard = {name.removeprefix("of-"): typed for name, typed in fields.items() if typed.strip()}
    wrong = [
        name for name, typed in heard.items() if not facts.is_what_was_heard(study, name, typed)
    ]
    if not heard:
        raise UsageError("no field was filled in", hint="type what the partner reads out to you")
    if wrong:
        named = ", ".join(wrong)
        raise TrustError(
            f"not saved: what was typed for {named} differs from the end of the key in this study",
            hint="check for a typing error: four groups of four letters or digits. If the partner "
            "reads out the same again, do not approve: the study names a key that is not theirs",
        )
    keys = {name: study.hospital(name).fingerprint for name in heard}
    AddressBook.confirm(home, keys)


def _reason(fields: dict[str, str]) -> str:
    reason = fields.get("reason", "").strip()
    if not reason:
        raise UsageError(
            "no reason was given", hint="the coordinator reads it; write no patient data into it"
        )
    return reason
