"""Results of ``flo aws ...``, as ``--json`` writes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flo.cli.terminal.results import CommandResult


@dataclass(frozen=True)
class StackPlannedResult(CommandResult):
    """``changes``: action, name, type, replaced. ``dollars``: estimate per month, by item."""

    changes: list[dict[str, Any]]
    dollars: dict[str, float]


@dataclass(frozen=True)
class StackStateResult(CommandResult):
    """``status``: CloudFormation's, or gone. ``outputs``: values for coordinator.toml.

    ``awake``: whether it was woken last, rather than put to sleep; ``answers``: whether the load
    balancer reaches the coordinator; ``calendar``: when it wakes and sleeps. Null where that was
    not asked.
    """

    name: str
    status: str
    outputs: dict[str, str]
    awake: bool | None = None
    answers: bool | None = None
    calendar: str | None = None


@dataclass(frozen=True)
class PowerResult(CommandResult):
    """``seconds``: what it took. ``calendar``: null without one."""

    name: str
    awake: bool
    machine: str
    answers: bool
    calendar: str | None
    seconds: float


@dataclass(frozen=True)
class StudyRoleResult(CommandResult):
    """``study``: digest. ``state``: made, there (it was), removed, or none (there was none)."""

    study: str
    state: str


@dataclass(frozen=True)
class StudyRoleRow:
    """``study``: digest. ``made``: date and time."""

    study: str
    made: str


@dataclass(frozen=True)
class StudyRolesResult(CommandResult):
    """The roles of a stack's studies, the oldest first."""

    roles: list[StudyRoleRow]


@dataclass(frozen=True)
class WayRow:
    """``unserved``, ``spilled``: shares of the requests. ``p99_seconds``: without the network."""

    name: str
    cost: float
    unserved: float
    spilled: float
    p99_seconds: float
    machine_hours: float


@dataclass(frozen=True)
class AdviceResult(CommandResult):
    """Costs are of a month. ``ways``: the best of each family. ``advised``: name of one.

    ``least_cost``: in knowledge of all requests. ``settings``: for aws/MODEL.toml; ``crontab``:
    when the endpoint is there; each empty if nothing is to be written.
    """

    currency: str
    prices_of: str
    region: str
    peak: float
    ways: list[WayRow]
    advised: str
    least_cost: float
    settings: str
    crontab: str


@dataclass(frozen=True)
class CostResult(CommandResult):
    """``before``, ``after``: a month by item; ``hours``: awake in a month after the change.

    ``job``: type of machine of training jobs. ``jobs_on_spot``: what they cost in a month on spot
    machines; ``resumed_hours``: what one interruption costs.
    """

    currency: str
    prices_of: str
    region: str
    hours: float
    before: dict[str, float]
    after: dict[str, float]
    job: str
    jobs_on_spot: float
    resumed_hours: float
