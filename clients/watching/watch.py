"""All monitors of one model at this hospital: what they have counted, and their alarms.

    1. answers are counted by day, for the whole hospital and for each ward; a patient counts once
       in ``AGAIN_DAYS``, because the next answer about the same patient is no news;
    2. outcomes are counted by groups (``flo.clients.watching.calibration``);
    3. a monitor raises an alarm when its weighted evidence reaches ``FALSE_ALARM_DAYS``. As the
       weights' sum is at most 1, a false alarm of any monitor within n days has a probability of at
       most n / ``FALSE_ALARM_DAYS``, and the mean time to one is at least half of that many days
       (``flo.scores.change_detector``). Within a day an alarm needs ``_WITHIN_A_DAY`` times the
       evidence, because patients of a night are others than those of a day;
    4. an alarm stays until somebody settles it. Meanwhile its monitors raise no other one, and if
       it is of the whole hospital, neither do those of wards and groups;
    5. an alarm of the monitor across hospitals is an alarm here, too
       (``flo.clients.watching.across``).

Nothing is read or written here, and no clock is asked.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import astuple, replace
from typing import Any, NamedTuple

import numpy as np

from flo.arrays import Floats
from flo.clients.watching.across import AcrossHospitals
from flo.clients.watching.alarm import WARD, Alarm, Key, of_the_whole_hospital
from flo.clients.watching.calibration import ALL, Kept, OutcomeWatch, bands
from flo.clients.watching.cells import Cells, StudyCells
from flo.clients.watching.counts import (
    ANSWERED,
    ASKED,
    HOURS,
    SLOW,
    SLOW_HOURS,
    SLOW_SECONDS,
    SLOW_SHARE,
    Counts,
    Layout,
)
from flo.clients.watching.naming import Rated
from flo.clients.watching.series import Detectors, Series
from flo.errors import UsageError
from flo.scores.change_detector import health
from flo.study.schema import Schema

FALSE_ALARM_DAYS = 10 * 365
AGAIN_DAYS, MOST_WARDS = 28, 40
_LOG_ALARM = math.log(FALSE_ALARM_DAYS)
_WITHIN_A_DAY = 100
# Weights: answers of the hospital, of all wards together, outcomes; their sum is 1.
_HOSPITAL, _WARDS, _OUTCOMES = 0.35, 0.35, 0.3
_OF_ALL, _OF_BANDS, _OF_SUBGROUPS, _OF_WARDS, _OF_LATE = 0.4, 0.2, 0.2, 0.15, 0.05


class Answered(NamedTuple):
    """One answer that was sent. ``cells``: (columns,); None of a record that did not fit, and then
    ``broken`` has each column's number, and the cell of a number beyond its bounds. ``risk``: None
    if none was stated. ``is_first``: whether it is the patient's first record; ``is_new``: their
    first one that was scored."""

    ward: str
    seconds: float
    cells: Cells | None
    broken: tuple[tuple[int, int | None], ...]
    risk: float | None
    is_first: bool
    is_new: bool


class Watch:
    """The monitors of a model. ``subgroups``: the groups whose fairness the study states, as
    ``column=code``. ``cuts``: two risks between which the middle third of them is, about."""

    def __init__(self, schema: Schema, subgroups: Sequence[str], cuts: tuple[float, float]) -> None:
        self.layout, self.cuts = Layout(StudyCells(schema)), cuts
        self._bands = bands(cuts)
        self.hospital = Series(self.layout, "", math.log(_HOSPITAL))
        self.wards = dict[str, Series]()
        weights = {ALL: _OF_ALL}
        weights |= dict.fromkeys(self._bands, _OF_BANDS / 3)
        weights |= {group: _OF_SUBGROUPS / len(subgroups) for group in subgroups}
        logs = {group: math.log(_OUTCOMES * weight) for group, weight in weights.items()}
        self.outcomes = OutcomeWatch(logs, math.log(_OUTCOMES * _OF_LATE))
        self.alarms, self._last, self.first_day = list[Alarm](), 0, 0
        self._hour = 0, 0, 0  # hour, answers and slow answers in it; not kept in the file
        self.health = 100.0  # by the monitor with the most evidence, at the last look
        self.across = AcrossHospitals()

    def count(self, day: int, several: Sequence[Answered], hour: int = 0) -> None:
        """Count answers of one day, which is not before one that was counted. [1]

        ``hour``: in which they were given, since any moment.
        """
        if not self.first_day:
            self.first_day = self.outcomes.next_day = self.outcomes.next_late = day
        for series in self.wards.values():
            if series.day:
                series.counts_of(day)  # so that days of long ago are forgotten
        by_ward = dict[str, list[Answered]]()
        here = {one.ward for one in several}
        for one in several:
            ward = self._ward(one.ward, here)
            if ward:
                by_ward.setdefault(ward, []).append(one)
        self._count(self.hospital.counts_of(day), several)
        self._count_hour(hour, several)
        for ward, ones in by_ward.items():
            self._count(self.wards[ward].counts_of(day), ones)

    def count_outcomes(
        self,
        today: int,
        follow_up: int,
        of_day: Callable[[int], Sequence[Kept]],
        unknown: Callable[[int], int],
    ) -> None:
        """Count the outcomes that are due. [2] Arguments as ``OutcomeWatch.take``."""
        if self.first_day:
            self.outcomes.take(today, follow_up, of_day, unknown)

    def _ward(self, name: str, here: Collection[str]) -> str:
        """Return the ward, which is watched from now on; "" beyond ``MOST_WARDS``."""
        if not name or name in self.wards:
            return name
        if len(self.wards) >= MOST_WARDS and not self._forget_silent_ward(here):
            return ""
        place = min(set(range(1, MOST_WARDS + 1)) - {one.place for one in self.wards.values()})
        share = 1 / (place * (place + 1))  # their sum is below 1
        self.wards[name] = Series(self.layout, name, math.log(_WARDS * share), place)
        self.outcomes.add_group(WARD + name, math.log(_OUTCOMES * _OF_WARDS * share))
        return name

    def _count_hour(self, hour: int, several: Sequence[Answered]) -> None:
        """Count the hour before, once another one begins, as slow or not."""
        before, answers, slow = self._hour
        if hour != before:
            self.hospital.today[HOURS] += answers > 0
            self.hospital.today[SLOW_HOURS] += slow > SLOW_SHARE * answers
            answers = slow = 0
        slow += sum(one.seconds > SLOW_SECONDS for one in several)
        self._hour = hour, answers + len(several), slow

    def _forget_silent_ward(self, but: Collection[str]) -> bool:
        """Forget a ward whose days are all forgotten; return False if there is none."""
        silent = [
            name
            for name, ward in self.wards.items()
            if ward.day
            and name not in but
            and not ward.days
            and not ward.all_today().any()
            and not self._is_alarmed(name)
        ]
        if not silent:
            return False
        del self.wards[silent[0]]
        self.outcomes.forget_group(WARD + silent[0])
        return True

    def _is_alarmed(self, ward: str) -> bool:
        return any(ward == one.key.ward or one.key.name == WARD + ward for one in self.alarms)

    def _count(self, counts: Counts, several: Sequence[Answered]) -> None:
        counts[ANSWERED] += len(several)
        counts[SLOW] += sum(one.seconds > SLOW_SECONDS for one in several)
        counts[ASKED] += sum(one.is_first for one in several)
        scored = [one for one in several if one.is_new and one.cells is not None]
        if scored:
            risks = [math.nan if one.risk is None else one.risk for one in scored]
            cells = np.stack([one.cells for one in scored if one.cells is not None])
            self.layout.add_scored(counts, cells, np.array(risks))
        for one in several:
            if one.is_first and one.cells is None:
                self.layout.add_refused(counts, one.broken)

    def groups_of(self, ward: str, risk: float, subgroups: Sequence[str]) -> list[str]:
        """Return the groups whose outcomes a patient's outcome counts for."""
        band = self._bands[bisect_right(self.cuts, risk)]
        wards = [WARD + ward] if ward in self.wards else []
        return [ALL, band, *(one for one in subgroups if one in self.outcomes.log_weights), *wards]

    def look(self, day: int, now: float = 0.0) -> list[Alarm]:
        """Return the alarms that are new. [3]

        ``now``: seconds since 1970, kept with them.
        """
        known, new = {one.key for one in self.alarms}, list[Alarm]()
        self.health = 100.0
        for key, seen, detectors, place in self.seen(day):
            self.health = min(self.health, score_of(seen))
            if seen >= _LOG_ALARM and not {key, of_the_whole_hospital(key)} & known:
                self._last += 1
                known.add(key)
                rate = self._rate(key, place)
                since = detectors.changed_on(place)
                new.append(Alarm(self._last, key, since, day, rate, now))
        self.health = min(self.health, self.across.health)
        if self.across.alarms and Key("hospitals") not in known:  # [5]
            self._last += 1
            signed = self.across.alarms[0].signed
            time, since = min(signed.timestamp(), now), signed.date().toordinal()
            new.append(Alarm(self._last, Key("hospitals"), since, day, time=time))
        self.alarms += new
        return new

    def answered(self, numbers: Collection[int]) -> None:
        """Note that what the plan says was done about these alarms."""
        self.alarms = [
            replace(one, is_answered=one.is_answered or one.number in numbers)
            for one in self.alarms
        ]

    def seen(self, day: int) -> Iterator[tuple[Key, float, Detectors, int]]:
        """Yield for each key its most evidence, weighted, and the detector that has it."""
        for series in (self.hospital, *self.wards.values()):
            yield from self._of_series(series, day)
        self.outcomes.begin(day)
        for group, detectors in self.outcomes.now().items():
            weighted = detectors.evidence() - math.log(2) + self.outcomes.log_weights[group]
            place = int(np.argmax(weighted))
            yield Key("outcomes", group), float(weighted[place]), detectors, place
        late = self.outcomes.late()
        if late is not None:
            weighted = late.evidence() + self.outcomes.late_log_weight
            yield Key("late"), float(weighted[0]), late, 0

    def _rate(self, key: Key, place: int) -> Rated:
        """Return which of a column's rates a detector watches."""
        series = self.wards[key.ward] if key.ward else self.hospital
        if key.kind != "column" or series.rates is None:
            return "values"
        kind = series.rates.all[place].kind
        return kind if kind in ("missing", "refused") else "values"

    def _of_series(self, series: Series, day: int) -> Iterator[tuple[Key, float, Detectors, int]]:
        if series.began:
            series.counts_of(day)
        detectors, rates = series.now(), series.rates
        if detectors is None or rates is None or series.detectors is None:
            return
        within = detectors.evidence() - math.log(_WITHIN_A_DAY)
        seen = np.maximum(within, series.detectors.evidence())
        weighted: Floats = seen + rates.log_weights + series.log_weight
        best = dict[Key, int]()
        for place, rate in enumerate(rates.all):
            if rate.column < 0:
                key = Key(rate.kind, "", series.name)
            else:
                name = self.layout.columns[rate.column].of.column.name
                key = Key("column", name, series.name)
            if key not in best or weighted[place] > weighted[best[key]]:
                best[key] = place
        for key, place in best.items():
            yield key, float(weighted[place]), detectors, place

    def settle(self, number: int, *, as_usual: bool) -> Alarm:
        """End an alarm, and let its monitors begin anew.

        ``as_usual``: what was found is what is to be expected from now on, so that a new baseline
        is counted; else the cause is mended, and the baseline stays.

        Raises UsageError: there is no such alarm; or outcomes cannot become usual.
        """
        alarm = next((one for one in self.alarms if one.number == number), None)
        if alarm is None:
            numbers = ", ".join(str(one.number) for one in self.alarms) or "none"
            raise UsageError(f"there is no alarm {number}", hint=f"open alarms: {numbers}")
        key = alarm.key
        if key.kind in ("outcomes", "hospitals") and as_usual:
            raise UsageError(
                f"alarm {number} is about outcomes, which are compared with the card's risks",
                hint="finish the model at home (flo model finish), or use another version",
            )
        if key.kind == "outcomes":
            whole = key == of_the_whole_hospital(key)
            for group in list(self.outcomes.log_weights) if whole else [key.name]:
                self.outcomes.restart(group)
        elif key.kind == "late":
            self.outcomes.restart_late(anew=as_usual)
        elif key.kind == "hospitals":
            self.across.settle()
        else:
            several = [self.wards[key.ward]] if key.ward else [self.hospital, *self.wards.values()]
            for series in several:
                self._restart(series, key, as_usual=as_usual)
            if as_usual:  # nothing is left by which others of these series could be judged
                gone = {series.name for series in several}
                data = ("column", "risk", "slow")
                self.alarms = [
                    one
                    for one in self.alarms
                    if one.key.kind not in data or one.key.ward not in gone
                ]
        self.alarms = [one for one in self.alarms if one.number != number]
        return alarm

    def begin_again(self, time: float) -> None:
        """End the alarms of before a time, and let all monitors begin anew with their baselines."""
        self.alarms = [one for one in self.alarms if one.time >= time]
        for series in (self.hospital, *self.wards.values()):
            if series.rates is not None:
                series.restart(np.ones(len(series.rates.all), dtype=bool))
        for group in self.outcomes.log_weights:
            self.outcomes.restart(group)
        self.outcomes.restart_late(anew=False)
        self.across.settle()

    def _restart(self, series: Series, key: Key, *, as_usual: bool) -> None:
        if as_usual:
            series.begin_anew()
            return
        if series.rates is None or series.detectors is None:
            return
        names = [one.of.column.name for one in self.layout.columns]
        about = [
            names[rate.column] == key.name
            if key.kind == "column" and rate.column >= 0
            else rate.kind == key.kind
            for rate in series.rates.all
        ]
        series.restart(np.array(about))

    def to_state(self) -> dict[str, Any]:
        """Return all of it as JSON."""
        return {
            "schema_version": 2,
            "hospital": self.hospital.to_state(),
            "wards": [one.to_state() for one in self.wards.values()],
            "outcomes": self.outcomes.to_state(),
            "alarms": [[one.number, [*astuple(one.key)], *astuple(one)[2:]] for one in self.alarms],
            "last": self._last,
            "first_day": self.first_day,
            "settled_period": self.across.settled,
        }

    def take_state(self, state: Mapping[str, Any]) -> None:
        """Become what ``to_state`` returned of a watch of the same study.

        Files of schema 1 know of no monitor across hospitals.
        """
        self.hospital.take_state(state["hospital"])
        for one in state["wards"]:
            share = 1 / (one["place"] * (one["place"] + 1))
            ward = Series(self.layout, one["name"], math.log(_WARDS * share), one["place"])
            ward.take_state(one)
            self.wards[ward.name] = ward
        self.outcomes.take_state(state["outcomes"])
        self.alarms = [Alarm(number, Key(*key), *facts) for number, key, *facts in state["alarms"]]
        self._last, self.first_day = int(state["last"]), int(state["first_day"])
        self.across.settled = int(state.get("settled_period", 0))


def score_of(seen: float) -> float:
    """Return the health score of a monitor's weighted evidence, log(w M)."""
    return health(seen, _LOG_ALARM)
