"""FLO's HTTP API for operators' programs, behind the private listener.

``flo.server.listeners.private_listener`` has checked that the role of the request's token allows
the call, and has put the token into the request's scope. A refusal returns its message, hint and
exit code.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from flo.documents import canonical
from flo.documents.document import Document, parse
from flo.errors import FloError, MessageError, StudyError
from flo.host.metrics import PROMETHEUS, Metric, as_prometheus
from flo.http.asgi import Refused, read_body
from flo.http.protocol import PERSON
from flo.keys.claims import LARGEST_COUNT
from flo.published.model_states import Why
from flo.server.api.run_api import run_router
from flo.server.audit.rate_limited import RateLimitedAudit
from flo.server.runs.job_access import JobKeys
from flo.server.runs.remote_documents import facts_of
from flo.server.store.store import Offer, RunPlace, Store
from flo.server.studies.actions import OperatorActions
from flo.server.studies.model_decisions import Step, listed_models
from flo.study.document import MAX_STUDY_BYTES
from flo.study.loading import from_canonical

_MOST_WHY = 4096  # bytes of a reason


class DecideBody(Document):
    """``why``: the reason of a decision on a model, which hospitals will read."""

    why: Why


def operator_app(
    store: Store,
    actions: OperatorActions,
    models: Path,
    metrics: Callable[[], Sequence[Metric]],
    opened: Callable[[str], JobKeys],
    is_online: Callable[[int], bool],
    audit: RateLimitedAudit,
) -> FastAPI:
    """Return the application that answers operators' programs and jobs.

    ``models``: the folder of models. ``metrics``: returns current values. ``opened``: returns a
    job's keys, once per job. ``is_online``: whether the agent of a Flower node is connected.
    """
    app = FastAPI(title="FLO coordinator", docs_url=None, redoc_url=None, openapi_url=None)

    @app.exception_handler(FloError)
    async def _refusal(request: Request, error: FloError) -> JSONResponse:
        person, path = request.scope[PERSON].name, request.url.path[:80]
        why = str(error)
        await asyncio.to_thread(audit.record, "refused-call", path=path, person=person, why=why)
        return JSONResponse(
            {"error": str(error), "hint": error.hint, "exit_code": error.exit_code}, 400
        )

    @app.exception_handler(RequestValidationError)
    async def _malformed(request: Request, error: RequestValidationError) -> JSONResponse:
        places = ", ".join(".".join(map(str, item["loc"])) for item in error.errors())
        return await _refusal(request, MessageError(f"missing or invalid: {places}"))

    @app.get("/v1/flo/hospitals")
    def hospitals() -> Any:
        nodes = store.nodes()
        return [
            {
                "id": m.id,
                "fingerprint": m.fingerprint,
                "revoked": m.revoked,
                "online": m.id in nodes and is_online(nodes[m.id]),
            }
            for m in store.members()
        ]

    @app.get("/v1/flo/studies")
    def studies() -> Any:
        return [_summary(store, found) for found in store.offers()]

    @app.post("/v1/flo/studies")
    async def launch(request: Request, on: RunPlace = "here") -> Any:
        body = await _body(request, MAX_STUDY_BYTES)
        study, person = from_canonical(body), request.scope[PERSON].name
        return _summary(store, await asyncio.to_thread(actions.offer, study, person, on))

    @app.post("/v1/flo/studies/check")
    async def check(request: Request) -> Any:
        planned = from_canonical(await _body(request, MAX_STUDY_BYTES))
        complete = await asyncio.to_thread(actions.signer.complete, planned)
        return {"study": complete.canonical_bytes.decode()}

    @app.get("/v1/flo/studies/{digest}")
    def study(digest: str, after: Annotated[int, Query(ge=0, le=LARGEST_COUNT)] = 0) -> Any:
        return {**_summary(store, actions.find(digest)), "events": store.events(digest, after)}

    @app.post("/v1/flo/studies/{digest}/stop")
    def stop(digest: str, request: Request) -> Any:
        actions.stop(digest, request.scope[PERSON].name)
        return {}

    @app.post("/v1/flo/studies/{digest}/shred")
    def shred_study(digest: str, request: Request) -> Any:
        return {"removed": actions.shred(actions.find(digest), request.scope[PERSON].name)}

    @app.get("/v1/flo/studies/{digest}/statistics")
    def statistics(digest: str) -> Any:
        return Response(actions.statistics(digest).read_bytes(), media_type="application/json")

    @app.get("/v1/flo/studies/{digest}/gate")
    def gate(digest: str) -> Any:
        return Response(actions.gate(digest).read_bytes(), media_type="application/json")

    @app.get("/v1/flo/studies/{digest}/monitor")
    def monitor(digest: str) -> Any:
        periods = [path.read_bytes() for path in actions.monitor(digest)]
        return Response(b"[" + b",".join(periods) + b"]", media_type="application/json")

    @app.get("/v1/flo/models")
    def model_states() -> Any:
        return [one.model_dump(mode="json") for one in listed_models(store)]

    @app.post("/v1/flo/studies/{digest}/model/{step}")
    async def decide(digest: str, step: Step, request: Request) -> Any:
        given, person = await _body(request, _MOST_WHY), request.scope[PERSON].name
        value = canonical.decode(given, limit=_MOST_WHY, what="decision")
        why, offer = parse(DecideBody, value, "decision").why, actions.find(digest)
        states = await asyncio.to_thread(actions.decide, offer, step, why, person)
        return states.model_dump(mode="json")

    @app.get("/v1/flo/metrics")
    def watched() -> Any:
        return Response(as_prometheus(metrics()), media_type=PROMETHEUS)

    @app.get("/v1/flo/studies/{digest}/extracts")
    def extracts(digest: str) -> Any:
        actions.find(digest)
        return {name: document.decode() for name, document in store.extracts(digest).items()}

    @app.get("/v1/flo/studies/{digest}/heads")
    def heads(digest: str) -> Any:
        actions.find(digest)
        return {h: head.model_dump(mode="json") for h, head in store.study_heads(digest).items()}

    @app.get("/v1/flo/audit")
    def audit_log(request: Request) -> Any:
        copied = actions.export_log(request.scope[PERSON].name)
        return Response(copied, media_type="application/json")

    app.include_router(run_router(store, models, opened, PERSON))
    return app


async def _body(request: Request, limit: int) -> bytes:
    try:
        return await read_body(request.receive, limit)
    except Refused as refusal:
        raise StudyError(f"the study: {refusal}") from refusal


def _summary(store: Store, offer: Offer) -> dict[str, Any]:
    run = store.last_run(offer.study.digest)
    return {
        "digest": offer.study.digest,
        "study": offer.study.canonical_bytes.decode(),
        "signature": offer.signature,
        "status": offer.status,
        "place": offer.place,
        "approved": store.approvals(offer.study.digest),
        "run": run.id if run else None,
        "result": facts_of(run.result) if run and run.result else None,
    }
