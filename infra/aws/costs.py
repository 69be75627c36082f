"""Estimate of an installation's monthly bill, by item, from a dated price table; not an offer.

``prices.toml`` beside this file has the prices. Hours awake come from a calendar (``awake``).
Machines are billed by the second; an interface endpoint by each begun hour, so each waking costs
an endpoint one hour more.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from flo.documents.document import Document, read_settings
from flo.errors import UsageError

HOURS = 730.0  # a month
PRICES = Path(__file__).parent / "prices.toml"
ENDPOINTS, KEYS, ALARMS, DISK_GB = 7, 6, 5, 50  # of the template
_BALANCER_ZONES = 2
_METRICS, _METRICS_A_STUDY = 7, 4
_START_HOURS = 0.15  # of a job, before its first round
_JOB_IDLE_GB, _JOB_UPDATES = 1.5, 8  # memory of a job: its libraries, and copies of a model

_Price = Annotated[float, Field(ge=0, le=10_000)]
_Short = Annotated[str, StringConstraints(min_length=1, max_length=40)]
_Prices = Annotated[dict[_Short, _Price], Field(min_length=1, max_length=200)]


class Items(Document):
    """Prices that do not depend on a machine's type; the unit is in each name."""

    disk_gb_month: _Price
    balancer_hour: _Price
    balancer_unit_hour: _Price
    address_hour: _Price
    endpoint_hour: _Price
    key_month: _Price
    key_requests_10000: _Price
    stored_gb_month: _Price
    writes_1000: _Price
    log_gb: _Price
    alarm_month: _Price
    metric_month: _Price
    traffic_out_gb: _Price
    job_spot_share: Annotated[float, Field(gt=0, le=1)]
    job_interruptions_hour: Annotated[float, Field(ge=0, le=60)]
    function_million: _Price
    function_gb_second: _Price


class PriceTable(Document):
    """``as_of``: month of the prices. Hours are by type of machine: of the coordinator, of training
    jobs, and of models' endpoints."""

    schema_version: Literal[1]
    as_of: Annotated[str, StringConstraints(pattern=r"^20[0-9]{2}-(0[1-9]|1[0-2])$")]
    region: _Short
    currency: _Short
    machine_hour: _Prices
    job_hour: _Prices
    job_memory_gb: _Prices
    endpoint_hour: _Prices
    items: Items

    @staticmethod
    def read(path: Path = PRICES) -> PriceTable:
        """Read a table. Raises UsageError naming the file and what is wrong."""
        return read_settings(PriceTable, path)


@dataclass(frozen=True)
class Use:
    """A month of a consortium. ``model_mb``: one model in transit; ``seconds``: of a round."""

    hospitals: int
    studies: int = 4
    rounds: int = 100
    model_mb: float = 1.0
    seconds: float = 3.0


@dataclass(frozen=True)
class Setup:
    """How the stack is deployed.

    ``endpoint_zones``: 1 or 2. ``hours``: awake in a month, 0 to 730. ``wakings``: how often it is
    woken in a month; 0 if it is never put to sleep.
    """

    machine: str = "t3.medium"
    job: str = "ml.m5.large"
    endpoint_zones: int = 1
    hours: float = HOURS
    wakings: float = 0.0


ALWAYS_ON = Setup(endpoint_zones=2)  # what bills are compared with: FLO before it could sleep


def bill(use: Use, setup: Setup, prices: PriceTable) -> dict[str, float]:
    """Return the cost of a month by item, in the table's currency.

    Raises:
        UsageError: the table has no price for a type of machine.
    """
    p = prices.items
    machine = price_of(prices.machine_hour, setup.machine, "machine_hour")
    job = price_of(prices.job_hour, setup.job, "job_hour")
    rounds = use.studies * use.rounds
    writes = rounds * 3
    balancer = p.balancer_hour + p.balancer_unit_hour + _BALANCER_ZONES * p.address_hour
    endpoint_hours = min(setup.hours + setup.wakings, HOURS)
    return {
        "machine": setup.hours * machine,
        "disk": DISK_GB * p.disk_gb_month,
        "load balancer": HOURS * balancer,
        "private endpoints": endpoint_hours * ENDPOINTS * setup.endpoint_zones * p.endpoint_hour,
        "keys": KEYS * p.key_month + writes / 10_000 * p.key_requests_10000,
        "storage": (rounds * 3 * use.model_mb / 1000) * p.stored_gb_month
        + writes / 1000 * p.writes_1000,
        "logs and alarms": p.log_gb
        + (ALARMS + (setup.wakings > 0)) * p.alarm_month  # a calendar has one of its own
        + (_METRICS + _METRICS_A_STUDY * use.studies) * p.metric_month,
        "training jobs": use.studies * (use.rounds * use.seconds / 3600 + _START_HOURS) * job,
        "traffic to hospitals": rounds * use.hospitals * use.model_mb / 1000 * p.traffic_out_gb,
    }


@dataclass(frozen=True)
class JobAdvice:
    """``machine``: the cheapest type that holds a study's job. ``month``, ``spot``: its cost, on
    demand and on spot machines with what interruptions repeat. ``resumed_hours``: that one
    interruption costs: another start, and the round under way."""

    machine: str
    month: float
    spot: float
    resumed_hours: float


def job_advice(use: Use, prices: PriceTable) -> JobAdvice:
    """Choose a job's machine by its memory, whatever the number of hospitals (docs/growing.md).

    Raises UsageError: no type of machine in the table holds a model of this size.
    """
    needed = _JOB_IDLE_GB + _JOB_UPDATES * use.model_mb / 1000
    held = {one: gb for one, gb in prices.job_memory_gb.items() if one in prices.job_hour}
    fit = [one for one, gb in held.items() if gb >= needed]
    if not fit:
        raise UsageError(
            f"a model of {use.model_mb:g} MB needs a job with {needed:.0f} GB, and no type of "
            "[job_memory_gb] in the price table has that",
            hint="give a table that has larger ones: --prices FILE",
        )
    machine = min(fit, key=lambda one: prices.job_hour[one])
    hours = use.studies * (use.rounds * use.seconds / 3600 + _START_HOURS)
    resumed = _START_HOURS + use.seconds / 3600
    on_spot = hours * (1 + prices.items.job_interruptions_hour * resumed)
    price = prices.job_hour[machine]
    return JobAdvice(machine, hours * price, on_spot * price * prices.items.job_spot_share, resumed)


def function_price(prices: PriceTable, milliseconds: float, memory_mb: int) -> float:
    """Return the price of one request to a function, which is billed by the whole millisecond."""
    items = prices.items
    gb_seconds = math.ceil(milliseconds) / 1000 * memory_mb / 1024
    return items.function_million / 1e6 + gb_seconds * items.function_gb_second


def price_of(prices: dict[str, float], kind: str, table: str) -> float:
    """Return the price of a type of machine. Raises UsageError: the table does not have it."""
    if kind not in prices:
        raise UsageError(
            f"the price table has no {kind} in [{table}]; it has {', '.join(sorted(prices))}",
            hint="choose one of these, or give a table that has it: --prices FILE",
        )
    return prices[kind]
