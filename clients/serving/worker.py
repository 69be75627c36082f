"""A process that scores. It reads requests of the record system, and nothing else.

It has no network and no key of the site, and writes no file: it is confined as the process that
holds patients (``flo.clients.serving.worker_process``). Whatever it is sent can at worst end it:
another worker takes over its questions. It answers one front at a time, over a connection that the
supervisor hands to it, and keeps its models when the front is replaced. On each connection it first
says which layers of confinement are missing.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from flo.clients.serving import cds_hooks, plain
from flo.clients.serving.frames import (
    DIGEST_LENGTH,
    FORGET,
    HOOK,
    ID_LENGTH,
    LOAD,
    REFUSED,
    Buffer,
    answered,
)
from flo.clients.serving.service import Answer, Question, ServedVersion, Service, invalid
from flo.documents import canonical
from flo.documents.document import parse
from flo.errors import FloError
from flo.host.logs import JsonFormatter

log = logging.getLogger("flo.clients.serving.worker")

_Given = ParamSpec("_Given")
_Found = TypeVar("_Found")
_READ = 1 << 20
_LOADED = 200
_BUG = invalid(500, "this is a bug in FLO; the operator finds it in the log")


def run(control: socket.socket, missing: list[str]) -> None:
    """Answer fronts until the supervisor ends. ``missing``: layers of confinement."""
    screen = logging.StreamHandler()
    screen.setFormatter(JsonFormatter())  # type and place of an error, never its text
    logging.getLogger().addHandler(screen)
    hello = answered(0, Answer(_LOADED, "scored", json.dumps({"missing": missing}).encode()))
    services = dict[bytes, Service]()
    while True:
        data, files, _, _ = socket.recv_fds(control, 1, 1)
        if not data or not files:
            return
        with socket.socket(fileno=files[0]) as front:
            serve_front(front, services, hello)


def serve_front(front: socket.socket, services: dict[bytes, Service], hello: bytes) -> None:
    """Answer one front until it closes the connection."""
    buffer = Buffer()
    with contextlib.suppress(ConnectionError):
        _write(front, hello)
        while data := front.recv(_READ):
            buffer.add(data)
            replies = _replies(list(buffer.questions()), services)
            if replies:
                _write(front, b"".join(replies))


def _write(front: socket.socket, data: bytes) -> None:
    """Write all of it. Confinement refuses calls that send to an address, and these may."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(front.fileno(), rest) :]


def _replies(frames: list[tuple[int, int, bytes]], services: dict[bytes, Service]) -> list[bytes]:
    """Return the replies to all frames that have arrived; questions are scored together."""
    replies, waiting = list[bytes](), dict[Service, list[tuple[int, Question]]]()
    for number, kind, body in frames:
        if kind in (LOAD, FORGET):
            answer = _changed(kind, body, services)
            replies.append(answered(number, answer))
            continue
        service = services.get(body[:DIGEST_LENGTH])
        if service is None:
            replies.append(answered(number, invalid(503, "this version is not loaded")))
            continue
        found = _guarded(_asked, service, kind, body)
        if isinstance(found, Question):
            waiting.setdefault(service, []).append((number, found))
        else:
            replies.append(answered(number, found))
    for service, several in waiting.items():
        questions = [one for _, one in several]
        answers = _guarded(service.score, questions)
        each = [answers] * len(several) if isinstance(answers, Answer) else answers
        for (number, _), answer in zip(several, each, strict=True):
            replies.append(answered(number, answer))
    return replies


def _asked(service: Service, kind: int, body: bytes) -> Question | Answer:
    begin = DIGEST_LENGTH + ID_LENGTH
    answer_id, request = body[DIGEST_LENGTH:begin].decode("ascii"), body[begin:]
    ask = cds_hooks.ask if kind == HOOK else plain.ask
    return ask(service, answer_id, request)


def _changed(kind: int, body: bytes, services: dict[bytes, Service]) -> Answer:
    answer = _guarded(_change, kind, body, services)
    if answer is not _BUG:
        return answer
    said = {"error": "FLO fails to load this version; see the log", "hint": ""}
    return Answer(REFUSED, "invalid", json.dumps(said).encode())


def _change(kind: int, body: bytes, services: dict[bytes, Service]) -> Answer:
    """Load a version, or forget one. A version that is there already is not loaded again."""
    if kind == FORGET:
        services.pop(body, None)
        return Answer(_LOADED, "scored", b"")
    digest, document = body[:DIGEST_LENGTH], body[DIGEST_LENGTH:]
    try:
        if digest not in services:
            decoded = canonical.decode(document, limit=1 << 30, what="a version", values=1 << 30)
            version = parse(ServedVersion, decoded, "a version")
            services[digest] = Service(version)
    except FloError as error:
        said = {"error": str(error), "hint": error.hint}
        return Answer(REFUSED, "invalid", json.dumps(said).encode())
    service = services[digest]
    facts = {"reasons": service.scorer.no_reasons}
    return Answer(_LOADED, "scored", json.dumps(facts).encode())


def _guarded(
    work: Callable[_Given, _Found], *given: _Given.args, **named: _Given.kwargs
) -> _Found | Answer:
    try:
        return work(*given, **named)
    except Exception:  # of any kind: one answer, and the place in the log, without a value
        log.exception("the worker could not answer")
        return _BUG
