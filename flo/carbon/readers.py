"""Reading files of carbon intensity, as their publishers export them.

    Electricity Maps   CSV with "Datetime (UTC)" and a life-cycle intensity
    Carbon Aware SDK   JSON of emissions (``time``, ``rating``) or of a forecast (``timestamp``,
                       ``value``), whose times have an offset
    ENTSO-E            CSV of generation by type, "MTU (UTC)" or "MTU (CET/CEST)"; its intensity is
                       the mean of the types' life-cycle medians (IPCC 2014, Annex III, table
                       A.III.2)
    anything else      CSV with columns ``time`` and ``grams``

A time without an offset is of the file's own zone, or of the one that the settings name.
"""

from __future__ import annotations

import csv
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from flo.carbon.intensity import MOST_GRAMS, Intensity
from flo.documents import canonical
from flo.errors import FloError, UsageError

MOST_BYTES, MOST_ROWS = 64 << 20, 2_000_000
_IPCC = {  # grams of CO2 equivalent for a kWh, medians
    "biomass": 230.0,
    "fossil brown coal/lignite": 820.0,
    "fossil coal-derived gas": 820.0,
    "fossil gas": 490.0,
    "fossil hard coal": 820.0,
    "fossil oil": 650.0,
    "fossil oil shale": 820.0,
    "fossil peat": 820.0,
    "geothermal": 38.0,
    "hydro pumped storage": 24.0,
    "hydro run-of-river and poundage": 24.0,
    "hydro run-of-river and pondage": 24.0,
    "hydro water reservoir": 24.0,
    "marine": 17.0,
    "nuclear": 12.0,
    "other": 650.0,
    "other renewable": 38.0,
    "solar": 48.0,
    "waste": 230.0,
    "wind offshore": 12.0,
    "wind onshore": 11.0,
}
_ZONES = {
    "UTC": "UTC",
    "CET/CEST": "Europe/Brussels",
    "EET/EEST": "Europe/Athens",
    "WET/WEST": "Europe/Lisbon",
}
_ABSENT = ("", "-", "n/e", "n/a", "N/A")
_Row = dict[str, str]


def read_intensity(path: Path, zone: str = "UTC") -> Intensity:
    """Read one file. Raises UsageError naming the file, the row and what is wrong."""
    try:
        if not path.is_file():
            raise UsageError(f"{path} cannot be read: it is no file")
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    if len(data) > MOST_BYTES:
        raise UsageError(f"{path} has more than {MOST_BYTES >> 20} MiB", hint="leave out old years")
    try:
        text = data.decode("utf-8-sig")
        values = list(_json(data) if text.lstrip()[:1] in ("[", "{") else _csv(text, zone))
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not a text in UTF-8") from error
    except (csv.Error, _WrongError) as error:
        raise UsageError(
            f"{path}: {error}", hint="docs/green.md shows the files that are read"
        ) from error
    except FloError as error:
        raise UsageError(f"{path}: {error}") from error
    if not values:
        raise UsageError(f"{path} has no intensity")
    wrong = next((one for _, one in values if not 0 <= one <= MOST_GRAMS), None)
    if wrong is not None:
        raise UsageError(
            f"{path} has an intensity of {wrong:g} g a kWh, not 0 to {MOST_GRAMS:,.0f}",
            hint="is it in another unit?",
        )
    return Intensity.of(values)


class _WrongError(Exception):
    """What is wrong with a file, in words."""


def _seconds(text: str, zone: ZoneInfo | None) -> float:
    try:
        at = datetime.fromisoformat(text.strip())
    except ValueError as error:
        raise _WrongError(f"{text[:40]!r} is not a time") from error
    if at.tzinfo is None:
        if zone is None:
            raise _WrongError(f"the time {text[:40]!r} has no offset")
        at = at.replace(tzinfo=zone)
    return at.timestamp()


def _number(text: str) -> float:
    try:
        found = float(text)
    except ValueError as error:
        raise _WrongError(f"{text[:40]!r} is not a number") from error
    if not math.isfinite(found):
        raise _WrongError(f"{text[:40]!r} is not a number")
    return found


# -- Carbon Aware SDK ------------------------------------------------------------------------------


def _json(data: bytes) -> Iterator[tuple[float, float]]:
    found = canonical.decode(data, limit=MOST_BYTES, what="the file", values=10_000_000)
    several = found if isinstance(found, list) else [found]
    for one in several:
        nested = one.get("forecastData") if isinstance(one, dict) else None
        for point in nested if isinstance(nested, list) else [one]:
            if not isinstance(point, dict):
                raise _WrongError("an entry is not an object with a time and a rating")
            yield _point(point)


