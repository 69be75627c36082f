"""Ways to serve a model in AWS, and what each does with a trace, minute by minute.

Machines. Each answers one request after the other. With Poisson arrivals and exponential service
times (M/M/1) the 99th percentile of an answer's time is ln(100) s / (1 - u) at utilisation u and s
seconds of service (Kleinrock, Queueing Systems I, 1975, 3.2); ``Machine.requests`` is the rate at
which it is the bound. The container has at most ``Machine.at_once`` requests open, bound / s of
them, and answers the next one 503: so none waits much longer than the bound. What arrives beyond
the rate is counted as refused, at no cost to the machine; it is unserved unless the function takes
it.

Target tracking, as AWS describes it: three minutes above the target add machines in proportion,
fifteen below nine tenths of it remove some; five minutes after a removal the next may follow.
SageMaker changes an endpoint once at a time, and new machines need ``Machine.start_minutes``. They
are paid from the beginning.

A calendar. By the forecast of an hour there are least numbers of machines, and hours in which the
endpoint is there at all. It is deployed by ``flo model deploy``, which first checks the model on
one machine more, and is there two starts of a machine later.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from flo.arrays import Floats, Mask
from flo.infra.aws.serving.contract import MOST_AT_ONCE

_LOG_100 = math.log(100)
_ABOVE, _BELOW, _COOLDOWN, _SLACK = 3, 15, 5, 0.9  # minutes; of the target
_SHORTEST_PAUSE = 3  # hours for which an endpoint is deleted
_NONE = 1e-300  # in place of no request at all
_KEPT_WARM_MINUTES = 5  # for which Lambda keeps an idle environment, cautiously


@dataclass(frozen=True)
class Machine:
    """``kind``: of SageMaker. ``price``: of an hour. ``service``: seconds of an answer.

    ``requests``: a second within the bound, above 0. ``start_minutes``: until it answers.
    """

    kind: str
    price: float
    service: float
    requests: float
    at_once: int = 512
    start_minutes: int = 5

    @staticmethod
    def within(kind: str, price: float, service: float, bound: float) -> Machine:
        """Return the machine with the rate at which p99 is ``bound`` seconds; 0 if none is."""
        used = 1 - _LOG_100 * service / bound
        at_once = min(MOST_AT_ONCE, max(1, int(bound / service)))
        return Machine(kind, price, service, max(0.0, used / service), at_once)


@dataclass(frozen=True)
class Function:
    """``price``: of a request. ``warm``, ``cold``: seconds of an answer. ``at_once``: answers."""

    price: float
    warm: float
    cold: float
    at_once: int = 1000

    @property
    def requests(self) -> float:
        """Requests a second that it answers at most."""
        return self.at_once / self.warm


@dataclass(frozen=True)
class Way:
    """A way to serve.

    ``least``, ``most``: machines while the endpoint is there; ``most`` 0: only the function.
    ``target``: share of a machine's requests that tracking aims at; None if nothing is tracked.
    ``ahead``: machines for this multiple of the forecast are there at least; 0: no forecast.
    ``from_rate``: requests a second of the forecast from which the endpoint is there; 0: always.
    ``spills``: whether the function takes what the endpoint refuses.
    """

    name: str
    least: int = 1
    most: int = 1
    target: float | None = None
    ahead: float = 0.0
    from_rate: float = 0.0
    spills: bool = False


@dataclass(frozen=True)
class Outcome:
    """``cost``: of the whole trace. ``unserved``, ``spilled``: shares of the requests. ``p99``:
    seconds, without the network. ``machine_hours``: paid."""

    cost: float
    unserved: float
    spilled: float
    p99: float
    machine_hours: float


def simulate(
    way: Way, rates: Floats, forecast: Floats, machine: Machine, function: Function
) -> Outcome:
    """Return what a way does.

    ``rates``: requests a second, for each minute of whole hours. ``forecast``: of each hour.
    """
    if way.most == 0:
        there = paid = np.zeros(len(rates))
    else:
        there, paid = _machines(way, rates, forecast, machine)
    return _outcome(there, paid, rates, machine, function, spills=way.spills or way.most == 0)


def oracle(rates: Floats, machine: Machine, function: Function) -> float:
    """Return what the requests cost at least, if all are known before and the function takes what
    machines do not. A machine that is started costs its start, too. No way above that leaves
    nothing unserved can be cheaper.

    The first machine takes what it can, the second what is left, and so on; whether each is there
    in a minute does not depend on the others, and is found by dynamic programming.
    """
    count = math.ceil(rates.max() / machine.requests)
    below = np.arange(count) * machine.requests
    paid = machine.price / 60
    start = machine.start_minutes * paid
    there, away = np.zeros(count), np.zeros(count)
    for rate in rates:
        left = np.clip(rate - below, 0.0, machine.requests) * (60 * function.price)
        there, away = np.minimum(there, away + start) + paid, np.minimum(there, away) + left
    return float(np.minimum(there, away).sum())


def needed(rate: Floats | float, machine: Machine) -> Floats:
    """Return the number of machines for a rate."""
    counted: Floats = np.ceil(np.asarray(rate) / machine.requests - 1e-9)
    return counted


def open_hours(forecast: Floats, from_rate: float) -> Mask:
    """Return in which hours the endpoint is there. It is not deleted for less than three hours.

    The hours are a circle: a week follows a week.
    """
    found: Mask = forecast >= from_rate
    if not found.any() or found.all():
        return found
    begin = int(np.argmax(found))
    turned = np.roll(found, -begin)
    last = 0
    for hour in np.flatnonzero(turned):
        if hour - last - 1 < _SHORTEST_PAUSE:
            turned[last:hour] = True
        last = int(hour)
    if len(turned) - last - 1 < _SHORTEST_PAUSE:
        turned[last:] = True
    return np.roll(turned, begin)


def _machines(way: Way, rates: Floats, forecast: Floats, machine: Machine) -> tuple[Floats, Floats]:
    """Return how many machines answer, and how many are paid, in each minute."""
    floor = np.full(len(forecast), float(way.least))
    if way.ahead:
        floor = np.clip(needed(forecast * way.ahead, machine), way.least, way.most)
    is_open = open_hours(forecast, way.from_rate) if way.from_rate else np.ones(len(floor), bool)
    if way.target is None:
        return _by_calendar(floor, is_open, machine)
    return _tracked(way, way.target, rates, floor, is_open, machine)


def _by_calendar(floor: Floats, is_open: Mask, machine: Machine) -> tuple[Floats, Floats]:
    """Machines of a calendar are started early, so that they are there when their hour begins."""
    start = machine.start_minutes
    wanted = np.repeat(np.where(is_open, floor, 0.0), 60)
    soon = np.concatenate([wanted[start:], np.repeat(wanted[-1], start)])
    early = np.maximum(wanted, np.where(wanted > 0, soon, 0.0))  # not before it is deployed
    deployed = _deployed(is_open, machine)
    return np.where(deployed, wanted, 0.0), early + _checks(is_open, machine)


def _opened(is_open: Mask) -> list[int]:
    """Return the hours in which the endpoint is deployed, after one without it."""
    return [int(hour) + 1 for hour in np.flatnonzero(~is_open[:-1] & is_open[1:])]


def _deployed(is_open: Mask, machine: Machine) -> Mask:
    """Return in which minutes the endpoint answers: two starts after the hour it is opened."""
    found = np.repeat(is_open, 60)
    for hour in _opened(is_open):
        found[hour * 60 : hour * 60 + 2 * machine.start_minutes] = False
    return found


def _checks(is_open: Mask, machine: Machine) -> Floats:
    """Return the machines that check a model before it is deployed."""
    found = np.zeros(len(is_open) * 60)
    for hour in _opened(is_open):
        found[hour * 60 : hour * 60 + machine.start_minutes] = 1.0
    return found


def _tracked(
    way: Way,
    target: float,
    rates: Floats,
    floor: Floats,
    is_open: Mask,
    machine: Machine,
) -> tuple[Floats, Floats]:
    """Target tracking. One plain loop: a year has half a million minutes."""
    start, most = machine.start_minutes, way.most
    answers, paid = [0] * len(rates), [0] * len(rates)
    asked = (rates / machine.requests).tolist()  # machines' worth of requests
    least, opens = floor.astype(int).tolist(), is_open.tolist()
    deployed = _deployed(is_open, machine).tolist()
    there = wanted = ready = above = below = quiet_until = 0
    for minute, worth in enumerate(asked):
        hour = minute // 60
        if not opens[hour]:
            there = wanted = above = below = 0
            continue
        lowest = least[hour]
        if not wanted:  # it is deployed now
            there = wanted = lowest
        if minute % 60 >= 60 - start and hour + 1 < len(least):
            lowest = max(lowest, least[hour + 1])  # a calendar acts early
        if there != wanted and minute >= ready:
            there = wanted
        if wanted < lowest:
            wanted, ready = lowest, minute + start
        paid[minute] = wanted
        if not deployed[minute]:
            continue
        answers[minute] = there
        used = worth / there
        above = above + 1 if used > target else 0
        below = below + 1 if used < _SLACK * target else 0
        if there != wanted:
            continue  # SageMaker changes it already
        better = min(most, max(lowest, math.ceil(used * there / target)))
        if above >= _ABOVE and better > wanted:
            wanted, ready, above = better, minute + start, 0
        elif below >= _BELOW and minute >= quiet_until and better < wanted:
            there = wanted = better
            quiet_until, below = minute + _COOLDOWN, 0
    return np.array(answers, float), np.array(paid, float) + _checks(is_open, machine)


def _outcome(
    there: Floats,
    paid: Floats,
    rates: Floats,
    machine: Machine,
    function: Function,
    *,
    spills: bool,
) -> Outcome:
    over = np.maximum(rates - there * machine.requests, 0)
    taken = np.minimum(over, function.requests) if spills else np.zeros(len(rates))
    unserved, all_requests = (over - taken).sum(), max(float(rates.sum()), _NONE)
    machine_hours = float(paid.sum()) / 60
    return Outcome(
        cost=machine_hours * machine.price + float(taken.sum()) * 60 * function.price,
        unserved=float(unserved / all_requests),
        spilled=float(taken.sum() / all_requests),
        p99=_p99(there, rates - over, taken, machine, function),
        machine_hours=machine_hours,
    )


def _p99(
    there: Floats, answered: Floats, taken: Floats, machine: Machine, function: Function
) -> float:
    """Return the 99th percentile of answers' times, cautiously: each minute's answers of machines
    count with that minute's own 99th percentile. The function has no environment if nobody asked
    for minutes: then each request waits for one that arrives before the first has started."""
    used = np.divide(answered * machine.service, there, out=np.zeros(len(there)), where=there > 0)
    times = [_LOG_100 * machine.service / (1 - used)]
    weights = [answered]
    before = np.concatenate([np.repeat(taken[0], _KEPT_WARM_MINUTES), taken[:-1]]) * 60
    recent = np.convolve(before, np.ones(_KEPT_WARM_MINUTES), "valid")
    idle = np.exp(-recent)  # nobody asked in the minutes before
    starting = np.maximum(1.0, taken * function.cold)  # requests that meet no environment then
    cold = idle * np.minimum(1.0, starting / np.maximum(taken * 60, _NONE))
    for seconds, share in ((function.warm, 1 - cold), (function.cold, cold)):
        times.append(np.full(len(there), seconds))
        weights.append(taken * share)
    several, weight = np.concatenate(times), np.concatenate(weights)
    order = np.argsort(several)
    reached = np.cumsum(weight[order])
    return float(several[order][np.searchsorted(reached, 0.99 * reached[-1])])
