"""Time of an event by FHIR's dates: a day, a month, a year or an instant; or an age.

https://hl7.org/fhir/R4/datatypes.html#dateTime. The day is the written one, in its own zone;
instants of one day are ordered in UTC.
"""

from __future__ import annotations

import calendar
import re
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from typing import Any

from flo.clients.sources.events import Span
from flo.clients.sources.fhir_files import Resource

_DATE = re.compile(r"(\d{4})(?:-(\d{2})(?:-(\d{2})(T)?)?)?")
_EFFECTIVE = ("effectiveDateTime", "effectiveInstant", "effectivePeriod", "effectiveTiming")
_ONSET = ("onsetDateTime", "onsetAge", "onsetPeriod", "onsetRange", "onsetString")
_DAY = len("2026-11-30")
_MONTHS = {"a": 12, "yr": 12, "year": 12, "years": 12, "mo": 1, "month": 1, "months": 1}
_DAYS = {"wk": 7, "week": 7, "weeks": 7, "d": 1, "day": 1, "days": 1}


def span(text: Any) -> Span | None:
    """Return the span from the first to the last day of a date; None if it is no date."""
    found = _DATE.match(text) if isinstance(text, str) else None
    if found is None:
        return None
    if len(text) == _DAY:  # the usual case, and a quick one
        with suppress(ValueError):
            day_ = date.fromisoformat(text)
            return Span(day_, day_)
        return None
    year, month, day = (int(part or 0) for part in found.groups()[:3])
    with suppress(ValueError, calendar.IllegalMonthError):
        until = month or 12
        first = date(year, month or 1, day or 1)
        last = date(year, until, day or calendar.monthrange(year, until)[1])
        for moment in _moment(text) if found[4] else ():
            return Span(first, last, moment, moment)
        return Span(first, last)
    return None


def observed(event: Resource) -> Span | None:
    """Return when an observation applies to the patient; if not stated, when it was issued."""
    if all(event.get(name) is None for name in _EFFECTIVE):
        return span(event.get("issued"))
    return (
        span(event.get("effectiveDateTime"))
        or span(event.get("effectiveInstant"))
        or _period(event.get("effectivePeriod"))
    )


def began(event: Resource, born: Any) -> Span | None:
    """Return when a condition began; ``born``: the patient's date of birth.

    An onset that begins by the day of recording and ends later is cut there. Without an onset it is
    when the condition was recorded; with an onset that is no day, some time up to then.
    """
    recorded = span(event.get("recordedDate"))
    if all(event.get(name) is None for name in _ONSET):
        return recorded
    onset = (
        span(event.get("onsetDateTime"))
        or _period(event.get("onsetPeriod"))
        or _aged(event.get("onsetAge"), span(born))
    )
    if recorded is None:
        return onset
    if onset is None:
        return Span(date.min, recorded.last, end=recorded.end)
    if onset.first <= recorded.last < onset.last:
        return Span(onset.first, recorded.last, onset.begin, recorded.end)
    return onset


def _moment(text: str) -> Iterator[datetime]:
    with suppress(ValueError, OverflowError):
        moment = datetime.fromisoformat(text)
        yield moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment


def _period(period: Any) -> Span | None:
    if not isinstance(period, dict):
        return None
    start, end = span(period.get("start")), span(period.get("end"))
    start, end = start or end, end or start
    if start is None or end is None or end.last < start.first:
        return None
    return Span(start.first, end.last, start.begin, end.end)


def _aged(age: Any, born: Span | None) -> Span | None:
    """Return the span in which a patient has this age in whole years, months, weeks or days."""
    if not isinstance(age, dict) or born is None or age.get("comparator"):
        return None
    value, unit = age.get("value"), str(age.get("code") or age.get("unit"))
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        return None
    with suppress(ValueError, OverflowError):
        if unit in _MONTHS:
            months = _MONTHS[unit]
            first = _later(born.first, int(value * months))
            return Span(first, _later(born.last, int((value + 1) * months)) - timedelta(1))
        if unit in _DAYS:
            days = _DAYS[unit]
            first = born.first + timedelta(int(value * days))
            return Span(first, born.last + timedelta(int((value + 1) * days) - 1))
    return None


def _later(day: date, months: int) -> date:
    year, month = divmod(day.year * 12 + day.month - 1 + months, 12)
    return date(year, month + 1, min(day.day, calendar.monthrange(year, month + 1)[1]))
