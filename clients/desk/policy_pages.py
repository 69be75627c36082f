"""Desk pages for this hospital's policy and patients' opt-outs."""

from __future__ import annotations

import asyncio
from contextlib import closing
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from flo.clients.desk import facts
from flo.clients.desk.context import DeskContext, person_in
from flo.clients.home.policy import Policy
from flo.clients.home.policy_file import read_edited, sign
from flo.clients.home.site_home import SiteHome
from flo.clients.patients.erasure import erase
from flo.clients.patients.opt_outs import OptOuts, finished_of, id_in_data, opt_out
from flo.errors import FloError, PolicyError, TrustError
from flo.keys.identity import fingerprint


def policy_router(context: DeskContext) -> APIRouter:
    """Return routes to read and sign the policy, and to take a patient out."""
    router, home = APIRouter(), context.home

    @router.get(f"{context.base}/policy")
    def policy(request: Request) -> Response:
        return context.page(request, "policy.html.j2", **_policy(home))

    @router.post(f"{context.base}/policy")
    async def sign_policy(request: Request) -> Response:
        fields = await context.form(request)
        waits = await asyncio.to_thread(_sign_policy, home, fields) is None
        return context.page(request, "policy.html.j2", **(_policy(home) | {"waits": waits}))

    @router.get(f"{context.base}/opt-outs")
    def opt_outs(request: Request) -> Response:
        count = len(OptOuts.load(home).patients)
        return context.page(request, "opt_outs.html.j2", count=count, said=None, record=None)

    @router.post(f"{context.base}/opt-outs")
    async def take_out(request: Request) -> Response:
        fields = await context.form(request)
        return await asyncio.to_thread(taken_out, request, fields)

    def taken_out(request: Request, fields: dict[str, str]) -> Response:
        patient = fields.get("patient", "")
        deleted, changed = finished_of(home, patient), opt_out(home, patient)
        made, path = erase(home, patient) if "record" in fields else (None, None)
        try:
            known = id_in_data(home, patient)
        except FloError:  # the data cannot be read; the opt-out is in effect all the same
            known = False
        said: Any = {"changed": len(changed), "known": known, "deleted": deleted}
        count = len(OptOuts.load(home).patients)
        record: Any = {"made": made, "path": path} if made else None
        return context.page(request, "opt_outs.html.j2", count=count, said=said, record=record)

    return router


def _sign_policy(home: SiteHome, fields: dict[str, str]) -> Policy | None:
    """Sign the policy. Raises PolicyError if it changed since it was shown."""
    shown = read_edited(home.directory / "policy.toml")
    if fields.get("digest") != shown.digest:
        raise PolicyError(
            "not signed: policy.toml changed after this page was opened", hint="read it again"
        )
    return sign(home.directory, home.open_identity(), person_in(fields))


def _asks_people(home: SiteHome) -> bool:
    """Return whether people whom the policy in force names must sign a change of it."""
    with closing(home.open_audit_log()) as log:
        last = log.last("policy-signed")
    return bool(last and last.facts["people"])


def _policy(home: SiteHome) -> dict[str, Any]:
    """Return the page's values: the policy in force, or policy.toml and why it is not in force."""
    found, why = read_edited(home.directory / "policy.toml"), None
    try:
        found = home.read_policy()
    except TrustError as error:
        why = error
    people = [(p.name, p.role, fingerprint(bytes.fromhex(p.public))) for p in found.people]
    return {
        "rules": facts.rules(found),
        "people": people,
        "digest": found.digest,
        "path_of_policy": home.directory / "policy.toml",
        "why": why,
        "asks_people": _asks_people(home),
        "waits": False,
    }
