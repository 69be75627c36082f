"""The private listener: every route needs its credential, whatever the path.

    /health            204 for everyone, and no more
    /v1/runtime/*      Flower's SuperExec signature or task token (Flower verifies it in full)
    anything else      the operator's bearer token: FLO's /v1/flo/*, Flower's control, /docs
Without it: 401, before any routing. ``/v1/runtime/pull-messages`` waits, in async code, until all
replies are there or a short hold is over, so that a ServerApp need not poll.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from flo.errors import FloError, StudyError
from flo.messages import MAX_MESSAGE_BYTES
from flo.server.asgi import Refused, answer, headers_of, read_body, replay, with_length
from flo.server.gateway import Bell
from flo.server.listeners import App, Receive, Scope, Send
from flo.server.store import Offer, Store
from flo.server.superlink import RUNTIME_PREFIX, RUNTIME_PULL_PATH, SuperLink
from flo.study import MAX_STUDY_BYTES, Study, from_canonical

_HOLD_SECONDS = 1.0  # then the ServerApp looks who is still connected
_RECHECK_SECONDS = 0.25


class PrivateListener:
    """ASGI application of the private listener."""

    def __init__(self, superlink: SuperLink, api: App, token: str, bell: Bell) -> None:
        self._superlink, self._api, self._bell = superlink, api, bell
        self._authorization = f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._superlink.control(scope, receive, send)
            return
        path = scope["path"]
        if path == "/health" and scope["method"] in ("GET", "HEAD"):
            await answer(send, 204, None)
            return
        if not self._may(path, scope):
            await answer(send, 401, {"error": "a credential is needed"})
            return
        if path.startswith("/v1/flo/"):
            await self._api(scope, receive, send)
        elif path.startswith("/v1/fleet/"):
            await answer(send, 404, {"error": "hospitals use the other listener"})
        else:
            await self._to_flower(path, scope, receive, send)

    def _may(self, path: str, scope: Scope) -> bool:
        headers = headers_of(scope)
        if path.startswith(RUNTIME_PREFIX):
            return self._superlink.runtime_credential(path, headers)
        return hmac.compare_digest(headers.get(b"authorization", b""), self._authorization)

    async def _to_flower(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            body = await read_body(receive, MAX_MESSAGE_BYTES)
        except Refused as refusal:
            await answer(send, refusal.status, {"error": str(refusal)})
            return
        if path == RUNTIME_PULL_PATH:
            body = await self._hold(body)
            scope = with_length(scope, len(body))
        runtime = path.startswith(RUNTIME_PREFIX)
        flower = self._superlink.runtime if runtime else self._superlink.control
        await flower(scope, replay(body, receive), send)
        self._bell.ring()

    async def _hold(self, body: bytes) -> bytes:
        """The question cut down to replies that are there, after all or a short hold."""
        end = asyncio.get_running_loop().time() + _HOLD_SECONDS
        while True:
            answerable, everything = self._superlink.answered_of(body)
            left = end - asyncio.get_running_loop().time()
            if everything or left <= 0:
                return answerable
            await self._bell.wait(min(left, _RECHECK_SECONDS))


def operator_app(store: Store, offer: Callable[[Study], Offer]) -> FastAPI:
    """FLO's own operator calls. ``offer`` signs a study and puts it on offer."""
    app = FastAPI(title="FLO coordinator", docs_url=None, redoc_url=None, openapi_url=None)

    @app.exception_handler(FloError)
    async def _refusal(request: Request, error: FloError) -> JSONResponse:
        return JSONResponse(
            {"error": str(error), "hint": error.hint, "exit_code": error.exit_code}, 400
        )

    @app.get("/v1/flo/hospitals")
    def hospitals() -> Any:
        return [
            {"id": m.id, "fingerprint": m.fingerprint, "revoked": m.revoked}
            for m in store.members()
        ]

    @app.get("/v1/flo/studies")
    def studies() -> Any:
        return [_summary(store, found) for found in store.offers()]

    @app.post("/v1/flo/studies")
    async def launch(request: Request) -> Any:
        body = await request.body()
        if len(body) > MAX_STUDY_BYTES:
            raise StudyError(f"a study of {len(body)} bytes, limit {MAX_STUDY_BYTES}")
        return _summary(store, await asyncio.to_thread(offer, from_canonical(body)))

    @app.get("/v1/flo/studies/{digest}")
    def study(digest: str, after: int = 0) -> Any:
        return {**_summary(store, _find(store, digest)), "events": store.events(digest, after)}

    @app.post("/v1/flo/studies/{digest}/stop")
    def stop(digest: str) -> Any:
        found = _find(store, digest)
        if not store.request_stop(digest):
            if found.status != "offered":
                raise StudyError(f"study {found.study.name} is {found.status}, not running")
            store.set_status(digest, "stopped")
        store.add_event(digest, "stop-requested")
        return {}

    @app.get("/v1/flo/studies/{digest}/extracts")
    def extracts(digest: str) -> Any:
        _find(store, digest)
        return {name: document.decode() for name, document in store.extracts(digest).items()}

    return app


def _find(store: Store, digest: str) -> Offer:
    found = store.offer(digest)
    if found is None:
        raise StudyError(f"no study {digest[:12]} here", hint="`flo study list` shows them")
    return found


def _summary(store: Store, offer: Offer) -> dict[str, Any]:
    run = next((r for r in reversed(store.runs()) if r.study == offer.study.digest), None)
    return {
        "digest": offer.study.digest,
        "study": offer.study.canonical_bytes.decode(),
        "signature": offer.signature,
        "status": offer.status,
        "approved": store.approvals(offer.study.digest),
        "run": run.id if run else None,
        "result": run.result if run else None,
    }
