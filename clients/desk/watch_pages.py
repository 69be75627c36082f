"""Desk page of a model's monitors: health, alarms, outcomes against stated risks, columns, plan."""

from __future__ import annotations

import asyncio
import math
from datetime import UTC, date, datetime

from fastapi import APIRouter, Request
from starlette.responses import Response

from flo.clients.desk.context import DeskContext
from flo.clients.watching import plan_decisions
from flo.clients.watching.calibration import Outcomes
from flo.clients.watching.models import opened_watch
from flo.clients.watching.shown import ShownWatch, shown
from flo.errors import UsageError
from flo.pages.plots import Intervals, intervals
from flo.pages.responses import redirect
from flo.scores.exact_rates import lower_end, upper_end

_LEVEL = 0.9
_MOST_WEEKS, _DIGITS = 12, 10


def watch_router(context: DeskContext) -> APIRouter:
    """Return the routes of the page, and of settling an alarm."""
    router = APIRouter()

    @router.get(f"{context.base}/models/{{name}}/watch")
    def watch(name: str, request: Request) -> Response:
        with opened_watch(context.home, name) as (title, opened):
            found = shown(opened.watch, datetime.now(UTC).date().toordinal())
            watched = opened.watched
        plan, unreadable = plan_decisions.told(context.home, watched.study.name)
        facts = {"name": name, "title": title, "found": found, "watch": watched.id}
        facts |= {"plan": plan, "unreadable": unreadable}
        return context.page(request, "watch.html.j2", plot=_plot(found), **facts)

    @router.post(f"{context.base}/models/{{name}}/watch/settle")
    async def settle(name: str, request: Request) -> Response:
        fields = await context.form(request)
        number, why = fields.get("alarm", ""), fields.get("why", "").strip()
        if not (number.isascii() and number.isdecimal() and len(number) < _DIGITS):
            raise UsageError("the form names no alarm", hint="open the page again")
        as_usual = fields.get("as_usual") == "yes"

        def settled() -> None:
            with opened_watch(context.home, name) as (_, opened):
                if fields.get("watch") != opened.watched.id:
                    raise UsageError(
                        "another version is watched by now", hint="open the page again"
                    )
                opened.settle(int(number), why, as_usual=as_usual)

        await asyncio.to_thread(settled)
        return redirect(f"{context.base}/models/{name}/watch")

    return router


def _plot(found: ShownWatch) -> Intervals | None:
    """Lay out outcomes by stated ones, week by week, with exact 90 % intervals."""
    weeks = [(day, one) for day, one in found.weeks if one.stated > 0][-_MOST_WEEKS:]
    if not weeks:
        return None
    rows = [(f"week of {date.fromordinal(day):%Y-%m-%d}", *_ratio(one)) for day, one in weeks]
    highest = max(high for *_, high in rows)
    most = min(max(2.0, math.ceil(2 * highest) / 2), 4.0)
    cut = [(name, min(low, most), min(mid, most), min(high, most)) for name, low, mid, high in rows]
    return intervals(cut, 0.0, most, step=0.5, limit=1.0)


def _ratio(one: Outcomes) -> tuple[float, float, float]:
    """Return outcomes by stated ones, between the ends of an exact interval."""
    times, miss = one.known / one.stated, (1 - _LEVEL) / 2
    low, high = (float(end(one.had, one.known, miss)) for end in (lower_end, upper_end))
    return times * low, one.had / one.stated, times * high
