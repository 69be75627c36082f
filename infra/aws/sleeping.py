"""A stack asleep and awake: its machine stopped and its private endpoints gone, and back again.

Asleep, the disk, the buckets, the keys and the load balancer stay, so nothing is lost and hospitals
dial the same address; their agents try again until it answers. Each step may be repeated: whoever
was interrupted repeats the command.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from flo.errors import FloError, UsageError
from flo.infra.aws.awake import Calendar
from flo.infra.aws.clients import client, translate_errors
from flo.infra.aws.stack import Stack, StackEvent

_LOOK_SECONDS, _MOST_SECONDS = 2.0, 900.0


@dataclass(frozen=True)
class Power:
    """``awake``: as it was asked last. ``machine``: EC2's word, such as running or stopped.

    ``answers``: whether the load balancer reaches the coordinator. ``calendar``: None without one,
    or if it is none of FLO's.
    """

    awake: bool
    machine: str
    answers: bool
    calendar: Calendar | None


def power(stack: Stack) -> Power:
    """Return the state. Raises UsageError if there is no such stack, or an older one."""
    _machine_that_can_sleep(stack)
    asked = stack.parameters()
    return Power(
        awake=asked["Awake"] == "yes",
        machine=_state(stack),
        answers=_answers(stack),
        calendar=Calendar.from_cron(asked["WakeAt"], asked["SleepAt"], asked["CalendarZone"]),
    )


def sleep(stack: Stack, show: Callable[[StackEvent], None]) -> None:
    """Stop the machine, then remove the private endpoints and the alarm for its absence.

    The coordinator ends as at any shutdown; a round under way is asked again after waking.

    Raises:
        FloError: one of them failed, or took over 15 minutes.
    """
    machine = _machine_that_can_sleep(stack)
    _wait(lambda: _state(stack) != "pending", f"the machine {machine} did not start")
    with translate_errors(f"stopping {machine}"):
        client("ec2", stack.region).stop_instances(InstanceIds=[machine])
    _wait(lambda: _state(stack) == "stopped", f"the machine {machine} did not stop")
    stack.change({"Awake": "no"}, show)


def wake(stack: Stack, show: Callable[[StackEvent], None]) -> None:
    """Start the machine, make the private endpoints, and wait until the coordinator answers.

    Raises:
        FloError: one of them failed, or took over 15 minutes.
    """
    machine = _machine_that_can_sleep(stack)
    # A machine that is still stopping cannot be started.
    _wait(lambda: _state(stack) != "stopping", f"the machine {machine} did not stop")
    with translate_errors(f"starting {machine}"):
        client("ec2", stack.region).start_instances(InstanceIds=[machine])
    stack.change({"Awake": "yes"}, show)
    _wait(
        lambda: _state(stack) == "running" and _answers(stack),
        f"the machine {machine} runs, and its coordinator does not answer",
        "look at its log: flo doctor coordinator, in a session on the machine",
    )


def schedule(stack: Stack, calendar: Calendar | None, show: Callable[[StackEvent], None]) -> None:
    """Wake and sleep by this calendar; by command only if it is None. Raises FloError."""
    _machine_that_can_sleep(stack)
    wake_at, sleep_at = calendar.cron if calendar else ("", "")
    zone = calendar.zone if calendar else "UTC"
    stack.change({"WakeAt": wake_at, "SleepAt": sleep_at, "CalendarZone": zone}, show)


def _machine_that_can_sleep(stack: Stack) -> str:
    """Return the machine. Raises UsageError if the deployed template knows no sleep."""
    if "Awake" not in stack.parameters():
        raise UsageError(
            f"{stack.name} was deployed by an earlier FLO and cannot sleep",
            hint="flo aws deploy brings it up to date",
        )
    return stack.outputs()["Machine"]


def _state(stack: Stack) -> str:
    machine = stack.outputs()["Machine"]
    with translate_errors(f"reading the state of {machine}"):
        found = client("ec2", stack.region).describe_instances(InstanceIds=[machine])
    return str(found["Reservations"][0]["Instances"][0]["State"]["Name"])


def _answers(stack: Stack) -> bool:
    targets = stack.outputs()["Targets"]
    with translate_errors("asking whether the coordinator answers"):
        found = client("elbv2", stack.region).describe_target_health(TargetGroupArn=targets)
    return any(
        one["TargetHealth"]["State"] == "healthy" for one in found["TargetHealthDescriptions"]
    )


def _wait(there: Callable[[], bool], why: str, hint: str = "repeat the command") -> None:
    end = time.monotonic() + _MOST_SECONDS
    while not there():
        if time.monotonic() > end:
            raise FloError(f"{why} within {_MOST_SECONDS / 60:g} minutes", hint=hint)
        time.sleep(_LOOK_SECONDS)
