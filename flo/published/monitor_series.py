"""All periods of a monitor together: evidence, alarms and health, from their signed results."""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from flo.errors import TrustError
from flo.published.monitor_result import MonitorResult
from flo.scores import drift
from flo.scores.change_detector import health
from flo.scores.drift import Evidence, Period
from flo.study.document import Study
from flo.study.monitor import Monitor

_FIRST_YEAR = 2000


@dataclass(frozen=True)
class WatchedPeriod:
    """``number``: of the period, from 1. ``signed``: when its result was, by the coordinator's
    clock."""

    number: int
    signed: datetime
    study: Study
    result: MonitorResult
    sums: Period
    evidence: Evidence

    @property
    def made(self) -> str:
        """When its result was signed."""
        return self.result.made

    @property
    def hospitals(self) -> tuple[str, ...]:
        """Whose releases were added."""
        return self.result.sums.hospitals

    @property
    def health(self) -> float:
        """100 without evidence that outcomes changed; 85 and less in an alarm."""
        return health(self.evidence.log_e, math.log(monitor_of(self.study).false_alarm_periods))


@dataclass(frozen=True)
class Series:
    """``periods``: those with a result, in order, at least one. ``missing``: numbers of those
    before the last that have none: their run failed, or their result was not given."""

    periods: tuple[WatchedPeriod, ...]
    missing: tuple[int, ...]

    @property
    def last(self) -> WatchedPeriod:
        """The latest period."""
        return self.periods[-1]

    @property
    def health(self) -> float:
        """That of the last period; at most 85 once an alarm was raised, which stands."""
        return min(self.last.health, 85.0) if self.alarms else self.last.health

    @property
    def alarms(self) -> tuple[WatchedPeriod, ...]:
        """Periods in which an alarm was raised."""
        return tuple(one for one in self.periods if one.evidence.alarm)


def series(results: Iterable[MonitorResult], *coordinators: str) -> Series:
    """Check the results of one series, in any order, and follow the evidence.

    A period without a result adds nothing; the stated rate holds as long as whether a run fails
    does not depend on the outcomes of its patients.

    Raises TrustError: one is not signed by a key of these coordinators, or states no time; two are
    of the same period; or they are of different series.
    """
    checked = [(one, one.check(*coordinators)) for one in results]
    if not checked:
        raise TrustError("there is no result of a monitor")
    checked.sort(key=lambda pair: monitor_of(pair[1]).period)
    last = monitor_of(checked[-1][1])
    order = (*last.earlier, checked[-1][1].digest)
    for place, (_, study) in enumerate(checked):
        monitor, before = monitor_of(study), checked[place - 1][1] if place else None
        if before is not None and monitor_of(before).period == monitor.period:
            raise TrustError(f"two results of period {monitor.period} were given")
        if monitor.earlier != order[: monitor.period - 1] or study.digest not in order:
            raise TrustError(
                f"period {monitor.period} ({study.name}, version {study.version}) is of another "
                "series than the latest one: they name other earlier periods"
            )
        try:
            last.refuse_other_terms(monitor)
        except ValueError as error:
            raise TrustError(f"period {monitor.period}: {error}") from error
    sums = [one.sums.period(study) for one, study in checked]
    evidence = drift.follow(sums, last.tolerance, last.false_alarm_periods)
    periods = tuple(
        WatchedPeriod(monitor_of(study).period, _time(one.made), study, one, period, followed)
        for (one, study), period, followed in zip(checked, sums, evidence, strict=True)
    )
    known = {one.number for one in periods}
    return Series(periods, tuple(n for n in range(1, last.period) if n not in known))


def _time(made: str) -> datetime:
    with suppress(ValueError):
        found = datetime.fromisoformat(made)
        if found.tzinfo is not None and found.year > _FIRST_YEAR:
            return found
    raise TrustError(f"a result states {made[:40]!r} as the time when it was signed, in UTC")


def monitor_of(study: Study) -> Monitor:
    """Return the study's monitor, which it must have."""
    assert study.monitor is not None
    return study.monitor
