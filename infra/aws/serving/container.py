"""The program of an endpoint's container: ``python -m flo.infra.aws.serving.container serve``.

SageMaker's contract for hosting (developer guide, "Custom Inference Code with Hosting Services"):

    /opt/ml/model       what ``ModelDataUrl`` holds, unpacked
    GET  /ping          200 once requests can be answered
    POST /invocations   a request (``flo.scoring.request``) and its answer, as JSON
    SIGTERM             30 seconds later SIGKILL; requests under way are answered first

The folder is one of two kinds, and is checked against the environment of the model, which only the
account's owner sets:

    model.json          as ``flo model deploy`` compiled it; FLO_MODEL is its SHA-256, and that of
                        model.onnx
    *.card.json         a package of the coordinator's registry; FLO_COORDINATORS are the
                        fingerprints of who may have signed it

No record is logged or kept. ``FLO_AT_ONCE``: requests that may be open. ``FLO_ML_ROOT`` moves the
folder, and ``FLO_PORT`` the port, for the local runner.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

import uvicorn
from starlette.types import Receive, Scope, Send

from flo.documents import canonical
from flo.errors import FloError, MessageError, TrustError, UsageError
from flo.http.asgi import Refused, read_body
from flo.infra.aws.job_contract import ROOT_VARIABLE
from flo.infra.aws.serving.contract import (
    AT_ONCE,
    AT_ONCE_VARIABLE,
    COORDINATORS_VARIABLE,
    MODEL_FILE,
    MODEL_VARIABLE,
    MOST_AT_ONCE,
    NETWORK_FILE,
    PORT_VARIABLE,
    digest_of,
)
from flo.published.compile import compiled
from flo.published.model_card import MAX_MODEL_BYTES, PublishedModel
from flo.scoring.compiled import CompiledModel
from flo.scoring.compiled import opened as open_document
from flo.scoring.request import Answer, answer_body, fault

log = logging.getLogger("flo.endpoint")

PORT = 8080
_GRACE_SECONDS = 20
_NOT_JSON = Answer(415, {"error": "send application/json"})
_CROWDED = Answer(413, {"error": "the request has more values than the model has cells"})
_BUSY = Answer(503, {"error": "too many requests at once"})
_BUG = Answer(500, {"error": "this is a bug in FLO; the log says where"})
_NOT_THERE = Answer(404, {"error": "there is GET /ping and POST /invocations"})


def main() -> int:
    """Serve until SIGTERM. Exit with 2 to 4, and one line in the log, if the model is refused."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    if sys.argv[1:] != ["serve"]:
        log.error("SageMaker starts this image with the argument `serve`")
        return UsageError.exit_code
    root = Path(os.environ.get(ROOT_VARIABLE, "/opt/ml"))
    try:
        model = opened(root / "model", os.environ)
        at_once = _at_once(os.environ)
    except FloError as error:
        log.error(f"{error}; {error.hint}" if error.hint else str(error))
        return error.exit_code
    log.info(f"answers with {json.dumps(model.facts, sort_keys=True)}")
    config = uvicorn.Config(
        Container(model, at_once),
        host="0.0.0.0",  # noqa: S104 - SageMaker's proxy dials it; nothing else reaches the machine
        port=int(os.environ.get(PORT_VARIABLE, PORT)),
        ws="none",
        lifespan="off",
        server_header=False,
        proxy_headers=False,
        access_log=False,
        log_config=None,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )
    uvicorn.Server(config).run()
    return 0


def opened(folder: Path, environment: Any) -> CompiledModel:
    """Return the model of the folder, checked as the module says.

    Raises:
        UsageError: there is none, or the environment does not name who is trusted. TrustError: it
        is not what the environment names.
    """
    if (folder / MODEL_FILE).is_file():
        return _compiled(folder, environment.get(MODEL_VARIABLE, ""))
    cards = sorted(folder.glob("*.card.json"))
    if len(cards) != 1:
        raise UsageError(f"{folder} has {len(cards)} cards and no {MODEL_FILE}: no model to serve")
    return _package(cards[0], environment.get(COORDINATORS_VARIABLE, "").split(","))


def _at_once(environment: Any) -> int:
    """Return how many requests may be open at once; the next one is answered 503."""
    text = environment.get(AT_ONCE_VARIABLE, str(AT_ONCE))
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:9]) <= MOST_AT_ONCE:
        raise UsageError(f"{AT_ONCE_VARIABLE} is {text[:20]!r}, not 1 to {MOST_AT_ONCE}")
    return int(text)


def _compiled(folder: Path, wanted: str) -> CompiledModel:
    document, place = (folder / MODEL_FILE).read_bytes(), folder / NETWORK_FILE
    onnx = place.read_bytes() if place.is_file() else b""
    if digest_of(document, onnx) != wanted:
        raise TrustError(
            f"the model is another one than {MODEL_VARIABLE} of the container names",
            hint="flo model deploy makes both",
        )
    found = canonical.decode(document, limit=MAX_MODEL_BYTES, what=MODEL_FILE, values=1 << 30)
    return open_document(found, onnx)


def _package(card: Path, coordinators: list[str]) -> CompiledModel:
    if not any(coordinators):
        raise UsageError(
            f"{COORDINATORS_VARIABLE} does not name who may have signed the model",
            hint="set it to the coordinator's fingerprint in the model's environment",
        )
    model = PublishedModel.open(card, *coordinators)
    if not model.is_linear:
        raise UsageError(
            f"{model.title} is a network, whose package has no ONNX model",
            hint="flo model deploy NAME --on sagemaker deploys it from a hospital",
        )
    return open_document(compiled(model))


class Container:
    """The ASGI application."""

    def __init__(self, model: CompiledModel, at_once: int = AT_ONCE) -> None:
        self._model, self._at_once, self._open = model, at_once, 0
        self._turn = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        asked = scope["method"], scope["path"]
        if asked == ("GET", "/ping"):
            await _send(send, Answer(200, {}))
        elif asked != ("POST", "/invocations"):
            await _send(send, _NOT_THERE)
        elif self._open >= self._at_once:
            await _send(send, _BUSY)  # /ping is answered still: the machine is well
        else:
            self._open += 1
            try:
                found = await self._answer(scope, receive)
            finally:
                self._open -= 1
            await _send(send, found)

    async def _answer(self, scope: Scope, receive: Receive) -> Answer:
        kind = dict(scope["headers"]).get(b"content-type", b"").partition(b";")[0].strip()
        if kind != b"application/json":
            return _NOT_JSON
        try:
            body = await read_body(receive, self._model.most_bytes)
        except Refused as refusal:
            return Answer(refusal.status, {"error": "the request is too large or too slow"})
        try:
            async with self._turn:
                await asyncio.sleep(0)  # what has arrived meanwhile is counted, and may be refused
                canonical.refuse_crowded(body, "the request", self._model.most_values)
                return answer_body(self._model, body)
        except MessageError:
            return _CROWDED
        except Exception as error:  # noqa: BLE001 - whatever it is, its message is not logged
            log.error(fault(error))
            return _BUG


async def _send(send: Send, found: Answer) -> None:
    body = json.dumps(found.said).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": found.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


if __name__ == "__main__":
    sys.exit(main())
