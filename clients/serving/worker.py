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
from dataclasses import dataclass, field, replace
from typing import ParamSpec, TypeVar

import numpy as np

from flo.clients.prediction.scorer import Scored
from flo.clients.serving import cds_hooks, plain, seen
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
from flo.clients.serving.service import (
    Answer,
    Question,
    ServedVersion,
    Service,
    invalid,
    parsed,
)
from flo.clients.serving.several import Several, compared, patient_of, place_of
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


@dataclass
class _Open:
    """A question that is being answered. ``found``: what each of its versions makes of it; None of
    one that is not loaded.

    ``place``: of the version that answers; ``patient``: their id, if several versions score them.
    ``cells``: of the record, as the version in use reads it, in the form of ``seen.as_bytes``.
    """

    number: int
    services: list[Service | None]
    found: list[Question | Answer | None]
    place: int = 0
    patient: str = ""
    scored: dict[int, Scored] = field(default_factory=dict)
    cells: bytes | None = None


def _replies(frames: list[tuple[int, int, bytes]], services: dict[bytes, Service]) -> list[bytes]:
    """Return the replies to all frames that have arrived; questions are scored together."""
    replies, opened = list[bytes](), list[_Open]()
    for number, kind, body in frames:
        if kind in (LOAD, FORGET):
            replies.append(answered(number, _changed(kind, body, services)))
            continue
        found = _guarded(_asked, number, kind, body, services)
        if isinstance(found, Answer):
            replies.append(answered(number, found))
        else:
            opened.append(found)
    _score(opened)
    return [*replies, *(answered(one.number, _guarded(_answer, one)) for one in opened)]


def _asked(number: int, kind: int, body: bytes, services: dict[bytes, Service]) -> _Open | Answer:
    """Return a question with what each of its versions makes of it."""
    several, begin = Several.unpacked(body)
    known = [services.get(digest) for digest in several.digests]
    if known[0] is None:
        return invalid(503, "this version is not loaded")
    answer_id = body[begin : begin + ID_LENGTH].decode("ascii")
    request = parsed(body[begin + ID_LENGTH :])
    if isinstance(request, Answer):
        return request
    ask = cds_hooks.ask if kind == HOOK else plain.ask
    found: list[Question | Answer | None] = [
        None if one is None else _guarded(ask, one, answer_id, request) for one in known
    ]
    one = _Open(number, known, found)
    if several.shares:
        one.patient = patient_of(found)
        studies = [each.study_digest for each in known if each is not None]
        if one.patient and len(studies) == len(known):
            one.place = place_of(several.comparison, one.patient, studies, several.shares)
    return one


def _score(opened: list[_Open]) -> None:
    """Score all patients, those of one version together. Reasons are for who may answer only."""
    waiting = dict[Service, list[tuple[_Open, int, Question]]]()
    for one in opened:
        for place, (service, found) in enumerate(zip(one.services, one.found, strict=True)):
            if service is not None and isinstance(found, Question):
                asked = found if place in (0, one.place) else replace(found, explain=False)
                waiting.setdefault(service, []).append((one, place, asked))
    for service, several in waiting.items():
        scored = _guarded(service.score, [question for *_, question in several])
        for number, (one, place, _) in enumerate(several):
            if isinstance(scored, Answer):
                one.found[place] = scored
            else:
                one.scored[place] = scored[number]
        _guarded(_see, service, [(one, asked) for one, place, asked in several if not place])


def _see(service: Service, several: list[tuple[_Open, Question]]) -> None:
    """Note in which cells the values of scored records are."""
    if several:
        found = service.cells.of_inputs(np.stack([question.inputs for _, question in several]))
        for (one, _), cells in zip(several, seen.as_bytes(found), strict=True):
            one.cells = cells


def _answer(one: _Open) -> Answer:
    place = one.place if one.place in one.scored else 0
    found = one.found[place]
    assert found is not None
    answer = found.finish(one.scored[place]) if isinstance(found, Question) else found
    watched, versions = _guarded(_watched, one), b""
    if one.patient:
        scored = [one.scored.get(each) for each in range(len(one.services))]
        versions = compared(place, one.patient, scored)
    told = watched if isinstance(watched, bytes) else b""
    return Answer(answer.status, answer.outcome, answer.body, versions, told)


def _watched(one: _Open) -> bytes:
    """Return what monitors count of the record, as the version in use reads it."""
    first = one.found[0]
    if isinstance(first, Question) and one.cells is not None and 0 in one.scored:
        return seen.scored(first.patient, first.ward, one.scored[0].risk, one.cells)
    return first.watched if isinstance(first, Answer) else b""


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
