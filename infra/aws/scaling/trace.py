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
from zoneinfo import ZoneInfo

import numpy as np

from flo.arrays import Floats, Integers
from flo.documents.time_zones import refuse_unknown_zone
from flo.errors import UsageError

MOST_ROWS, MOST_WEEKS = 5_000_000, 1_000
WEEK = 168  # hours
_MOST_REQUESTS = 1e12  # of a row
MOST_BYTES = 512 << 20


@dataclass(frozen=True)
class Trace:
    """``begin``: a full hour of the zone. ``rates``: requests a second, for each minute of whole
    hours.

    ``zone``: whose weeks and hours a forecast goes by. ``empty``: share of hours without a request.
    ``step``: minutes between two counts.
    """

    begin: datetime
    zone: str
    rates: Floats
    empty: float
    step: int = 60

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


def read_trace(path: Path, zone: str) -> Trace:
    """Read a trace file. Raises UsageError naming the file, the row and what is wrong."""
    refuse_unknown_zone(zone)
    if path.exists() and (not path.is_file() or path.stat().st_size > MOST_BYTES):
        raise UsageError(
            f"{path} is no file of at most {MOST_BYTES >> 20} MiB", hint="add up by hour"
        )
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            counts, step = _counted(path, csv.reader(file), ZoneInfo(zone))
            return of_counts(counts, zone, str(path), step)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path} cannot be read as CSV: {error}") from error


def of_counts(counts: Counter[int], zone: str, what: str, step: int = 1) -> Trace:
    """Return the trace of how many requests arrived in which minute since 1970, UTC.

    ``step``: minutes that a count stands for; 0 if the times themselves say it. Counts of several
    minutes are interpolated between their middles.

    Raises UsageError: there is none, or they are too far apart.
    """
    if not counts or not sum(counts.values()):
        raise UsageError(f"{what} has no request")
    first, last = min(counts), max(counts)
    if last - first > MOST_WEEKS * WEEK * 60:
        raise UsageError(
            f"{what} spans {(last - first) / 60 / WEEK:,.0f} weeks; at most {MOST_WEEKS} are read",
            hint="look for a time that is wrong, or leave out what is old",
        )
    step = step or math.gcd(60, *(minute - first for minute in counts))
    arrived = np.zeros((last - first) // step + 1)
    for minute, count in counts.items():
        arrived[(minute - first) // step] += count
    begin = _local_hour(first, zone)
    minutes = begin + np.arange(math.ceil((last + step - begin) / 60) * 60)
    middles = first + (np.arange(len(arrived)) + 0.5) * step
    rates = np.interp(minutes + 0.5, middles, arrived / (60 * step))
    rates[(minutes < first) | (minutes >= last + step)] = 0.0
    asked = np.unique((np.array([m for m, count in counts.items() if count]) - begin) // 60)
    empty = 1 - len(asked) / (len(minutes) / 60)
    return Trace(datetime.fromtimestamp(begin * 60, UTC), zone, rates, empty, step)


def _local_hour(minute: int, zone: str) -> int:
    """Return the minute at which the zone's hour began: its offset may have half an hour."""
    offset = datetime.fromtimestamp(minute * 60, ZoneInfo(zone)).utcoffset() or timedelta(0)
    shift = int(offset.total_seconds()) // 60
    return (minute + shift) // 60 * 60 - shift


def _counted(path: Path, rows: Iterable[list[str]], zone: ZoneInfo) -> tuple[Counter[int], int]:
    """Return requests by minute since 1970, and how many minutes each stands for; 0 if unknown."""
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
    return counts, 0 if many is not None else 1


def _minute(text: str, zone: ZoneInfo) -> int:
    at = datetime.fromisoformat(text.strip())
    return math.floor((at if at.tzinfo else at.replace(tzinfo=zone)).timestamp() / 60)
