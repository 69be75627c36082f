"""Desk page of a comparison: what outcomes show of versions beside the one in use, and its end."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass

from fastapi import APIRouter, Request
from starlette.responses import Response

from flo.clients.comparison import decisions
from flo.clients.comparison.judged import judged
from flo.clients.comparison.result import ComparedResult
from flo.clients.comparison.terms import Comparison
from flo.clients.comparison.words import in_words
from flo.clients.desk.context import DeskContext
from flo.clients.serving import feedback
from flo.errors import UsageError
from flo.pages.plots import Intervals, intervals
from flo.pages.responses import redirect

_MOST_LOOKS = 8  # rows of the plot
_TICKS = 4  # on each side of 0


@dataclass(frozen=True)
class ShownVersion:
    """A version on the page. ``plot``: None if no outcome counts yet. ``said``: what clinicians did
    with its cards."""

    result: ComparedResult
    study: str
    words: list[str]
    plot: Intervals | None
    said: dict[str, int]


def comparison_router(context: DeskContext) -> APIRouter:
    """Return the routes of the page, and of the decision to take a version out."""
    router = APIRouter()

    @router.get(f"{context.base}/models/{{name}}/comparison")
    def comparison(name: str, request: Request) -> Response:
        home, found = context.home, decisions.latest(context.home, name)
        if found is None:
            raise UsageError(
                f"no versions of {name} are compared here",
                hint="flo model shadow, or flo model canary",
            )
        results, rows = judged(home, found)
        said = feedback.counted(home, {one.id: one.shown for one in rows})
        shown = [
            ShownVersion(
                result=one,
                study=version.model.study,
                words=in_words(found, one),
                plot=_plot(found, one),
                said={what: said[one.version, what] for what in ("accepted", "overridden")},
            )
            for one, version in zip(results, found.versions, strict=True)
        ]
        runs = decisions.running(home, name) == found
        return context.page(
            request, "comparison.html.j2", comparison=found, versions=shown, runs=runs
        )

    @router.post(f"{context.base}/models/{{name}}/comparison/end")
    async def end(name: str, request: Request) -> Response:
        fields = await context.form(request)
        wanted, why = fields.get("model", ""), fields.get("why", "").strip()
        await asyncio.to_thread(decisions.end, context.home, wanted, why)
        return redirect(f"{context.base}/models/{name}/comparison")

    return router


def _plot(comparison: Comparison, found: ComparedResult) -> Intervals | None:
    """Lay out how the interval closed in, on an axis on which the last one can be read."""
    looks = found.looks()
    if not looks:
        return None
    last = looks[-1]
    step = _round(1.3 * max(abs(last.low), abs(last.high)) / _TICKS)
    chosen = looks[:: -math.ceil(len(looks) / _MOST_LOOKS)][::-1]  # the last one among them
    rows = [(f"{one.outcomes:,} outcomes", one.low, one.gain, one.high) for one in chosen]
    return intervals(rows, -_TICKS * step, _TICKS * step, step=step, limit=0.0)


def _round(step: float) -> float:
    """Return 1, 2 or 5 times a power of ten, at or above ``step``."""
    power = 10.0 ** math.floor(math.log10(max(step, 1e-6)))
    several = [times * power for times in (1.0, 2.0, 5.0, 10.0)]
    return next(one for one in several if one >= step * (1 - 1e-9))
