"""The desk's pages and the forms on them: what the commands of ``flo site`` do, by their functions.

GET shows, POST does. An error of ours is shown on the page that was asked from, with the way out;
of patients' values it names column, rule and rows, as on the site's own terminal.
"""

from __future__ import annotations

import asyncio
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from starlette.responses import Response

from flo import canonical, pages
from flo.clients import approval, consent
from flo.clients.address_book import AddressBook, refuse_strangers
from flo.clients.approval import approval_path
from flo.clients.approve import approve, rehearse, terms_of
from flo.clients.decisions import refuse, withdraw
from flo.clients.desk import facts
from flo.clients.enrol import connect
from flo.clients.halt import go_on, halt, halted
from flo.clients.home import Population, SiteHome
from flo.clients.inbox import Listed, decided, listed, listed_here
from flo.clients.offers import Offered, known_studies
from flo.clients.people import load_key, say_yes
from flo.clients.policy import Policy
from flo.clients.policy_file import read_edited, sign
from flo.errors import FloError, NetworkError, PolicyError, TrustError, UsageError
from flo.identity import Identity, fingerprint
from flo.pages.live import Live
from flo.pages.record import ChainCheck, countersigned
from flo.study import UNDER_WAY, Study, from_canonical

_TEMPLATES = Path(__file__).parent
_MOST_FORM, _ENTRIES = 16_384, 100
_STUDY = "/studies/{digest}"


@dataclass(frozen=True)
class Desk:
    """``base``: what every path of the desk begins with."""

    home: SiteHome
    base: str
    live: Live = field(default_factory=Live)

    def app(self) -> FastAPI:
        return _app(self)


