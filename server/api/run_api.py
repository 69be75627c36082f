"""HTTP calls of a remote aggregator: each token gives access to one job or one run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from fastapi import APIRouter, Request

from flo.documents import canonical
from flo.documents.document import Document, parse
from flo.errors import MessageError, PolicyError, UsageError
from flo.http.asgi import ByteQuota, Refused, read_body
from flo.privacy.releases import model_noise
from flo.published.gate_result import GateSums
from flo.published.model_card import has_a_curve_for_each
from flo.published.monitor_result import MonitorSums
from flo.published.statistics_result import LARGEST_VALUE, RoundSum, fits
from flo.server.http.tokens import Token
from flo.server.runs.job_access import JobKeys
from flo.server.runs.remote_documents import (
    MAX_RUN_REPORT_BYTES,
    ClaimedRun,
    RunEnd,
    RunReport,
    RunStatus,
    Saved,
)
from flo.server.store.run_tables import RunRecord
from flo.server.store.store import Offer, Store
from flo.server.studies.publish import tensors_name
from flo.study.document import Study

DocumentT = TypeVar("DocumentT", bound=Document)


def run_router(
    store: Store, models: Path, opened: Callable[[str], JobKeys], person: str
) -> APIRouter:
    """Return the routes of jobs and their runs.

    ``models``: the folder of models. ``opened``: returns a job's keys, once. ``person``: key of the
    token in a request's scope.
    """
    router, allowance = APIRouter(), ByteQuota(2 * MAX_RUN_REPORT_BYTES)

    def own(request: Request, run: str) -> tuple[RunRecord, Offer]:
        token: Token = request.scope[person]
        record = store.run(run) if token.name == run else None
        offer = store.offer(record.study) if record else None
        if record is None or offer is None:
            raise PolicyError("this token is for another run")
        return record, offer

    @router.post("/v1/job/{job}/open")
    def open_job(job: str, request: Request) -> Any:
        token: Token = request.scope[person]
        if token.name != job:
            raise PolicyError("this token is for another job")
        return opened(job).model_dump(mode="json")

    @router.get("/v1/run/{run}")
    def status(run: str, request: Request) -> Any:
        record, _ = own(request, run)
        return {"status": record.status}

    @router.post("/v1/run/{run}/take")
    def take(run: str, request: Request) -> Any:
        record, offer = own(request, run)
        if record.status != "running":
            raise PolicyError(f"run {run} is {record.status}, not running")
        return ClaimedRun(
            study=offer.study.canonical_bytes.decode(),
            launch=store.take_run(run),
            saved=_saved(record),
            look=_look(store, offer, run),
        ).model_dump(mode="json")

    @router.post("/v1/run/{run}/tell")
    async def tell(run: str, request: Request) -> Any:
        record, offer = await asyncio.to_thread(own, request, run)
        try:
            with allowance.reserve(run) as take_bytes:
                body = await read_body(request.receive, MAX_RUN_REPORT_BYTES, take_bytes)
                told = await asyncio.to_thread(_parsed, RunReport, body)
        except Refused as refusal:
            raise MessageError(str(refusal)) from refusal
        await asyncio.to_thread(_keep, store, offer, models, record.id, told)
        look = await asyncio.to_thread(_look, store, offer, run)
        return look.model_dump(mode="json")

    return router


def _keep(store: Store, offer: Offer, models: Path, run: str, told: RunReport) -> None:
    """Store a report of a run. Raises RefusedError unless it is by the run's latest launch.

    A saved state and the events reported with it are stored together, so that a job that is killed
    between two reports leaves neither a round without its event nor an event without its round.
    """
    study = offer.study
    store.refuse_earlier(run, told.launch)
    if told.saved is not None and _saved(store.run(run)) == told.saved:
        return  # the answer to this report was lost, so the job sent it again
    events = told.events
    for hospital, head in told.heads.items():
        head.check(study.hospital(hospital).fingerprint)
        store.keep_head(hospital, head, study.digest)
    if told.saved is not None:
        told_of = [(event.kind, event.facts) for event in events]
        store.save_state(run, told.launch, told.saved.to_bytes(), told_of)
        events = ()
    if told.end is not None:
        _end(store, study, models, run, told.launch, told.end)
    for event in events:
        store.add_event(study.digest, event.kind, **event.facts)


def _saved(record: RunRecord | None) -> Saved | None:
    """Return the place of the run's last saved state; None if no state was saved."""
    if record is None or record.state is None:
        return None
    document = canonical.decode(record.state, limit=MAX_RUN_REPORT_BYTES, what="saved")
    return parse(Saved, document, "saved")


def _end(store: Store, study: Study, models: Path, run: str, launch: int, end: RunEnd) -> None:
    """Store how a run ended; a model's file name is replaced by its path in ``models``."""
    if end.status == "paused":
        store.pause_run(run, launch)
        return
    if end.result is None:
        raise MessageError(f"the report says that run {run} is {end.status}, but has no result")
    given = end.result.model_dump(mode="json", exclude_unset=True)
    result = {
        name: value for name, value in given.items() if value is not None or name == "estimate"
    }
    if "statistics" in result:
        _refuse_foreign_statistics(study, result["statistics"])
    if "gate" in result and not parse(GateSums, result["gate"], "a gate").follow_from(study):
        raise MessageError("the result's gate is not of this study")
    if "monitor" in result and not parse(MonitorSums, result["monitor"], "a monitor").follow_from(
        study
    ):
        raise MessageError("the result's monitor is not of this study")
    evaluated = end.result.evaluated
    if evaluated is not None and not (study.schema_version >= 4 and evaluated.follow_from(study)):
        raise MessageError("the result's evaluation is not of this study")
    golden, calibration = end.result.golden, end.result.calibration
    given_curves = end.result.earlier_horizons, end.result.steps, end.result.by_class
    if not has_a_curve_for_each(study, calibration, *(curves or () for curves in given_curves)):
        raise MessageError(
            "the result's curves are not of the horizons, levels or classes of this study"
        )
    if golden is not None and not golden.follow_from(study, calibration):
        raise MessageError("the result's golden cases are not of this study")
    said = end.result.noise, end.result.average, end.result.average_deviation
    if not model_noise.fits(study, *said):
        raise MessageError("the result's noise is not of this study")
    if "model" in result:
        if result["model"] != tensors_name(study, run):
            raise MessageError(f"the result must name the model {tensors_name(study, run)}")
        result["model"] = str(models / tensors_name(study, run))
    store.end_run(run, launch, end.status, result)


def _refuse_foreign_statistics(study: Study, found: dict[str, Any]) -> None:
    """Raise MessageError unless a job's noisy sum can be of this study."""
    rounds = [parse(RoundSum, one, "a round") for one in found.get("rounds", ())]
    within = all(abs(value) <= LARGEST_VALUE for value in found["values"])
    if not (within and fits(study, found["values"], found["hospitals"], rounds)):
        raise MessageError("the result's statistics are not of this study")


def _look(store: Store, offer: Offer, run: str) -> RunStatus:
    hospitals = {hospital.id for hospital in offer.study.hospitals}

    def ours(found: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in found.items() if name in hospitals}

    return RunStatus(
        nodes={name: str(node) for name, node in ours(store.nodes()).items()},
        connections=ours(store.connections()),
        heads=ours(store.heads()),
        stop=store.stop_requested(run),
    )


def _parsed(model: type[DocumentT], body: bytes) -> DocumentT:
    try:
        return parse(
            model, canonical.decode(body, limit=MAX_RUN_REPORT_BYTES, what="request"), "request"
        )
    except UsageError as error:
        raise MessageError(str(error)) from error