def _point(point: dict[str, Any]) -> tuple[float, float]:
    time = point.get("time", point.get("timestamp"))
    grams = point.get("rating", point.get("value"))
    if not isinstance(time, str) or isinstance(grams, bool) or not isinstance(grams, int | float):
        raise _WrongError("an entry has no `time` and `rating`, nor `timestamp` and `value`")
    return _seconds(re.sub(r"(\.\d{6})\d+", r"\1", time), None), _number(str(grams))


# -- CSV -------------------------------------------------------------------------------------------


def _csv(text: str, zone: str) -> Iterator[tuple[float, float]]:
    rows = csv.DictReader(text.splitlines())
    names = [name.strip() for name in rows.fieldnames or []]
    rows.fieldnames = names
    several = _limited(rows)
    unit_column = next((name for name in names if name.upper().startswith("MTU")), None)
    if unit_column is not None:
        return _generation(several, names, unit_column)
    if "Datetime (UTC)" in names:
        return _electricity_maps(several, names)
    if {"time", "grams"} <= set(names):
        return _plain(several, ZoneInfo(zone))
    raise _WrongError(f"no file of a known form: its columns are {', '.join(names)[:200]}")


def _limited(rows: Iterable[_Row]) -> Iterator[_Row]:
    for number, row in enumerate(rows, 2):
        if number > MOST_ROWS:
            raise _WrongError(f"more than {MOST_ROWS:,} rows")
        if None in row.values():
            raise _WrongError(f"row {number} has fewer fields than the first line")
        yield row


def _plain(rows: Iterable[_Row], zone: ZoneInfo) -> Iterator[tuple[float, float]]:
    for row in rows:
        yield _seconds(row["time"], zone), _number(row["grams"])


def _electricity_maps(rows: Iterable[_Row], names: list[str]) -> Iterator[tuple[float, float]]:
    columns = [name for name in names if name.lower().startswith("carbon intensity")]
    whole = [one for one in columns if re.search(r"LCA|life cycle|life-cycle", one, re.IGNORECASE)]
    if not columns:
        raise _WrongError("no column of a carbon intensity")
    column = (whole or columns)[0]
    for row in rows:
        if row[column].strip() not in _ABSENT:
            yield _seconds(row["Datetime (UTC)"], ZoneInfo("UTC")), _number(row[column])


# -- ENTSO-E ---------------------------------------------------------------------------------------


def _generation(
    rows: Iterable[_Row], names: list[str], unit_column: str
) -> Iterator[tuple[float, float]]:
    """Return the intensity of each market time unit. One row has all types, or each its own."""
    kind_column = next(
        (n for n in names if n.lower() in ("production type", "generation type")), None
    )
    made = defaultdict[float, dict[str, float]](dict)
    for row in rows:
        seconds = _unit(row[unit_column], unit_column)
        if kind_column is not None:
            column = next((name for name in names if name.lower().startswith("generation (mw")), "")
            if not column:
                raise _WrongError("no column `Generation (MW)`")
            made[seconds] |= _megawatts(row[kind_column], row[column])
            continue
        for name in names:
            kind, _, rest = name.partition(" - Actual Aggregated")
            if rest:
                made[seconds] |= _megawatts(kind, row[name])
    for seconds, kinds in made.items():
        whole = sum(kinds.values())
        if whole > 0:
            yield seconds, sum(_IPCC[kind] * power for kind, power in kinds.items()) / whole


def _megawatts(kind: str, text: str) -> dict[str, float]:
    name = " ".join(kind.lower().split())
    if name == "energy storage":  # what it gives back was generated before
        return {}
    if name not in _IPCC:
        raise _WrongError(f"the type of generation {kind.strip()[:60]!r} is not known")
    return {} if text.strip() in _ABSENT else {name: max(0.0, _number(text))}


def _unit(text: str, column: str) -> float:
    """Return the beginning of "01.01.2022 00:00 - 01.01.2022 01:00 (UTC)"; the zone may be in the
    column's name."""
    named = re.search(r"\(([A-Z/]+)\)", text) or re.search(r"\(([A-Z/]+)\)", column)
    if named is None or named[1] not in _ZONES:
        raise _WrongError(f"the time zone of {text[:60]!r} is not known; export it in UTC")
    begin = text.split(" - ")[0].strip()
    for form in ("%d.%m.%Y %H:%M", "%d/%m/%Y %H:%M:%S", "%d/%m/%Y %H:%M"):
        try:
            at = datetime.strptime(begin.split(" (")[0], form)  # noqa: DTZ007 - the next line
        except ValueError:
            continue
        return at.replace(tzinfo=ZoneInfo(_ZONES[named[1]])).timestamp()
    raise _WrongError(f"{text[:60]!r} is not a time of ENTSO-E")
