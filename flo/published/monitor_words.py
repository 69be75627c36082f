"""What a monitor's series says, in words and as a plot, for the command line and the pages."""

from __future__ import annotations

import math
from collections.abc import Iterable

from flo.pages import plots
from flo.published.monitor_series import Series, WatchedPeriod, monitor_of
from flo.scores.drift import odds_factor

_SHOWN, _FARTHEST = 24, 5.0  # latest periods in a plot; powers of 2
_ALARM = 85.0


def rows(found: Series) -> list[tuple[str, str]]:
    """Return a line for the verdict and for what it rests on: (label, text)."""
    last, monitor = found.last, monitor_of(found.last.study)
    terms = (
        f"{monitor.tolerance:g} times the odds; a false alarm once in "
        f"{monitor.false_alarm_periods} periods or more, on average"
    )
    said = [
        ("verdict", _verdict(found)),
        ("health", f"{shown(found.health)} of 100; 85 and less is an alarm"),
        ("watched", f"{monitor.models[0].title}, card {monitor.model}"),
        ("tolerated", terms),
        ("this period", f"period {last.number}: {_of_period(last)}"),
        ("hospitals", ", ".join(last.hospitals)),
        ("read", f"{len(found.periods)} signed results, up to period {last.number}"),
    ]
    before = [one for one in found.alarms if one.number != last.number]
    if before:
        said.append(
            (
                "alarms before",
                f"{_periods(one.number for one in before)}; evidence began anew after each",
            )
        )
    if found.missing:
        said.append(
            (
                "without a result",
                f"{_periods(found.missing)}: no evidence comes from there",
            )
        )
    return said


def table(found: Series) -> list[tuple[str, str, str, str]]:
    """Return a row for each period, latest first: number, day, odds, health."""
    return [
        (
            str(one.number),
            one.made[:10],
            _of_period(one),
            f"{shown(one.health)}{', alarm' if one.evidence.alarm else ''}",
        )
        for one in reversed(found.periods)
    ]


def odds_plot(found: Series) -> plots.Intervals | None:
    """Plot by which factor odds differ from stated ones, on a log scale."""
    known = [(one.number, odds_factor(one.sums)) for one in found.periods[-_SHOWN:]]
    plotted = [
        (f"period {number}", _power(odds[0]), _power(odds[1]), _power(odds[2]))
        for number, odds in known
        if odds
    ]
    if not plotted:
        return None
    reach = max([1.0, *(abs(end) for _, low, _, high in plotted for end in (low, high))])
    reach = math.ceil(min(reach, _FARTHEST))
    return plots.intervals(plotted, -reach, reach, step=1.0, limit=0.0, label=_times)


def _periods(numbers: Iterable[int]) -> str:
    several = [str(number) for number in numbers]
    return f"period{'s' * (len(several) > 1)} {', '.join(several)}"


def _verdict(found: Series) -> str:
    last = found.last
    if last.evidence.alarm:
        which = "more" if last.evidence.direction > 0 else "less"
        return (
            f"alarm: patients have the outcome {which} often than the model states, by more than "
            "is tolerated"
        )
    if found.alarms:
        return (
            f"alarm in {_periods(one.number for one in found.alarms)}; it stands. Evidence began "
            "anew after it, and is not enough for another one yet"
        )
    return "no alarm: the evidence is not enough to say that outcomes are not as stated"


def _of_period(one: WatchedPeriod) -> str:
    found = odds_factor(one.sums)
    if found is None:
        return "too few patients for a figure"
    low, middle, high = found
    most = f"to {high:.2f}" if math.isfinite(high) else "or more"
    about = f"about {middle:.2f}" if math.isfinite(middle) else "many"
    return f"{about} times the stated odds, 90 % interval {low:.2f} {most}"


def shown(health: float) -> int:
    """Return health as a whole number, which is 85 or less in an alarm only."""
    return math.floor(health) if health <= _ALARM else math.ceil(health)


def _power(odds: float) -> float:
    return max(-_FARTHEST, min(_FARTHEST, math.log2(max(odds, 2.0**-_FARTHEST))))


def _times(power: float) -> str:
    return f"{2**power:g} ×" if power >= 0 else f"1/{2**-power:g} ×"
