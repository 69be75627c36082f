"""Group ``cost``: what waiting for cleaner electricity saves, over a year of three real grids.

Every hour of 2022 a run of an hour becomes ready and may wait a day. Each hour it is planned
again from what is known then: the days before; and, *day-ahead*, the hours until midnight, from one
in the afternoon on also those of the next day, local time. The oracle knows the year. A day-ahead
file is the year itself, or the year with errors of 10 % that last for hours.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np

from flo.carbon.intensity import Grid, Intensity
from flo.carbon.starting import best_start
from tests.proofs.rows import Row

ZONES = {"ES": "Europe/Madrid", "NO": "Europe/Oslo", "US-CAL-CISO": "America/Los_Angeles"}
_BEGIN = int(datetime(2022, 1, 1, tzinfo=UTC).timestamp()) // 3600
_WEEK, _WINDOW, _PUBLISHED = 168, 24, 13
Ahead = Callable[[int], Intensity]


def rows(quick: bool) -> Iterator[Row]:
    """Every grid, or Spain's with a day-ahead file only."""
    for name in ["ES"] if quick else ZONES:
        year = real_year(name)
        zone = ZoneInfo(ZONES[name])
        yield _row(f"{name}: day-ahead, of the oracle's saving", year, _day_ahead(year, zone), 0.85)
        if not quick:
            wrong = _day_ahead(_with_errors(year), zone)
            yield _row(f"{name}: the same with errors of 10 %", year, wrong, 0.85)
            yield _row(f"{name}: by the week before", year, lambda now: Intensity({}), 0.0)


def real_year(name: str) -> Intensity:
    lines = (Path(__file__).parent / "grids" / f"{name}.txt").read_text().splitlines()[1:]
    return Intensity({_BEGIN + hour: float(grams) for hour, grams in enumerate(lines)})


def saving(year: Intensity, ahead: Ahead) -> tuple[float, float, int]:
    """Return what is saved, what the oracle saves, both in parts of starting at once, and runs."""
    at_once = waited = best = 0.0
    readies = range(_BEGIN + _WEEK, _BEGIN + len(year.grams) - _WINDOW)
    for ready in readies:
        latest = ready + _WINDOW
        hour = ready
        while best_start([Grid(year, ahead(hour))], hour, latest).hour > hour:
            hour += 1
        at_once += year.grams[ready]
        waited += year.grams[hour]
        best += min(year.grams[at] for at in range(ready, latest + 1))
    return 1 - waited / at_once, 1 - best / at_once, len(readies)


def _row(name: str, year: Intensity, ahead: Ahead, least: float) -> Row:
    began = time.monotonic()
    saved, oracle, runs = saving(year, ahead)
    seconds = time.monotonic() - began
    return Row(f"{name} ({saved:.0%})", saved / oracle, runs, seconds, least=least)


def _day_ahead(published: Intensity, zone: ZoneInfo) -> Ahead:
    """Return what a day-ahead file has at each hour."""

    def ahead(now: int) -> Intensity:
        local = datetime.fromtimestamp(now * 3600, UTC).astimezone(zone).hour
        hours = 24 - local + (24 if local >= _PUBLISHED else 0)
        known = range(now, now + hours)
        return Intensity({at: published.grams[at] for at in known if at in published.grams})

    return ahead


def _with_errors(year: Intensity) -> Intensity:
    draw, error, found = np.random.default_rng(2022), 0.0, dict[int, float]()
    for hour, grams in year.grams.items():
        error = 0.9 * error + draw.normal(0, 0.1 * np.sqrt(1 - 0.9**2))
        found[hour] = grams * float(np.exp(error))
    return Intensity(found)
