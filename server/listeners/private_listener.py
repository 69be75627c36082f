"""The private listener: each route requires its own credential.

    /health            204 for everyone, no other information
    /v1/runtime/*      Flower's SuperExec signature or task token (Flower verifies it in full)
    /v1/control/*      a credential that only the coordinator's own process has
    /job/NAME/...      the runtime again, for a run that a remote job carries out
    /v1/run/*          a job's token, for its own run
    /console           pages, for a person who signed in; the sign-in page and static files are
                       open to everyone (``flo.server.console.sign_in``)
    anything else      a person's token with a role that ``flo.server.http.roles`` allows
                       (``flo.server.api.operator_api``)
Without a credential: 401, before any routing (the console redirects to its sign-in page); with one
that does not allow the call: 403. The runtime's ``flo-pull`` waits, in async code, until a
reply is there or a short hold is over, so that a ServerApp need not poll; so does ``acquire-task``
until a run is to be launched.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection

from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Receive, Scope, Send

from flo.documents.canonical import Bytes
from flo.errors import MessageError, PolicyError, RefusedError, TrustError
from flo.host.shared_memory import opened
from flo.http.asgi import (
    ByteQuota,
    Refused,
    headers_of,
    read_body,
    replay,
    send_bytes,
    send_json,
    unlimited,
)
from flo.http.protocol import PERSON
from flo.protocol.large_bodies import NODES_HEADER, PLACE_HEADER, SIZE_HEADER
from flo.protocol.messages import MAX_MESSAGE_BYTES
from flo.server.audit.rate_limited import RateLimitedAudit
from flo.server.console.sign_in import CONSOLE
from flo.server.flower import app_messages
from flo.server.flower.app_calls import (
    APP_CALLS,
    MAX_PULL_BYTES,
    MAX_PUSH_BYTES,
    PULL_PATH,
    PUSH_PATH,
    PUT_PATH,
    RUNTIME_PREFIX,
    TAKE_PATH,
)
from flo.server.flower.control import CONTROL_PREFIX
from flo.server.flower.large_bodies import LargeBodyRelay, name_in, number_in, numbers_in
from flo.server.flower.scoped_runtime import RUNTIME_CALLS
from flo.server.flower.superlink import ACQUIRE_PATH, SuperLink
from flo.server.http.notifier import Notifier
from flo.server.http.roles import refuse_forbidden
from flo.server.http.tokens import Token
from flo.server.http.tokens import read as read_token
from flo.server.listeners.last_answers import LastAnswers
from flo.server.runs.job_access import PREFIX as JOB_PREFIX
from flo.server.runs.jobs import Jobs

log = logging.getLogger("flo.server.private")

# Flower checks the first one's signature after reading the body.
_MAX_BODY = {ACQUIRE_PATH: 1 << 16, PULL_PATH: MAX_PULL_BYTES, PUSH_PATH: MAX_PUSH_BYTES}
_MAX_OTHER_BODY = 1 << 24  # logs, and what a run leaves
_PARCELS = frozenset({PUT_PATH, TAKE_PATH})
_HOLD_SECONDS = 1.0  # then the ServerApp checks which hospitals are connected
_TASK_HOLD_SECONDS = 1.0  # then SuperExec looks whether its parent is there
_RECHECK_SECONDS = 0.25


class PrivateListener:
    """ASGI application of the private listener."""

    def __init__(
        self,
        superlink: SuperLink,
        api: ASGIApp,
        console: ASGIApp,
        public: bytes,
        audit: RateLimitedAudit,
        notifier: Notifier,
        jobs: Jobs,
        large_bodies: LargeBodyRelay,
        last_answers: LastAnswers,
    ) -> None:
        """``public``: the coordinator's key, which signs tokens."""
        self._superlink, self._api, self._notifier, self._jobs = superlink, api, notifier, jobs
        self._console = console
        self._public, self._audit, self._large_bodies = public, audit, large_bodies
        self._allowance = ByteQuota(MAX_MESSAGE_BYTES + max(_MAX_BODY.values()))
        self._last_answers = last_answers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; one without a credential for its path is refused and audited."""
        if scope["type"] == "lifespan":
            await self._superlink.control(scope, receive, send)
            return
        path = scope["path"]
        if path == "/health" and scope["method"] in ("GET", "HEAD"):
            await send_json(send, 204, None)
            return
        if path == CONSOLE or path.startswith(f"{CONSOLE}/"):
            await self._console(scope, receive, send)
            return
        try:
            if path.startswith(JOB_PREFIX):
                await self._to_a_job(path, scope, receive, send)
                return
            flower = self._flower(path)
            if flower is not None:
                if not self._superlink.credential(path, headers_of(scope)):
                    raise Refused(401, "not a process of this coordinator")
                if path.startswith(RUNTIME_PREFIX) and path not in RUNTIME_CALLS | APP_CALLS:
                    raise Refused(401, "a ServerApp may not make this call")
                if path in _PARCELS:
                    await self._parcel(path, scope, receive, send)
                    return
                await self._runtime_call(flower, path, scope, receive, send)
                return
            person = self._admit(path, scope)
        except Refused as refusal:
            facts = {"path": path[:80], "why": str(refusal)}
            log.warning("refused", extra={"fields": facts})
            await asyncio.to_thread(self._audit.record, "denied", **facts)
            said = "a credential is required" if refusal.status == 401 else str(refusal)
            await send_json(send, refusal.status, {"error": said})
            return
        await self._api({**scope, PERSON: person}, receive, send)

    def _flower(self, path: str) -> ASGIApp | None:
        """Return Flower's application for a path; None if the path is not Flower's."""
        if path.startswith(RUNTIME_PREFIX):
            return self._superlink.runtime
        return self._superlink.control if path.startswith(CONTROL_PREFIX) else None

    async def _to_a_job(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a job's call. Raises Refused: it has no run, or the call is not allowed."""
        found = self._jobs.leased_to(path)
        if found is None:
            if not self._jobs.ready:
                raise Refused(503, "the coordinator has not resumed its runs yet")  # Flower retries
            raise Refused(401, "no such job")
        lent, inner = found
        if inner not in RUNTIME_CALLS | APP_CALLS:
            raise Refused(401, "a job may not make this call")
        if not self._superlink.credential(inner, headers_of(scope), lent.flower_run):
            raise Refused(401, "not a process of this job")
        with self._allowance.reserve(lent.job) as take:
            if inner in _PARCELS:
                await self._parcel(inner, scope, receive, send, take, lent.nodes())
                return
            await self._runtime_call(lent.app, inner, scope, receive, send, take)

    async def _parcel(
        self,
        path: str,
        scope: Scope,
        receive: Receive,
        send: Send,
        take: Callable[[int], None] = unlimited,
        ours: Collection[int] | None = None,
    ) -> None:
        """Store or send a large body; ``ours``: the only nodes that a lent run may address."""
        headers = headers_of(scope)
        run, name = self._superlink.run_of(headers), name_in(headers)
        nodes = numbers_in(headers, NODES_HEADER)
        if run is None or (ours is not None and not nodes <= set(ours)):
            raise Refused(401, "this body is for a hospital of another study")
        place = headers.get(PLACE_HEADER.encode(), b"").decode("latin-1") if ours is None else ""
        if path == TAKE_PATH:
            size = number_in(headers, SIZE_HEADER, MAX_MESSAGE_BYTES)
            if not place:
                await self._large_bodies.stream_reply(min(nodes), name, size, send)
                return
            where = await self._large_bodies.share_reply(run, min(nodes), name, size)
            await send_json(send, 200, {"place": where})
        else:
            self._large_bodies.store_request(
                run, name, nodes, await self._body(place, headers, receive, take)
            )
            await send_json(send, 200, {})

    @staticmethod
    async def _body(
        place: str, headers: dict[bytes, bytes], receive: Receive, take: Callable[[int], None]
    ) -> Bytes:
        """Return the body as it is sent, or from the shared memory of a local process."""
        if not place:
            return await read_body(receive, MAX_MESSAGE_BYTES, take)
        try:
            return opened(place, number_in(headers, SIZE_HEADER, MAX_MESSAGE_BYTES))
        except MessageError as error:
            raise Refused(400, str(error)) from error

    def _admit(self, path: str, scope: Scope) -> Token:
        given = headers_of(scope).get(b"authorization", b"").decode("latin-1")
        kind, _, text = given.partition(" ")
        if kind != "Bearer":
            raise Refused(401, "no token")
        try:
            token = read_token(text, self._public)
        except TrustError as error:
            raise Refused(401, str(error)) from error
        try:
            refuse_forbidden(token.role, scope["method"], path)
        except PolicyError as error:
            raise Refused(403, f"{token.name}: {error}") from error
        return token

    async def _runtime_call(
        self,
        flower: ASGIApp,
        path: str,
        scope: Scope,
        receive: Receive,
        send: Send,
        take: Callable[[int], None] = unlimited,
    ) -> None:
        """Answer a call about messages; give any other to Flower."""
        try:
            body = await read_body(receive, _MAX_BODY.get(path, _MAX_OTHER_BODY), take)
            if path in (PUSH_PATH, PULL_PATH):
                await send_bytes(send, await self._messages(flower, path, headers_of(scope), body))
            else:
                if path == ACQUIRE_PATH:
                    await self._wait_for_task(flower)
                scope = {**scope, "path": path, "raw_path": path.encode()}
                await flower(scope, replay(body, receive), send)
        except Refused as refusal:
            await send_json(send, refusal.status, {"error": str(refusal)})
            return
        self._notifier.notify_all()

    async def _messages(
        self, runtime: ASGIApp, path: str, headers: dict[bytes, bytes], body: bytes
    ) -> bytes:
        """Take a ServerApp's requests, or return replies as soon as some are there."""
        try:
            run = self._superlink.run_of(headers)
            if run is None:
                raise TrustError("this task is over")
            last = self._last_answers.of(run)
            async with last.turn:
                if path == PUSH_PATH:
                    push = self._superlink.push_requests
                    return await run_in_threadpool(push, runtime, headers, body)
                if last.is_new(name_in(headers)):
                    requests = await run_in_threadpool(app_messages.awaited, body)
                    self._large_bodies.end_unawaited(run, requests)
                    answered = await self._hold(requests)
                    pull = self._superlink.pull_replies
                    last.answer = await run_in_threadpool(pull, headers, answered)
                    last.question = name_in(headers)
                return last.answer
        except TrustError as error:
            raise Refused(401, str(error)) from error
        except (RefusedError, MessageError) as error:
            raise Refused(400, str(error)) from error

    async def _hold(self, requests: Collection[str]) -> list[str]:
        """Wait for a complete reply, for a short hold; return the requests that have one."""
        end = asyncio.get_running_loop().time() + _HOLD_SECONDS
        while True:
            answered = self._superlink.with_complete_replies(requests)
            left = end - asyncio.get_running_loop().time()
            if answered or left <= 0:
                return answered
            await self._notifier.wait(min(left, _RECHECK_SECONDS))

    async def _wait_for_task(self, flower: ASGIApp) -> None:
        """Wait until a run is to be launched by who asks, for a short hold.

        Flower checks who asks afterwards, so waiting tells nobody anything.
        """
        end = asyncio.get_running_loop().time() + _TASK_HOLD_SECONDS
        while not self._superlink.has_task_for(flower):
            left = end - asyncio.get_running_loop().time()
            if left <= 0:
                return
            await self._notifier.wait(min(left, _RECHECK_SECONDS))