def _app(desk: Desk) -> FastAPI:
    app = FastAPI(title="FLO desk", docs_url=None, redoc_url=None, openapi_url=None)
    home, base = desk.home, desk.base
    own = home.identity().fingerprint
    shown = pages.Pages(_TEMPLATES, base=base, hospital=home.config.hospital, fingerprint=own)
    check = ChainCheck(home.audit_log())

    def page(request: Request, template: str, code: int = 200, /, **values: Any) -> Response:
        return shown.page(template, code, **_always(home, request.url.path), **values)

    @app.exception_handler(FloError)
    async def _problem(request: Request, error: FloError) -> Response:
        return page(request, "problem.html.j2", 400, why=str(error), hint=error.hint)

    @app.exception_handler(Exception)
    async def _bug(request: Request, error: Exception) -> Response:
        why = f"this is a bug in FLO ({type(error).__name__})"
        return page(request, "problem.html.j2", 500, why=why, hint="please report it")

    async def form(request: Request) -> dict[str, str]:
        return await pages.read_form(request.receive, _MOST_FORM)

    # -- inbox -----------------------------------------------------------------------------------

    @app.get(base)
    def inbox(request: Request) -> Response:
        studies, why = _inbox(home)
        values = {"studies": studies, "why": why, **_now(home)}
        return page(request, "inbox.html.j2", **values)

    @app.get(f"{base}/live")
    async def inbox_live(request: Request) -> Response:
        def parts() -> dict[str, str]:
            return shown.parts("inbox.html.j2", **_always(home, base), **_now(home))

        return desk.live.stream(lambda: _version(home), parts, shown=base)

    @app.post(f"{base}/stop")
    def stop(request: Request) -> Response:
        return page(request, "stopped.html.j2", but=halt(home)[1])

    @app.post(f"{base}/resume")
    def resume() -> Response:
        go_on(home)
        return pages.redirect(base)

    # -- one study -------------------------------------------------------------------------------

    @app.get(f"{base}{_STUDY}")
    def study(digest: str, request: Request, population: str | None = None) -> Response:
        chosen = home.config.population(population or home.config.populations[0].name)
        known = _known(home, digest)
        home.record("reviewed", digest)
        return page(
            request,
            "study.html.j2",
            study=known.study,
            status=known.status,
            open=known.status in (*UNDER_WAY, "not known now"),
            here=decided(home, digest),
            sections=facts.sheet(home, known.study, chosen),
            partners=facts.partners(home, known.study),
            populations=[one.name for one in home.config.populations],
            population=chosen.name,
        )

    @app.post(f"{base}{_STUDY}/confirm")
    async def confirm(digest: str, request: Request) -> Response:
        fields, known = await form(request), await asyncio.to_thread(_known, home, digest)
        await asyncio.to_thread(_confirm, home, known.study, fields)
        return pages.redirect(f"{base}/studies/{digest}#partners")

    @app.get(f"{base}{_STUDY}/approve")
    def ask(
        digest: str, request: Request, population: str | None = None, broken: str = ""
    ) -> Response:
        chosen = home.config.population(population or home.config.populations[0].name)
        return asked(request, _known(home, digest).study, chosen, if_broken=bool(broken))

    def asked(
        request: Request, study: Study, chosen: Population, *, if_broken: bool, looked: bool = False
    ) -> Response:
        strangers = facts.strangers(home, study)
        refuse_strangers(study, strangers, if_broken=if_broken)
        return page(
            request,
            "approve.html.j2",
            study=study,
            looked=looked,
            population=chosen,
            strangers=strangers,
            broken=if_broken,
            costs=facts.costs(home, study, chosen, if_broken=if_broken),
            policy=home.policy,
        )

    @app.post(f"{base}{_STUDY}/approve")
    async def say_it(digest: str, request: Request) -> Response:
        return await asyncio.to_thread(approved, digest, request, await form(request))

    def approved(digest: str, request: Request, fields: dict[str, str]) -> Response:
        chosen, if_broken = home.config.population(fields.get("population")), "broken" in fields
        offered = _known(home, digest)
        if offered.status not in UNDER_WAY:
            raise UsageError(f"study {offered.study.name} is {offered.status}, not on offer")
        kept = Offered(offered.study, offered.signature)
        if "only" in fields:
            with connect(home) as api:
                rehearse(home, api, kept, chosen, if_broken=if_broken)
            return asked(request, offered.study, chosen, if_broken=if_broken, looked=True)
        terms = terms_of(home, offered.study, chosen, if_broken=if_broken)
        people = say_yes(home, offered.study, terms, _person(fields))
        if people and len(people) < home.policy.approvers:
            return pages.redirect(f"{base}/studies/{digest}")
        told = True
        try:
            with connect(home) as api:
                approve(home, api, kept, chosen, if_broken=if_broken, people=people)
        except NetworkError:
            if decided(home, digest) != "approved":
                raise
            told = False
        return page(request, "approved.html.j2", study=offered.study, told=told)

    @app.post(f"{base}{_STUDY}/refuse")
    async def say_no(digest: str, request: Request) -> Response:
        reason = _reason(await form(request))

        def told() -> None:
            with connect(home) as api:
                refuse(home, api, _known(home, digest).study.digest, reason)

        await asyncio.to_thread(told)
        return pages.redirect(f"{base}/studies/{digest}")

    @app.post(f"{base}{_STUDY}/withdraw")
    async def no_longer(digest: str, request: Request) -> Response:
        reason = _reason(await form(request))

        def told() -> bool:
            with connect(home) as api:
                return withdraw(home, api, digest, reason)

        informed = await asyncio.to_thread(told)
        return page(request, "withdrawn.html.j2", digest=digest, informed=informed)

    # -- budget, releases, log -------------------------------------------------------------------

    @app.get(f"{base}/budget")
    def budget(request: Request, population: str = "", epsilon: str = "") -> Response:
        with closing(home.ledger()) as ledger:
            asked = _asked(epsilon)
            chosen = home.config.population(population).name if asked else ""
            answers = facts.would_fit(ledger, chosen, asked) if asked else []
            found = facts.lives(ledger)
        values: dict[str, Any] = {
            "lives": found,
            "answers": answers,
            "asked": population,
            "epsilon": epsilon,
        }
        return page(request, "budget.html.j2", **values)

    @app.get(f"{base}/releases")
    def releases(request: Request) -> Response:
        with closing(home.ledger()) as ledger:
            found, count = facts.releases(ledger)
        return page(request, "releases.html.j2", releases=found, count=count)

    @app.get(f"{base}/log")
    def log(request: Request, study: str = "", kind: str = "") -> Response:
        with closing(home.audit_log()) as audit:
            entries, count = audit.latest(_ENTRIES, study=study or None, kind=kind or None)
            signers = countersigned(audit)
        return page(
            request,
            "log.html.j2",
            entries=entries,
            count=count,
            checked=check.go_on(),
            countersigned=[("the coordinator", number) for _, number in signers],
            study=study,
            kind=kind,
        )

    # -- policy, patients' wishes ----------------------------------------------------------------

    @app.get(f"{base}/policy")
    def policy(request: Request) -> Response:
        return page(request, "policy.html.j2", **_policy(home))

    @app.post(f"{base}/policy")
    async def sign_policy(request: Request) -> Response:
        fields = await form(request)
        waits = await asyncio.to_thread(_sign_policy, home, fields) is None
        return page(request, "policy.html.j2", **(_policy(home) | {"waits": waits}))

    @app.get(f"{base}/opt-outs")
    def opt_outs(request: Request) -> Response:
        count = len(consent.OptOuts.load(home).patients)
        return page(request, "opt_outs.html.j2", count=count, said=None, record=None)

    @app.post(f"{base}/opt-outs")
    async def take_out(request: Request) -> Response:
        fields = await form(request)
        return await asyncio.to_thread(taken_out, request, fields)

    def taken_out(request: Request, fields: dict[str, str]) -> Response:
        patient = fields.get("patient", "")
        changed = consent.opt_out(home, patient)
        made, path = consent.erase(home, patient) if "record" in fields else (None, None)
        try:
            known = consent.is_in_a_file(home, patient)
        except FloError:  # the file is away; the patient is out all the same
            known = False
        said: Any = {"changed": len(changed), "known": known}
        count = len(consent.OptOuts.load(home).patients)
        record: Any = {"made": made, "path": path} if made else None
        return page(request, "opt_outs.html.j2", count=count, said=said, record=record)

    return app


