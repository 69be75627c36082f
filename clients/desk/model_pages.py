"""Desk page for models that are finished here, with figures that are not private."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import APIRouter, Request
from starlette.responses import Response

from flo.clients.desk.context import DeskContext
from flo.clients.home.site_home import SiteHome
from flo.clients.prediction.finish import load_finished
from flo.clients.records.finished_model import FinishedModel, finished_names
from flo.errors import FloError
from flo.pages.plots import Plane, plane

_PERCENT = [(share / 5, f"{20 * share} %") for share in range(6)]


@dataclass(frozen=True)
class ShownModel:
    """A finished model on the page; ``problem`` says why it cannot be used, if it cannot."""

    name: str
    problem: str = ""
    hint: str = ""
    made: FinishedModel | None = None
    plot: Plane | None = None


def model_router(context: DeskContext) -> APIRouter:
    """Return the route of the page, which reads finished models and changes none."""
    router = APIRouter()

    @router.get(f"{context.base}/models")
    def models(request: Request) -> Response:
        shown = [_shown(context.home, name) for name in finished_names(context.home)]
        return context.page(request, "models.html.j2", models=shown)

    return router


def _shown(home: SiteHome, name: str) -> ShownModel:
    try:
        made = load_finished(home, name)
    except FloError as error:
        return ShownModel(name, str(error), error.hint)
    lines = [
        (label, [(risk, share) for risk, share, _ in fit.curve]) for label, fit in made.fits.items()
    ]
    lines.append(("ideal", [(0.0, 0.0), (1.0, 1.0)]))
    plot = plane(lines, most_across=1.0, least_top=1.0, across=_PERCENT)
    return ShownModel(name, made=made, plot=plot)
