"""Desk pages for models: which version answers here, why, and those that are finished here.

The figures of finished models are not private.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any, Literal

from fastapi import APIRouter, Request
from starlette.responses import Response

from flo.clients.connection.enrolment import connect
from flo.clients.desk.context import DeskContext
from flo.clients.home.site_home import SiteHome
from flo.clients.prediction import (
    allowed,
    flag_decisions,
    monitor_news,
    version_decisions,
    versions,
)
from flo.clients.prediction.finish import load_finished
from flo.clients.prediction.flag_rule import FlagRule
from flo.clients.prediction.one_patient import WrongValues, answer
from flo.clients.prediction.scoring_ways import RECORD, refuse_other_scores
from flo.clients.prediction.versions import Versions
from flo.clients.records.finished_model import FinishedModel, finished_names
from flo.clients.serving import local
from flo.errors import FloError, TrustError, UsageError
from flo.pages.plots import Plane, agreement, plane
from flo.pages.responses import redirect
from flo.published import explained_page
from flo.published.model_card import PublishedModel
from flo.published.model_states import ModelDecision, ModelVersion, State
from flo.study.columns import CellColumn
from flo.study.yes_or_no import require_yes_or_no

_MOST_TYPED = 60  # columns
_MOST_REQUEST = 1 << 20  # bytes of a request that is tried by hand
_PERCENT = [(share / 5, f"{20 * share} %") for share in range(6)]


@dataclass(frozen=True)
class ShownModel:
    """A finished model on the page; ``problem`` says why it cannot be used, if it cannot."""

    name: str
    problem: str = ""
    hint: str = ""
    made: FinishedModel | None = None
    plots: tuple[Plane | None, ...] = ()


@dataclass(frozen=True)
class KnownVersion:
    """``state``: by the coordinator. ``withdrawn``: the decision, by either side. ``alarm``: of
    the monitor across hospitals, in words; "" if there is none."""

    model: ModelVersion
    state: State
    withdrawn: ModelDecision | None
    last: ModelDecision | None
    alarm: str


@dataclass(frozen=True)
class KnownModel:
    """``current``: the version that answers here, ``since`` that decision; ``before``: the one
    that a rollback puts back."""

    name: str
    current: ModelVersion | None
    since: ModelDecision | None
    before: ModelVersion | None
    versions: list[KnownVersion]


def model_router(context: DeskContext) -> APIRouter:
    """Return the routes of the pages, and of the decisions which version answers here."""
    router = APIRouter()

    @router.get(f"{context.base}/models")
    def models(request: Request) -> Response:
        shown = [_shown(context.home, name) for name in finished_names(context.home)]
        found = versions.read(context.home)
        return context.page(
            request,
            "models.html.j2",
            models=shown,
            known=[_known(context.home, found, name) for name in found.names],
            late=found.late(versions.LATE) if found.names else "",
            serving=local.status(context.home.directory),
        )

    @router.get(f"{context.base}/models/{{name}}/service")
    def service(name: str, request: Request) -> Response:
        return _tried(request, name, None)

    @router.post(f"{context.base}/models/{{name}}/service")
    async def try_service(name: str, request: Request) -> Response:
        fields = await context.form(request, most=_MOST_REQUEST)
        return await asyncio.to_thread(_tried, request, name, fields.get("request", ""))

    def _tried(request: Request, name: str, sent: str | None) -> Response:
        """Return the page on which a request is sent to the running server by hand."""
        found = local.status(context.home.directory)
        served = {one["name"]: one for one in found["models"]} if found else {}
        if name not in served or served[name]["try"] is None:
            raise UsageError(
                f"{name} does not answer the record system now: "
                + (served[name]["why"] if name in served else "no server answers with it"),
                hint="serve.toml names models and their columns in FHIR; flo model serve",
            )
        values: dict[str, Any] = {"model": served[name], "cards": None, "answer": ""}
        values["sent"] = json.dumps(served[name]["try"], indent=2) if sent is None else sent
        if sent is not None:
            answer = local.ask(context.home.directory, name, sent.encode())
            values |= {"cards": answer["cards"], "answer": json.dumps(answer, indent=2)}
        return context.page(request, "service.html.j2", **values)

    @router.get(f"{context.base}/models/{{name}}")
    def explained(name: str, request: Request) -> Response:
        return _explained(request, name, None)

    @router.get(f"{context.base}/models/{{name}}/try")
    def tried_out(name: str) -> Response:
        return redirect(f"{context.base}/models/{name}")

    @router.post(f"{context.base}/models/{{name}}/try")
    async def try_out(name: str, request: Request) -> Response:
        typed = await context.form(request)
        return await asyncio.to_thread(_explained, request, name, typed)

    def _explained(request: Request, name: str, typed: dict[str, str] | None) -> Response:
        """Return the page of the version in use, with its answer if values are typed."""
        in_use = allowed.open_in_use(context.home, name)
        model, (rule, no_rule) = in_use.model, _rule(context.home, in_use.model)
        values: dict[str, Any] = {"model": model, "rule": rule, "no_rule": no_rule}
        values["late"] = in_use.late
        values |= {"typed": typed or {}, "answer": None, "wrong": []}
        values |= {"by_hand": _can_be_typed(model), **explained_page.shown(model)}
        if typed is not None:
            _refuse_to_score(model, no_rule)
            try:
                values["answer"] = answer(model, rule, typed)
            except WrongValues as error:
                values["wrong"] = error.broken
        return context.page(request, "explained.html.j2", 400 if values["wrong"] else 200, **values)

    @router.post(f"{context.base}/models/{{step}}")
    async def decide(
        step: Literal["promote", "rollback", "withdraw"], request: Request
    ) -> Response:
        fields = await context.form(request)
        wanted, why = fields.get("model", ""), fields.get("why", "").strip()
        await asyncio.to_thread(_decide, context.home, step, wanted, why)
        return redirect(f"{context.base}/models")

    return router


def _rule(home: SiteHome, model: PublishedModel) -> tuple[FlagRule | None, str]:
    """Return the rule in force, or why it cannot be read."""
    try:
        return flag_decisions.read(home, model), ""
    except TrustError as error:
        return None, f"{error}. {error.hint}"


def _refuse_to_score(model: PublishedModel, no_rule: str) -> None:
    """Raise UsageError, StudyError or TrustError if no patient can be scored by hand."""
    require_yes_or_no(model.study, "a patient typed by hand")
    if not _can_be_typed(model):
        raise UsageError(
            f"{model.title}: images, or more than {_MOST_TYPED} columns, are not typed by hand",
            hint="flo model predict scores a file",
        )
    if no_rule:
        raise TrustError(no_rule)
    refuse_other_scores(model, RECORD)


def _can_be_typed(model: PublishedModel) -> bool:
    """Return whether a person can type one patient's values."""
    columns = model.study.data.columns
    if model.study.data.outcome is not None:
        return False
    return len(columns) <= _MOST_TYPED and all(isinstance(c, CellColumn) for c in columns)