def _always(home: SiteHome, path: str) -> dict[str, Any]:
    """What the frame of every page shows."""
    base = "/".join(path.split("/")[:2])
    return {
        "path": path,
        "halt": halted(home),
        "now": pages.now(),
        "live": f"{base}/live",
        "once": True,
    }


def _now(home: SiteHome) -> dict[str, Any]:
    """What stays as things stand while the inbox is open."""
    with closing(home.ledger()) as ledger:
        found, count = facts.releases(ledger)
    return {"agent": home.agent_runs, "latest": found[:5], "count": count}


def _version(home: SiteHome) -> object:
    with closing(home.audit_log()) as log:
        return log.latest(1)[1]


def _inbox(home: SiteHome) -> tuple[list[Listed], str]:
    """Studies, and why the coordinator could not be asked, if so."""
    try:
        with connect(home) as api:
            return listed(home, api), ""
    except FloError as error:
        return listed_here(home), f"{error}. {error.hint}".strip()


@dataclass(frozen=True)
class _Known:
    study: Study
    signature: str
    status: str


def _known(home: SiteHome, digest: str) -> _Known:
    """A study that names this hospital, signed by a key of the coordinator's.

    What was approved here is known here, whatever the coordinator says, or if it says nothing.

    Raises:
        UsageError: there is none of this digest. TrustError: it is forged.
    """
    kept = approval.read(home, digest) if approval_path(home, digest).exists() else None
    try:
        with connect(home) as api:
            for item in known_studies(api):
                if canonical.digest(item.study.encode()) == digest:
                    home.coordinator.signer_of(item.study.encode(), item.signature)
                    return _Known(from_canonical(item.study.encode()), item.signature, item.status)
    except NetworkError:
        if kept is None:
            raise
    if kept is None:
        raise UsageError(f"no study {digest[:12]} names this hospital", hint="look into the inbox")
    return _Known(kept.read_study(), kept.study_signature, "not known now")


def _confirm(home: SiteHome, study: Study, fields: dict[str, str]) -> None:
    """Keep the partners whose fingerprints were heard as the study names them; nobody else."""
    heard = {name.removeprefix("of-"): typed for name, typed in fields.items() if typed.strip()}
    wrong = [
        name for name, typed in heard.items() if not facts.is_what_was_heard(study, name, typed)
    ]
    if wrong or not heard:
        named = ", ".join(wrong)
        raise TrustError(
            f"what was typed for {named} is not how the key ends that this study names"
            if wrong
            else "nothing was typed",
            hint=f"nothing was kept. If {named} read it out so, do not approve: somebody shows you "
            "another key than theirs"
            if wrong
            else "type what the partner reads out to you",
        )
    keys = {name: study.hospital(name).fingerprint for name in heard}
    AddressBook.load(home).confirm(home, keys)
    for name, key in keys.items():
        home.record("partner-confirmed", hospital=name, fingerprint=key)


def _person(fields: dict[str, str]) -> Identity | None:
    path = fields.get("key", "").strip()
    return load_key(Path(path), fields.get("passphrase", "").encode()) if path else None


def _reason(fields: dict[str, str]) -> str:
    reason = fields.get("reason", "").strip()
    if not reason:
        raise UsageError(
            "no reason was given", hint="the coordinator reads it; write no patient data into it"
        )
    return reason


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


def _sign_policy(home: SiteHome, fields: dict[str, str]) -> Policy | None:
    """Raises PolicyError: it is no longer the one that was shown."""
    shown = read_edited(home.directory / "policy.toml")
    if fields.get("digest") != shown.digest:
        raise PolicyError(
            "nothing was signed: policy.toml is another than was shown", hint="read it again"
        )
    return sign(home.directory, home.identity(), _person(fields))


def _policy(home: SiteHome) -> dict[str, Any]:
    """What is in force, or what stands in policy.toml and why it is not."""
    found, why = read_edited(home.directory / "policy.toml"), None
    try:
        found = home.policy
    except TrustError as error:
        why = error
    people = [(p.name, p.role, fingerprint(bytes.fromhex(p.public))) for p in found.people]
    return {
        "rules": facts.rules(found),
        "people": people,
        "digest": found.digest,
        "path_of_policy": home.directory / "policy.toml",
        "why": why,
        "waits": False,
    }
