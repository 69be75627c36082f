"""The cheapest way to serve that keeps the limits.

1. the first four weeks of a trace are for the first forecast only;
2. of the rest, every way is tried on the first half, and the best of each family is kept;
3. the cheapest of these that keeps the limits is advised. The simplest comes first: another one
   has to cost less than ``_WORTH`` of it;
4. the second half, which chose nothing, says what each of them does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from flo.arrays import Floats
from flo.errors import UsageError
from flo.infra.aws.scaling import forecast as forecasts
from flo.infra.aws.scaling.trace import WEEK, Trace
from flo.infra.aws.scaling.ways import (
    Function,
    Machine,
    Outcome,
    Way,
    needed,
    oracle,
    simulate,
)

LEAST_WEEKS, MOST_WEEKS = 6, 56
MOST_MACHINES = 1000
MONTH = 730.0  # hours
MACHINES, FUNCTION, TRACKING, CALENDAR, BOTH = (
    *("fixed machines", "function only", "target tracking", "scheduled machines"),
    "machines + function",
)
FAMILIES = (FUNCTION, MACHINES, TRACKING, CALENDAR, BOTH)  # the simplest first
_WORTH = 0.97
_ROOM = 0.5  # share of the limit of unserved requests that is used when choosing
_TARGETS, _TIGHT_TARGETS = (0.6, 0.7, 0.8, 0.9, 0.95), (0.9, 1.0)
_AHEAD = (0.9, 1.0, 1.1, 1.25, 1.5, 2.0)


@dataclass(frozen=True)
class Limits:
    """``unserved``: share of requests at most. ``p99``: seconds of an answer at most."""

    unserved: float = 0.001
    p99: float = 0.2


@dataclass(frozen=True)
class Advice:
    """``chosen``: on the first half. ``rows``: the best of each family, and what it does in the
    second half; by family. ``tried``: what it did in the first. ``better_static``: the cheaper of
    machines sized in knowledge of the second half, and of the function. ``oracle``: what the second
    half costs at least. Costs are of a month. ``profile``: requests a second of a week's hours, by
    the last four weeks."""

    chosen: Way
    rows: dict[str, tuple[Way, Outcome]]
    tried: dict[str, Outcome]
    better_static: float
    oracle: float
    profile: Floats

    @property
    def outcome(self) -> Outcome:
        """What the chosen way does in the second half."""
        return self.rows[self.chosen.name][1]


def advise(
    trace: Trace,
    machine: Machine,
    function: Function,
    limits: Limits,
    said: Callable[[str], None] = lambda family: None,
) -> Advice:
    """Choose a way to serve.

    ``said``: told which family is tried. Raises UsageError: the trace is too short.
    """
    weeks = len(trace.rates) / 60 / WEEK
    if weeks < LEAST_WEEKS:
        raise UsageError(
            f"the trace has {weeks:.1f} weeks, and an advice needs {LEAST_WEEKS}: four for the "
            "forecast, one to choose, one to judge",
            hint="until then let the function answer: it has no cost when nobody asks",
        )
    machines = float(trace.rates.max()) / machine.requests
    if machines > MOST_MACHINES:
        raise UsageError(
            f"the busiest minute needs {machines:,.0f} machines, each for {machine.requests:,.3g} "
            f"requests a second; at most {MOST_MACHINES} are planned",
            hint="look at the trace's largest number, and at --peak and --machine-ms",
        )
    trace = trace.last(MOST_WEEKS)
    hourly, hours_of_week = trace.hourly, trace.hours_of_week
    expected = forecasts.same_hours(hourly, hours_of_week)
    begin = forecasts.WEEKS * WEEK
    middle = begin + (len(hourly) - begin) // 2
    first, second = slice(begin, middle), slice(middle, len(hourly))

    def outcome(way: Way, part: slice) -> Outcome:
        minutes = trace.rates[part.start * 60 : part.stop * 60]
        return simulate(way, minutes, expected[part], machine, function)

    rows, tried = dict[str, tuple[Way, Outcome]](), dict[str, Outcome]()
    earlier = trace.rates[begin * 60 : middle * 60]
    for family in FAMILIES:
        said(family)
        found = [
            (way, outcome(way, first))
            for way in _family(family, earlier, machine, function, limits)
        ]
        kept = [one for one in found if _keeps(one[1], limits)] or found
        way, tried[family] = min(kept, key=lambda one: one[1].cost)
        rows[family] = way, outcome(way, second)
    later = trace.rates[middle * 60 :]
    months = len(later) / 60 / MONTH
    return Advice(
        rows[_chosen(tried, limits)][0],
        rows={name: (way, _monthly(one, months)) for name, (way, one) in rows.items()},
        tried={name: _monthly(one, len(earlier) / 60 / MONTH) for name, one in tried.items()},
        better_static=better_static(later, machine, function, limits) / months,
        oracle=oracle(later, machine, function) / months,
        profile=forecasts.profile(hourly[-begin:], hours_of_week[-begin:]),
    )


def better_static(rates: Floats, machine: Machine, function: Function, limits: Limits) -> float:
    """Return the cost of the cheaper of the function and of as many machines as keep the limits; of
    the machines, if the function does not keep them."""
    count = fewest(rates, machine, limits.unserved)
    nothing_foreseen = np.zeros(len(rates) // 60)
    ways = [Way(MACHINES, count, count), Way(FUNCTION, 0, 0)]
    machines, by_function = (simulate(w, rates, nothing_foreseen, machine, function) for w in ways)
    kept = by_function.unserved <= limits.unserved and by_function.p99 <= limits.p99
    return min(machines.cost, by_function.cost) if kept else machines.cost


def fewest(rates: Floats, machine: Machine, unserved: float) -> int:
    """Return how many machines at least leave no larger share of the requests unserved."""
    least, most = 1, max(1, int(needed(float(rates.max()), machine)))
    while least < most:
        middle = (least + most) // 2
        over = np.maximum(rates - middle * machine.requests, 0).sum()
        if over <= unserved * rates.sum():
            most = middle
        else:
            least = middle + 1
    return least


def _family(
    family: str, rates: Floats, machine: Machine, function: Function, limits: Limits
) -> Iterator[Way]:
    """Return the ways of a family that are tried."""
    always = fewest(rates, machine, _ROOM * limits.unserved)
    most = min(2 * int(needed(float(rates.max()), machine)), MOST_MACHINES)
    # requests a second from which a machine is cheaper than the function
    break_even = machine.price / 3600 / function.price if function.price else math.inf
    if family == FUNCTION:
        yield Way(family, 0, 0)
    elif family == MACHINES:
        yield Way(family, always, always)
    elif family == TRACKING:
        yield from (Way(family, 1, most, target) for target in _TARGETS)
    elif family == CALENDAR:
        yield from (Way(family, 1, most, None, ahead) for ahead in _AHEAD)
        yield from (Way(family, 1, most, 0.9, ahead) for ahead in _AHEAD[:4])
    else:
        for from_rate in (0.0, break_even, break_even / 2):
            yield Way(family, 1, 1, None, 0.0, from_rate, spills=True)
            for target in _TIGHT_TARGETS:
                yield Way(family, 1, most, target, 0.0, from_rate, spills=True)
            for ahead in (0.7, 0.85, 1.0):
                yield Way(family, 1, most, None, ahead, from_rate, spills=True)


def _keeps(outcome: Outcome, limits: Limits) -> bool:
    return outcome.unserved <= _ROOM * limits.unserved and outcome.p99 <= limits.p99 * (1 + 1e-9)


def _chosen(tried: dict[str, Outcome], limits: Limits) -> str:
    """Return the family that is cheapest in the first half, of those that keep the limits there."""
    best, *others = [name for name in tried if _keeps(tried[name], limits)] or list(tried)
    for name in others:
        if tried[name].cost < _WORTH * tried[best].cost:
            best = name
    return best


def _monthly(one: Outcome, months: float) -> Outcome:
    return Outcome(
        one.cost / months, one.unserved, one.spilled, one.p99, one.machine_hours / months
    )