def _decide(home: SiteHome, step: str, wanted: str, why: str) -> None:
    if step == "promote":
        with connect(home) as api:
            version_decisions.promote(home, api, wanted, why)
    elif step == "rollback":
        version_decisions.rollback(home, wanted, why)
    else:
        version_decisions.withdraw(home, wanted, why)


def _known(home: SiteHome, found: Versions, name: str) -> KnownModel:
    theirs, own = found.of(name)
    current = found.current(name)
    return KnownModel(
        name,
        current,
        own.last_on(current.study) if current else None,
        own.previous(*found.others(name)) if current else None,
        [
            KnownVersion(
                model,
                theirs.state_of(model.study),
                found.withdrawal(name, model.study),
                theirs.last_on(model.study) or own.last_on(model.study),
                monitor_news.alarm_of(home, model),
            )
            for model in reversed(found.known_versions(name))
        ],
    )


def _shown(home: SiteHome, name: str) -> ShownModel:
    try:
        made = load_finished(home, name)
    except FloError as error:
        return ShownModel(name, str(error), error.hint)
    plots = (_plot(made, number) for number in range(len(made.finished.risks)))
    return ShownModel(name, made=made, plots=tuple(plots))


def _plot(made: FinishedModel, number: int) -> Plane | None:
    """Plot what was observed in groups of rising predicted risk or value, by each model; None if
    patients were not followed long enough."""
    if made.published.risks[number].observed is None:
        return None
    lines = [
        (label, [(told, observed) for told, observed, _ in fit.risks[number].curve])
        for label, fit in made.fits.items()
    ]
    if made.values:
        return agreement(lines)
    lines.append(("ideal", [(0.0, 0.0), (1.0, 1.0)]))
    return plane(lines, most_across=1.0, least_top=1.0, across=_PERCENT)
