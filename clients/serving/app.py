"""The server's ASGI application: an exact list of paths, for callers of the allow-list.

    GET  /health                              anybody: whether models answer
    GET  /cds-services                        CDS Hooks: discovery
    POST /cds-services/NAME                   CDS Hooks: a patient's card
    POST /cds-services/NAME/feedback          CDS Hooks: what a clinician did with a card
    POST /models/NAME/score                   the plain call (``flo.clients.serving.plain``)
    POST /models/NAME/outcomes                what became of patients, by the ids of answers
    GET  /metrics                             on this machine only
    GET  /status                              through the site's own socket only

Every request but the first needs a token (``flo.clients.serving.callers``), unless it comes through
the site's own socket. Then:

    1. the body is read, within its limits;
    2. the version that answers is looked up (``flo.clients.serving.answering``), and those that are
       compared with it;
    3. a worker makes the answer;
    4. the answer is entered in the log, with its group;
    5. if the version was withdrawn meanwhile, the answer is thrown away, and 2 follows;
    6. the answer is sent, and what compared versions said of the patient is kept, and what monitors
       count of the record.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from starlette.types import Receive, Scope, Send

from flo.clients.serving import cds_hooks, outcomes
from flo.clients.serving.answer_ids import AnswerIds
from flo.clients.serving.answering import Answering, AnsweringModels, Ready
from flo.clients.serving.callers import AllowList, RefusedCaller
from flo.clients.serving.example import example_request
from flo.clients.serving.frames import HOOK, PLAIN
from flo.clients.serving.metrics import Served
from flo.clients.serving.pool import Pool
from flo.clients.serving.recorder import Recorder
from flo.clients.serving.replays import ReplayMemory
from flo.clients.serving.service import Answer, invalid
from flo.clients.serving.several import read_compared
from flo.errors import FloError, MessageError
from flo.host.metrics import PROMETHEUS
from flo.http.asgi import ByteQuota, Refused, read_body

log = logging.getLogger("flo.clients.serving.app")

MAX_BODY = 4 << 20
_MOST_HELD = 256 << 20  # bytes of all requests of a caller
_LONGEST_SECONDS = 30.0  # for which a request follows versions that change
_NOT_FOUND = invalid(404, "there is no such path or model")
_FORBIDDEN = invalid(401, "refused; the hospital's operator finds the reason in the log")
_BUG = invalid(500, "this is a bug in FLO; the operator finds it in the log")
_NO_LOG = invalid(503, "the answer cannot be entered in the log, so none is sent")
_NO_MODEL = "no version of this model answers now"
LOCAL = "this-machine"  # caller of the site's own socket
_TOLD = {
    "public": ("/health",),
    "local": ("/health", "/metrics", "/status"),
    "metrics": ("/health", "/metrics"),
}


@dataclass
class Serving:
    """All that requests share. ``forgetful_since``: seconds since 1970 before which it is unknown
    which tokens were used; 0 if the memory goes back further than any token."""

    models: AnsweringModels
    pool: Pool
    recorder: Recorder
    callers: AllowList
    replays: ReplayMemory
    url: str
    forgetful_since: float
    began: str
    served: Served
    ids: AnswerIds


class App:
    """The application of one listener: for record systems; ``local``, for this site's own socket,
    which needs no token; or for ``metrics`` only."""

    def __init__(self, serving: Serving, kind: Literal["public", "local", "metrics"]) -> None:
        self._serving, self._kind = serving, kind
        self._held = ByteQuota(_MOST_HELD)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        begun = time.perf_counter()
        path, method = scope["path"], scope["method"]
        try:
            if method == "GET" and path in _TOLD[self._kind]:
                await self._tell(path, send)
                return
            if self._kind == "metrics":
                raise _Known(_NOT_FOUND)
            caller = self._caller(scope)
            if method == "GET" and path == "/cds-services":
                await _send(send, 200, json.dumps(self._serving.models.discovery()).encode())
                return
            name, kind = _asked(path) if method == "POST" else ("", "")
            if name not in self._serving.models.states:
                raise _Known(_NOT_FOUND)
            with self._held.reserve(caller) as take:
                body = await read_body(receive, MAX_BODY, take)
                if kind == "feedback":
                    await self._feedback(name, caller, body, send)
                elif kind == "outcomes":
                    await self._outcomes(name, caller, body, send)
                else:
                    kinds = {"hook": HOOK, "plain": PLAIN}
                    await self._answer(name, kinds[kind], caller, body, send, begun)
        except RefusedCaller as refusal:
            self._refuse("caller", str(refusal))
            await _send(send, _FORBIDDEN.status, _FORBIDDEN.body, close=True)
        except Refused as refusal:
            self._refuse("form", str(refusal))
            answer = invalid(refusal.status, str(refusal) if refusal.status != 400 else "refused")
            await _send(send, answer.status, answer.body, close=True)
        except _Known as known:
            self._refuse("path", "a path or model that is not there")
            await _send(send, known.answer.status, known.answer.body, close=True)

    def _caller(self, scope: Scope) -> str:
        """Return who asks. Raises RefusedCaller."""
        if self._kind == "local":
            return LOCAL
        serving, now = self._serving, time.time()
        asked = serving.callers.check(scope["headers"], f"{serving.url}{scope['path']}", now)
        if asked.issued < serving.forgetful_since:
            raise RefusedCaller(f"{asked.caller}'s token is older than this server")
        if not serving.replays.use(asked.caller, asked.token, asked.expires, now):
            raise RefusedCaller(f"{asked.caller}'s token was used before")
        return asked.caller

    def _refuse(self, why: str, told: str) -> None:
        self._serving.served.refused[why] += 1
        self._serving.recorder.refuse(told[:120])

    async def _answer(
        self, name: str, kind: int, caller: str, body: bytes, send: Send, begun: float
    ) -> None:
        serving = self._serving
        first = time.perf_counter()  # the body has arrived
        while True:
            answer_id = serving.ids.new()
            asked = (await serving.models.current(name)).asked  # 2
            if asked is None:
                await self._nobody(name, kind, answer_id, caller, send)
                return
            answer = await serving.pool.ask(kind, asked.packed, answer_id, body)  # 3
            said = None
            try:
                if answer.compared:
                    said = read_compared(answer.compared, len(asked.ready), asked.drawn)
            except MessageError as error:
                log.error(str(error))
                await _send(send, _BUG.status, _BUG.body)
                return
            ready = asked.ready[said.place if said else 0]
            line = (answer_id, caller, name, ready.study.version, answer.outcome)
            if not await self._is_recorded(serving.recorder.record(line), send):  # 4
                return
            if self._may_be_sent(name, ready, answer):  # 5
                seconds = time.perf_counter() - begun
                serving.served.answered(name, ready.study.version, answer.outcome, seconds)
                await _send(send, answer.status, answer.body)  # 6
                if caller == LOCAL and kind == HOOK:  # a made-up patient, on the desk
                    return
                if answer.watched:
                    serving.models.watching.keep(
                        asked.ready[0].watched, answer_id, caller, seconds, answer.watched
                    )
                if said and asked.comparison:
                    versions = [one.study.version for one in asked.ready]
                    serving.models.comparing.keep(
                        asked.comparison, answer_id, caller, versions, said
                    )
                return
            if time.perf_counter() > first + _LONGEST_SECONDS:
                answer = invalid(503, "the versions of this model change too quickly")
                await _send(send, answer.status, answer.body)
                return

    async def _is_recorded(self, entry: asyncio.Future[None], send: Send) -> bool:
        """Wait until an entry is on disk; if it cannot be, send that instead of an answer."""
        try:
            await entry
        except Exception:  # noqa: BLE001 - the recorder has logged it
            await _send(send, _NO_LOG.status, _NO_LOG.body)
            return False
        return True

    def _may_be_sent(self, name: str, ready: Ready, answer: Answer) -> bool:
        return answer.outcome == "invalid" or self._serving.models.may_be_sent(name, ready)

    async def _nobody(self, name: str, kind: int, answer_id: str, caller: str, send: Send) -> None:
        """Answer that no version answers."""
        line = (answer_id, caller, name, 0, "no model")
        if not await self._is_recorded(self._serving.recorder.record(line), send):
            return
        self._serving.served.answered(name, 0, "no model", 0.0)
        if kind == HOOK:
            cards = [cds_hooks.nobody_card(name, answer_id)]
            await _send(send, 200, json.dumps({"cards": cards}).encode())
        else:
            answer = invalid(503, _NO_MODEL)
            await _send(send, answer.status, answer.body)

    async def _feedback(self, name: str, caller: str, body: bytes, send: Send) -> None:
        read = cds_hooks.feedback(body)
        if isinstance(read, Answer):
            await _send(send, read.status, read.body)
            return
        if not all(self._serving.ids.is_ours(one.card) for one in read):
            answer = invalid(400, "a card is not one of this server's")
            await _send(send, answer.status, answer.body)
            return
        several = [[one.card, one.outcome, one.override] for one in read]
        facts = {"caller": caller, "service": name, "cards": several}
        if await self._is_recorded(self._serving.recorder.enter("feedback", **facts), send):
            await _send(send, 200, b"{}")

    async def _outcomes(self, name: str, caller: str, body: bytes, send: Send) -> None:
        read = outcomes.read(body)
        if isinstance(read, Answer):
            await _send(send, read.status, read.body)
            return
        if not all(map(self._serving.ids.is_ours, read)):
            answer = invalid(400, "an id is not of one of this server's answers")
            await _send(send, answer.status, answer.body)
            return
        try:
            found = await self._serving.models.comparing.report(name, caller, read)
        except FloError:
            log.exception("outcomes cannot be kept")
            answer = invalid(503, "outcomes cannot be kept now; report them again later")
            await _send(send, answer.status, answer.body)
            return
        facts = {"caller": caller, "service": name, "new": found.new}
        if await self._is_recorded(self._serving.recorder.enter("outcomes", **facts), send):
            await _send(send, 200, outcomes.told(found))

    async def _tell(self, path: str, send: Send) -> None:
        serving = self._serving
        if path == "/health":
            states = serving.models.states.values()
            well = serving.pool.size > 0 and any(state.ready for state in states)
            body = json.dumps({"status": "ok" if well else "no model answers"}).encode()
            await _send(send, 200 if well else 503, body)
        elif path == "/metrics":
            several = serving.models, serving.pool, serving.recorder, serving.models.folder
            text = serving.served.text(*several)
            await _send(send, 200, text.encode(), PROMETHEUS)
        else:
            await _send(send, 200, json.dumps(self._status()).encode())

    def _status(self) -> dict[str, Any]:
        """Return who answers, since when and how often, for the desk and `flo doctor`."""
        serving = self._serving
        return {
            "began": serving.began,
            "url": serving.url,
            "workers": serving.pool.size,
            "worker_ends": serving.pool.restarts,
            "models": [
                {
                    "name": state.name,
                    "title": state.ready.title if state.ready else "",
                    "version": state.ready.study.version if state.ready else 0,
                    "since": state.ready.since if state.ready else "",
                    "why": state.why,
                    "health": _health(serving.models, state.name),
                    "no_reasons": state.ready.no_reasons if state.ready else "",
                    "compared": self._compared(state),
                    "try": _example(state.ready) if state.ready else None,
                    "answers": {
                        outcome: count
                        for (name, version, outcome), count in serving.served.answers.items()
                        if name == state.name
                        and version == (state.ready.study.version if state.ready else 0)
                    },
                }
                for state in serving.models.states.values()
            ],
            "refused": dict(serving.served.refused),
        }

    def _compared(self, state: Answering) -> list[dict[str, Any]]:
        """Return which versions are compared with the one that answers, and how."""
        if state.comparison is None:
            return []
        comparing = self._serving.models.comparing
        return [
            {
                "version": one.model.version,
                "share": comparing.share(state.comparison, one.model.study),
                "worse": comparing.is_worse(state.comparison, one.model.study),
                "why": state.others[one.model.study].why,
            }
            for one in state.comparison.versions
        ]


def _health(models: AnsweringModels, name: str) -> float | None:
    standing = models.watching.standing(name)
    return None if standing is None else standing.health


def _example(ready: Ready) -> dict[str, Any] | None:
    """Return a made-up patient's request, to try the model by hand; None if it answers no hook."""
    if ready.version.fhir is None:
        return None
    today = datetime.now().astimezone().date()
    return example_request(ready.version.hook, ready.version.fhir, ready.study.data, today)


class _Known(Exception):
    def __init__(self, answer: Answer) -> None:
        super().__init__()
        self.answer = answer


def _asked(path: str) -> tuple[str, str]:
    """Return model and kind of a path that is asked with POST; ("", "") if it is none."""
    match path.split("/"):
        case ["", "cds-services", name]:
            return name, "hook"
        case ["", "cds-services", name, "feedback"]:
            return name, "feedback"
        case ["", "models", name, "score"]:
            return name, "plain"
        case ["", "models", name, "outcomes"]:
            return name, "outcomes"
    return "", ""


async def _send(
    send: Send, status: int, body: bytes, kind: str = "application/json", *, close: bool = False
) -> None:
    """Send an answer. ``close``: end the connection, as of a caller who is not allowed."""
    headers = [
        (b"content-length", str(len(body)).encode()),
        (b"content-type", kind.encode()),
        (b"cache-control", b"no-store"),
    ]
    if close:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
