"""Requests a second, minute by minute.

A trace file is CSV with a column ``time`` (ISO 8601) and, unless each row is one request, a column
``requests``: how many arrived from that time until the next possible one. A time without an offset
is of the time zone that is named. What is not in the file did not arrive.
"""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo, available_timezones

import numpy as np

from flo.arrays import Floats, Integers
from flo.errors import UsageError

MOST_ROWS, MOST_WEEKS = 5_000_000, 1_000
WEEK = 168  # hours
_MOST_REQUESTS = 1e12  # of a row
_LONGEST_LINE = 1000


@dataclass(frozen=True)
class Trace:
    """``begin``: a full hour, UTC. ``rates``: requests a second, for each minute of whole hours.

    ``zone``: whose weeks and hours a forecast goes by. ``empty``: share of hours without a request.
    """

    begin: datetime
    zone: str
    rates: Floats
    empty: float

    @property
    def hourly(self) -> Floats:
        """Requests a second, the mean of each hour."""
        means: Floats = self.rates.reshape(-1, 60).mean(axis=1)
        return means

    @property
    def hours_of_week(self) -> Integers:
        """Of each hour: 0 to 167, from Monday's midnight in the zone."""
        zone, hours = ZoneInfo(self.zone), len(self.rates) // 60
        local = ((self.begin + timedelta(hours=at)).astimezone(zone) for at in range(hours))
        return np.array([at.weekday() * 24 + at.hour for at in local], np.int64)

    def with_peak(self, peak: float) -> Trace:
        """Return the same, multiplied so that the busiest minute has ``peak`` requests a second."""
        return replace(self, rates=self.rates * (peak / self.rates.max()))

    def last(self, weeks: int) -> Trace:
        """Return the last so many weeks, or all of it if it is shorter."""
        skipped = max(0, len(self.rates) // 60 - weeks * WEEK)
        begin = self.begin + timedelta(hours=skipped)
        return replace(self, begin=begin, rates=self.rates[skipped * 60 :])


def refuse_unknown_zone(zone: str) -> None:
    """Raise UsageError: no such time zone."""
    if zone not in available_timezones():
        raise UsageError(
            f"the time zone {zone!r} is not known", hint="name it as in Europe/Berlin or UTC"
        )


def read_trace(path: Path, zone: str) -> Trace:
    """Read a trace file. Raises UsageError naming the file, the row and what is wrong."""
    refuse_unknown_zone(zone)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return of_counts(_counted(path, csv.reader(file), ZoneInfo(zone)), zone, str(path))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path} cannot be read as CSV: {error}") from error


def of_counts(counts: Counter[int], zone: str, what: str) -> Trace:
    """Return the trace of how many requests arrived in which minute since 1970, UTC.

    Counts of whole hours, or of several minutes, are interpolated between their middles.

    Raises UsageError: there is none, or they are too far apart.
    """
    if not counts or not sum(counts.values()):
        raise UsageError(f"{what} has no request")
    step = math.gcd(60, *(minute % 60 for minute in counts))
    first, last = min(counts) // 60 * 60, max(counts) // 60 * 60 + 60
    if last - first > MOST_WEEKS * WEEK * 60:
        raise UsageError(
            f"{what} spans {(last - first) / 60 / WEEK:,.0f} weeks; at most {MOST_WEEKS} are read",
            hint="look for a time that is wrong, or leave out what is old",
        )
    arrived = np.zeros((last - first) // step)
    for minute, count in counts.items():
        arrived[(minute - first) // step] += count
    rates = arrived / (60 * step)
    middles = (np.arange(len(rates)) + 0.5) * step
    each = np.interp(np.arange(last - first) + 0.5, middles, rates)
    empty = 1 - np.count_nonzero(each.reshape(-1, 60).sum(axis=1)) / (len(each) / 60)
    return Trace(datetime.fromtimestamp(first * 60, UTC), zone, each, float(empty))


def _counted(path: Path, rows: Iterable[list[str]], zone: ZoneInfo) -> Counter[int]:
    """Return requests by minute since 1970."""
    counts, several = Counter[int](), iter(rows)
    head = [name.strip() for name in next(several, [])]
    if "time" not in head:
        raise UsageError(
            f"the first line of {path} names no column `time`: it has {', '.join(head)[:200]!r}",
            hint="write `time,requests`, or `time` alone with a row for each request",
        )
    when, many = head.index("time"), head.index("requests") if "requests" in head else None
    for number, row in enumerate(several, 2):
        if not row:
            continue
        if number > MOST_ROWS:
            raise UsageError(f"{path} has more than {MOST_ROWS:,} rows", hint="add up by hour")
        try:
            minute = _minute(row[when], zone)
            count = 1.0 if many is None else float(row[many])
        except (ValueError, IndexError, OverflowError) as error:
            raise UsageError(
                f"row {number} of {path} is not understood: {','.join(row)[:80]!r}",
                hint="as in 2026-03-01T07:00,1520 or 2026-03-01T07:00+01:00,1520",
            ) from error
        if not 0 <= count <= _MOST_REQUESTS:
            raise UsageError(f"row {number} of {path} has {count:g} requests, not 0 to 1e12")
        counts[minute] += count  # type: ignore[assignment]  # requests may be means of several days
    return counts


def _minute(text: str, zone: ZoneInfo) -> int:
    at = datetime.fromisoformat(text.strip())
    return math.floor((at if at.tzinfo else at.replace(tzinfo=zone)).timestamp() / 60)
