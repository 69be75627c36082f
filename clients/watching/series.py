"""A series of answers, day by day: its baseline, its detectors, and the days that are kept.

    1. the first week is left out, for whoever is here already is counted in it. Then days are
       summed as the baseline, by the day of the week, until ``BASELINE_DAYS`` have passed, with
       patients on ``_BUSY_DAYS`` of them and ``BASELINE_PATIENTS`` in all. After a week without any
       patient it begins anew;
    2. then each rate has a detector. At the end of a day it takes that day's counts; a look within
       the day takes those so far;
    3. beside each detector runs a cumulative sum (Page 1954), whose last beginning is the day since
       when a rate is estimated to have changed.

Days are ordinals (``date.toordinal``) of UTC. Nothing is read or written here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from flo.arrays import Floats, Mask
from flo.clients.watching.counts import SCORED, Counts, Layout
from flo.clients.watching.rates import Rates
from flo.scores.change_detector import FACTORS, NOTHING, after, evidence

BASELINE_DAYS, BASELINE_PATIENTS = 28, 500
FIRST_DAYS, _BUSY_DAYS, _LONGEST_GAP = 7, 20, 7
KEPT_DAYS = 120
Days = npt.NDArray[np.int64]
Sparse = list[list[int]]


@dataclass
class Detectors:
    """Detectors (k, alternatives) at the end of yesterday. ``sums``: cumulative sums; ``since``:
    the day on which each of them last began to rise."""

    log_m: Floats
    sums: Floats
    since: Days

    @classmethod
    def of(cls, count: int, alternatives: int = len(FACTORS)) -> Detectors:
        """Return ``count`` detectors that have seen nothing."""
        shape = count, alternatives
        return cls(np.full(shape, NOTHING), np.zeros(shape), np.zeros(shape, dtype=np.int64))

    def with_day(self, day: int, log_l: Floats, had: Mask) -> Detectors:
        """Return the detectors after a day with these factors (k, alternatives).

        ``had``: which of them had a trial (k,); for the others the day is none.
        """
        has = had[:, None]
        log_m = np.where(has, after(self.log_m, log_l), self.log_m)
        since = np.where(has & (self.sums <= 0), day, self.since)
        sums = np.where(has, np.maximum(self.sums, 0.0) + log_l, self.sums)
        return Detectors(log_m, sums, since)

    def evidence(self) -> Floats:
        """Return log M of each (k,)."""
        return evidence(self.log_m)

    def changed_on(self, place: int) -> int:
        """Return since which day what a detector watches is estimated to have changed."""
        return int(self.since[place, int(np.argmax(self.sums[place]))])

    def restart(self, places: Mask) -> None:
        """Let some of them (k,) begin anew."""
        self.log_m[places], self.sums[places] = NOTHING, 0.0

    def to_state(self) -> list[Any]:
        """Return all of it as JSON."""
        return [self.log_m.tolist(), self.sums.tolist(), self.since.tolist()]

    @classmethod
    def from_state(cls, state: list[Any]) -> Detectors:
        """Return what ``to_state`` returned."""
        log_m, sums, since = state
        return cls(np.array(log_m), np.array(sums), np.array(since, dtype=np.int64))


class Series:
    """``name``: of a ward; "" of all answers. ``log_weight``: of all its rates together.

    ``day``: of ``today``, which has the counts that are in no detector yet; 0 before the first
    answer. ``taken``: counts of the same day that are, or that are left out. ``days``: counts of
    the days before. ``place``: of a ward among all. ``rates``, ``detectors``: None while the
    baseline is counted; ``began``: its first day, 0 before it.
    """

    def __init__(self, layout: Layout, name: str, log_weight: float, place: int = 0) -> None:
        self.layout, self.name, self.log_weight, self.place = layout, name, log_weight, place
        self.day = 0
        self.today, self.taken = layout.empty(), layout.empty()
        self.days = dict[int, Sparse]()
        self.rates: Rates | None = None
        self.detectors: Detectors | None = None
        self._begin_baseline()

    def _begin_baseline(self) -> None:
        self.began = self.busy = self.last = 0
        self.weekdays = np.zeros((7, self.layout.length), dtype=np.int64)
        self.rates = self.detectors = None

    @property
    def baseline(self) -> Counts:
        """Counts of the baseline so far."""
        return np.asarray(self.weekdays.sum(axis=0))

    def counts_of(self, day: int) -> Counts:
        """Return the counts of a day, to be added to, after days before it were closed."""
        self.day = self.day or day
        while self.day < day:
            self._close()
        self.began = self.began or day
        return self.today

    def now(self) -> Detectors | None:
        """Return the detectors with today's counts; None while the baseline is counted."""
        if self.rates is None or self.detectors is None:
            return None
        return self.detectors.with_day(self.day, *self.rates.log_day(self.today))

    def all_today(self) -> Counts:
        """Return all counts of the day."""
        return self.taken + self.today

    def since(self, day: int) -> Counts:
        """Return the sum of the counts from a day on."""
        found = self.all_today()
        for one, (places, counts) in self.days.items():
            if one >= day:
                found[places] += counts
        return found

    def restart(self, places: Mask) -> None:
        """Let the detectors of some rates (k,) begin anew. Today is over for all, and begins again,
        which makes one period more."""
        detectors = self.now()
        if detectors is not None:
            detectors.restart(places)
            self.detectors = detectors
            self._take_today()

    def begin_anew(self) -> None:
        """Let a new baseline begin with the next answer."""
        self._take_today()
        self._begin_baseline()

    def _take_today(self) -> None:
        self.taken, self.today = self.all_today(), self.layout.empty()

    def _close(self) -> None:
        """End the day: [1], [2], [3]."""
        if self.rates is not None and self.detectors is not None:
            log_l, had = self.rates.log_day(self.today)
            self.detectors = self.detectors.with_day(self.day, log_l, had)
        elif self.began:
            self._learn()
        self._take_today()
        if self.taken.any():
            self.days[self.day] = sparse(self.taken)
            self.taken = self.layout.empty()
        self.day += 1
        for old in [one for one in self.days if one < self.day - KEPT_DAYS]:
            del self.days[old]

    def _learn(self) -> None:
        """Add the day to the baseline, which may be whole then. [1]"""
        scored = int(self.today[SCORED])
        if scored:
            self.last = self.day
        elif self.last and self.day - self.last > _LONGEST_GAP:
            self._begin_baseline()
            return
        if self.day - self.began < FIRST_DAYS:
            return
        self.weekdays[self.day % 7] += self.today
        self.busy += scored > 0
        is_long = self.day + 1 - self.began >= FIRST_DAYS + BASELINE_DAYS
        is_full = self.busy >= _BUSY_DAYS and self.baseline[SCORED] >= BASELINE_PATIENTS
        if is_long and is_full:
            self.rates = Rates(self.layout, self.weekdays, self.log_weight)
            self.detectors = Detectors.of(len(self.rates.all))

    def to_state(self) -> dict[str, Any]:
        """Return as JSON all but the days' counts."""
        return {
            **{
                "name": self.name,
                "place": self.place,
                "day": self.day,
                "taken": sparse(self.taken),
            },
            "baseline": [self.began, self.busy, self.last],
            "weekdays": [sparse(one) for one in self.weekdays],
            "detectors": None if self.detectors is None else self.detectors.to_state(),
        }

    def take_state(self, state: dict[str, Any]) -> None:
        """Become what ``to_state`` returned of a series of the same study."""
        self.day, self.taken = int(state["day"]), self._dense(state["taken"])
        self.began, self.busy, self.last = state["baseline"]
        self.weekdays = np.stack([self._dense(one) for one in state["weekdays"]])
        if state["detectors"] is not None:
            self.rates = Rates(self.layout, self.weekdays, self.log_weight)
            self.detectors = Detectors.from_state(state["detectors"])

    def take_day(self, day: int, counts: Sparse) -> None:
        """Take all counts of one day, after the state was taken."""
        if day == self.day:
            self.today = self._dense(counts) - self.taken
        else:
            self.days[day] = counts

    def _dense(self, counts: Sparse) -> Counts:
        found = self.layout.empty()
        found[counts[0]] = counts[1]
        return found


def sparse(counts: Counts) -> Sparse:
    """Return counts as JSON: the places that are not 0, and how much is there."""
    places = np.flatnonzero(counts)
    return [places.tolist(), counts[places].tolist()]
