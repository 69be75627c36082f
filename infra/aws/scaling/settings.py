"""An advice as a hospital writes it down: in ``aws/MODEL.toml``, and in a crontab."""

from __future__ import annotations

import math
import shlex
from typing import get_args

import numpy as np

from flo.arrays import Floats
from flo.infra.aws.scaling.ways import Machine, Way, needed, open_hours
from flo.infra.aws.serving.settings import Day, ScalingSettings

_DAYS = get_args(Day)


def scaling(way: Way, profile: Floats, machine: Machine, zone: str) -> ScalingSettings | None:
    """Return how the endpoint's machines are scaled; None if their number does not change.

    ``profile``: requests a second of a week's hours, from Monday's midnight in ``zone``.
    """
    if way.most <= way.least:
        return None
    calendar = dict[Day, tuple[int, ...]]()
    if way.ahead:
        counts = np.clip(needed(profile * way.ahead, machine), way.least, way.most).astype(int)
        calendar = {day: tuple(counts[at * 24 : at * 24 + 24]) for at, day in enumerate(_DAYS)}
    tracked = None
    if way.target is not None:
        tracked = max(1.0, float(math.floor(way.target * machine.requests * 60)))
    return ScalingSettings(
        least=way.least,
        most=way.most,
        requests_a_minute=tracked,
        zone=zone if calendar else "UTC",
        calendar=calendar,
    )


def toml(way: Way, found: ScalingSettings | None, machine: Machine) -> str:
    """Return the lines for ``aws/MODEL.toml`` beside those of its [endpoint]."""
    lines = [f'instance = "{machine.kind}"', f"instances = {max(way.least, 1)}"]
    lines.append(f"at_once = {machine.at_once}  # the next request is answered 503")
    if found is not None:
        lines += ["", "[endpoint.scaling]", f"least = {found.least}", f"most = {found.most}"]
        if found.requests_a_minute is not None:
            lines.append(f"requests_a_minute = {found.requests_a_minute:.0f}  # of one machine")
        if found.calendar:
            lines += [f'zone = "{found.zone}"', "", "[endpoint.scaling.calendar]"]
            lines += [f"{day} = {list(counts)}" for day, counts in found.calendar.items()]
    return "\n".join(lines) + "\n"


def crontab(way: Way, profile: Floats, zone: str, model: str, home: str) -> str:
    """Return the lines by which the endpoint is deployed and removed; "" if it is there always.

    Each deployment checks the golden cases again, and puts live what is in use then.
    """
    if not way.from_rate or way.most == 0:
        return ""
    is_open = open_hours(profile, way.from_rate)
    if is_open.all() or not is_open.any():
        return ""
    words = ["flo", "model", "deploy", model, "--on", "sagemaker", "--home", home]
    command = shlex.join(words).replace("%", r"\%")  # cron makes lines of it
    commands = {True: f"{command} --why 'by the calendar'"}
    commands[False] = f"{command} --remove --why 'by the calendar'"
    lines = dict[tuple[int, bool], list[int]]()
    for hour in np.flatnonzero(is_open != np.roll(is_open, 1)):
        day, at = divmod(int(hour), 24)
        lines.setdefault((at, bool(is_open[hour])), []).append((day + 1) % 7)
    return f"CRON_TZ={zone}\n" + "".join(
        f"0 {at} * * {','.join(map(str, sorted(days)))}  {commands[opens]}\n"
        for (at, opens), days in sorted(lines.items())
    )
