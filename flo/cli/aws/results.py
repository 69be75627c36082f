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
class CostResult(CommandResult):
    """``before``, ``after``: a month by item; ``hours``: awake in a month after the change."""

    currency: str
    prices_of: str
    region: str
    hours: float
    before: dict[str, float]
    after: dict[str, float]
