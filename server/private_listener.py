"""The private listener: every route needs its credential, whatever the path.

    /health            204 for everyone, and no more
    /v1/runtime/*      Flower's SuperExec signature or task token (Flower verifies it in full)
    /v1/control/*      a credential that only the coordinator's own process has
    /job/NAME/...      the runtime once more, for a run that a job elsewhere carries out
    /v1/run/*          a job's token, for its own run
    /console           pages, for a person who signed in (``flo.server.console``)
    anything else      a person's token, whose role ``flo.server.roles`` allows it
                       (``flo.server.operator_api``)
Without a credential: 401, before any routing; with one that does not allow it: 403. The runtime's
``pull-messages`` waits, in async code, until a reply is there or a short hold is over, so that a
ServerApp need not poll.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection

from flo.canonical import Bytes
from flo.errors import MessageError, PolicyError, TrustError
from flo.messages import MAX_MESSAGE_BYTES
from flo.parcel import NODES_HEADER, PLACE_HEADER, SIZE_HEADER
from flo.server.asgi import (
    Allowance,
    Refused,
    answer,
    headers_of,
    read_body,
    replay,
    unlimited,
    with_length,
)
from flo.server.bell import Bell
from flo.server.console.door import CONSOLE
from flo.server.job_access import PREFIX as JOB_PREFIX
from flo.server.jobs import Jobs
from flo.server.lent import RUNTIME_CALLS
from flo.server.parcels import Parcels, name_in, number_in, numbers_in
from flo.server.protocol import PERSON, App, Receive, Scope, Send
from flo.server.refusals import Refusals
from flo.server.roles import refuse_forbidden
from flo.server.superlink import (
    ACQUIRE_PATH,
    CONTROL_PREFIX,
    PUT_PATH,
    RUNTIME_PREFIX,
    RUNTIME_PULL_PATH,
    TAKE_PATH,
    SuperLink,
)
from flo.server.tokens import Token
from flo.server.tokens import read as read_token
from flo.shared_memory import opened

log = logging.getLogger("flo.server.private")

# Flower checks the signature of the first only behind the body; the second is read again and again.
_MAX_QUESTION = {ACQUIRE_PATH: 1 << 16, RUNTIME_PULL_PATH: 1 << 20}
_PARCELS = frozenset({PUT_PATH, TAKE_PATH})
_HOLD_SECONDS = 1.0  # then the ServerApp looks who is still connected
_RECHECK_SECONDS = 0.25


class PrivateListener:
    """ASGI application of the private listener."""

    def __init__(
        self,
        superlink: SuperLink,
        api: App,
        console: App,
        public: bytes,
        refusals: Refusals,
        bell: Bell,
        jobs: Jobs,
        parcels: Parcels,
    ) -> None:
        """``public``: the coordinator's key, which signs tokens."""
        self._superlink, self._api, self._bell, self._jobs = superlink, api, bell, jobs
        self._console = console
        self._public, self._refusals, self._parcels = public, refusals, parcels
        self._allowance = Allowance(MAX_MESSAGE_BYTES + max(_MAX_QUESTION.values()))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; whoever shows no credential for its path is refused and noted."""
        if scope["type"] == "lifespan":
            await self._superlink.control(scope, receive, send)
            return
        path = scope["path"]
        if path == "/health" and scope["method"] in ("GET", "HEAD"):
            await answer(send, 204, None)
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
                if path in _PARCELS:
                    await self._parcel(path, scope, receive, send)
                    return
                await self._to_flower(flower, path, scope, receive, send)
                return
            person = self._admit(path, scope)
        except Refused as refusal:
            facts = {"path": path[:80], "why": str(refusal)}
            log.warning("refused", extra={"fields": facts})
            await asyncio.to_thread(self._refusals.note, "denied", **facts)
            said = "a credential is needed" if refusal.status == 401 else str(refusal)
            await answer(send, refusal.status, {"error": said})
            return
        await self._api({**scope, PERSON: person}, receive, send)

    def _flower(self, path: str) -> App | None:
        """Flower's application behind a path, if it is Flower's."""
        if path.startswith(RUNTIME_PREFIX):
            return self._superlink.runtime
        return self._superlink.control if path.startswith(CONTROL_PREFIX) else None

    async def _to_a_job(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises Refused: no such job has a run, or it may not ask this."""
        found = self._jobs.lent_to(path)
        if found is None:
            if not self._jobs.ready:
                raise Refused(503, "runs under way are being taken up again")  # Flower retries
            raise Refused(401, "no such job")
        lent, inner = found
        if inner not in RUNTIME_CALLS | _PARCELS:
            raise Refused(401, "no call for a job")
        if not self._superlink.credential(inner, headers_of(scope), lent.flower_run):
            raise Refused(401, "not a process of this job")
        with self._allowance.of(lent.job) as take:
            if inner in _PARCELS:
                await self._parcel(inner, scope, receive, send, take, lent.nodes())
                return
            await self._to_flower(lent.app, inner, scope, receive, send, take)

    async def _parcel(
        self,
        path: str,
        scope: Scope,
        receive: Receive,
        send: Send,
        take: Callable[[int], None] = unlimited,
        ours: Collection[int] | None = None,
    ) -> None:
        """For a ServerApp; ``ours``: the only nodes that it may have to do with, if it is lent."""
        headers = headers_of(scope)
        run, name = self._superlink.run_of(headers), name_in(headers)
        nodes = numbers_in(headers, NODES_HEADER)
        if run is None or (ours is not None and not nodes <= set(ours)):
            raise Refused(401, "a parcel for a hospital of another study")
        place = headers.get(PLACE_HEADER.encode(), b"").decode("latin-1") if ours is None else ""
        if path == TAKE_PATH:
            size = number_in(headers, SIZE_HEADER, MAX_MESSAGE_BYTES)
            if not place:
                await self._parcels.take(min(nodes), name, size, send)
                return
            where = await self._parcels.take_here(run, min(nodes), name, size)
            await answer(send, 200, {"place": where})
        else:
            self._parcels.put(run, name, nodes, await self._body(place, headers, receive, take))
            await answer(send, 200, {})

    @staticmethod
    async def _body(
        place: str, headers: dict[bytes, bytes], receive: Receive, take: Callable[[int], None]
    ) -> Bytes:
        """As it is sent, or from where in memory a process of this machine has it."""
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

    async def _to_flower(
        self,
        flower: App,
        path: str,
        scope: Scope,
        receive: Receive,
        send: Send,
        take: Callable[[int], None] = unlimited,
    ) -> None:
        try:
            limit = _MAX_QUESTION.get(path, MAX_MESSAGE_BYTES)
            body = await read_body(receive, limit, take)
        except Refused as refusal:
            await answer(send, refusal.status, {"error": str(refusal)})
            return
        scope = {**scope, "path": path, "raw_path": path.encode()}
        if path == RUNTIME_PULL_PATH:
            body = await self._hold(body)
            scope = with_length(scope, len(body))
        await flower(scope, replay(body, receive), send)
        self._bell.ring()

    async def _hold(self, body: bytes) -> bytes:
        """The question cut down to replies that are there, once there is one, or a short hold."""
        end = asyncio.get_running_loop().time() + _HOLD_SECONDS
        while True:
            answerable, something = self._superlink.answered_of(body)
            left = end - asyncio.get_running_loop().time()
            if something or left <= 0:
                return answerable
            await self._bell.wait(min(left, _RECHECK_SECONDS))
