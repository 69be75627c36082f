"""Do the stated risks still hold? Monitors of outcomes against the risks of the published card.

A patient with a stated risk p has the outcome with a probability whose odds are within a factor of
``TOLERATED`` of those of p: this is what counts as unchanged, of all patients of a *group*, given
all before. So a monitor needs no baseline from this hospital. The factor of a patient's outcome
is that of ``flo.scores.change_detector``, with the limit that the patient's own risk gives: for
"more outcomes than stated", p with ``TOLERATED`` times its odds; for "fewer", 1 - p.

    1. patients count by the day of their answer, on the day when the follow-up of all of that day
       is over and each outcome is known, or ``GRACE_DAYS`` later;
    2. an outcome that is unknown then counts as none against "more", and as one against "fewer". So
       the factors are never above those of the true outcomes, whoever is not reported;
    3. groups: all patients; a third of the stated risks; each group whose fairness the study
       states; each ward.

``late``: the share of days of answers of which more than half is not known ``LATE_DAYS`` after the
follow-up. Its baseline is the first ``_BASELINE`` such days.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flo.arrays import Floats
from flo.clients.watching.series import KEPT_DAYS, Detectors
from flo.scores.change_detector import log_factors, log_period, times_odds, upper_limit

TOLERATED = 1.25  # times the odds
FACTORS = np.array([1.2, 1.6, 2.5, 8.0])  # alternatives, beyond what is tolerated
GRACE_DAYS, LATE_DAYS = 30, 7
ALL = "all patients"
_BASELINE = 60  # days
_LATE_TOLERATED, _LATE_MISSED = 1.5, 0.001
_LEAST = 1e-6


def log_outcomes(risks: Floats, had: Floats, had_not: Floats) -> Floats:
    """Return log L of patients with stated risks (n,), who had the outcome or had it not, 0 or 1
    (n,); both are 0 if it is not known.

    Shape (2, alternatives): more outcomes than stated, and fewer.
    """
    found = []
    p = np.clip(risks, _LEAST, 1 - _LEAST)
    for rate, hits in ((p, had), (1 - p, had_not)):
        of_hit, of_miss = log_factors(times_odds(rate, TOLERATED), FACTORS)
        found.append((hits[:, None] * of_hit + (1 - hits)[:, None] * of_miss).sum(axis=0))
    return np.stack(found)


@dataclass(frozen=True)
class Kept:
    """A patient with a stated risk whose answer is kept until the outcome was counted.

    ``groups``: that the patient counts for. ``outcome``: None if it is not known; ``reported``: the
    day on which it was.
    """

    groups: tuple[str, ...]
    risk: float
    outcome: bool | None = None
    reported: int = 0


@dataclass(frozen=True)
class Outcomes:
    """Of a group: patients whose outcome is ``known``; ``had``: who came to have it; ``stated``:
    sum of their risks."""

    known: int = 0
    had: int = 0
    stated: float = 0.0

    def plus(self, other: Outcomes) -> Outcomes:
        """Return both together."""
        return Outcomes(self.known + other.known, self.had + other.had, self.stated + other.stated)

    def minus(self, part: Outcomes) -> Outcomes:
        """Return those without a part of them."""
        return Outcomes(self.known - part.known, self.had - part.had, self.stated - part.stated)

    @property
    def deviations(self) -> float:
        """How many standard deviations there are more outcomes than stated."""
        if self.known <= 0 or not 0 < self.stated < self.known:
            return 0.0
        variance = self.stated * (1 - self.stated / self.known)
        return float((self.had - self.stated) / math.sqrt(variance))


class OutcomeWatch:
    """Detectors of the outcomes of a model's patients, by group.

    ``groups``: that the study gives, with the logarithm of the weight of each; wards are added as
    they are seen. Days are ordinals: of the day when outcomes were counted. ``late_log_weight``:
    of the monitor of late outcomes.
    """

    def __init__(self, groups: Mapping[str, float], late_log_weight: float) -> None:
        self.log_weights, self.late_log_weight = dict(groups), late_log_weight
        self.day = self.next_day = self.next_late = self.follow_up = 0
        self._detectors = {group: Detectors.of(2, len(FACTORS)) for group in groups}
        self._today = dict[str, Floats]()  # log L
        self.days = dict[int, dict[str, Outcomes]]()
        self._late, self._due_today, self._late_today = Detectors.of(1), 0, 0
        self._late_baseline = [0, 0]  # late, due

    def add_group(self, group: str, log_weight: float) -> None:
        """Watch another group from now on."""
        self.log_weights[group] = log_weight
        self._detectors[group] = Detectors.of(2, len(FACTORS))

    def take(
        self,
        today: int,
        follow_up: int,
        of_day: Callable[[int], Sequence[Kept]],
        unknown: Callable[[int], int],
    ) -> None:
        """Count the outcomes of all days of answers that are due. [1], [2]

        ``next_day``, ``next_late``: days of answers that are counted next. ``of_day``: returns what
        is kept of a day; ``unknown``: of how many of them the outcome is not known.
        """
        self.begin(today)
        if follow_up != self.follow_up:
            self.follow_up = follow_up
            self.restart_late(anew=True)
        while self.next_day + follow_up < today:
            is_over = today > self.next_day + follow_up + GRACE_DAYS
            if not is_over and unknown(self.next_day):
                break
            rows = of_day(self.next_day)
            for group in self._detectors:
                self.count(today, group, [one for one in rows if group in one.groups])
            self.next_day += 1
        while self.next_late + follow_up + LATE_DAYS < today:
            last = self.next_late + follow_up + LATE_DAYS
            rows = of_day(self.next_late)
            in_time = sum(one.outcome is not None and one.reported <= last for one in rows)
            self._due_today += bool(rows)
            self._late_today += 2 * in_time < len(rows)
            self.next_late += 1

    def forget_group(self, group: str) -> None:
        """Watch a group no more."""
        for of in (self.log_weights, self._detectors, self._today):
            of.pop(group, None)

    def count(self, day: int, group: str, several: Sequence[Kept]) -> None:
        """Count outcomes of a group's patients, of which none was counted before."""
        if not several:
            return
        self.begin(day)
        risks = np.array([one.risk for one in several])
        had, had_not = (
            np.array([one.outcome is what for one in several], dtype=float)
            for what in (True, False)
        )
        before = self._today.get(group, np.zeros((2, len(FACTORS))))
        self._today[group] = before + log_outcomes(risks, had, had_not)
        known = had + had_not
        added = Outcomes(int(known.sum()), int(had.sum()), float(known @ risks))
        of_day = self.days.setdefault(day, {})
        of_day[group] = of_day.get(group, Outcomes()).plus(added)

    def begin(self, day: int) -> None:
        """Close all days before this one."""
        self.day = self.day or day
        while self.day < day:
            self._detectors = {group: self._of(group) for group in self._detectors}
            self._today.clear()
            if self._late_baseline[1] < _BASELINE:
                self._late_baseline[0] += self._late_today
                self._late_baseline[1] += self._due_today
            else:
                self._late = self._late_now()
            self._due_today = self._late_today = 0
            self.day += 1
        for old in [one for one in self.days if one < day - KEPT_DAYS]:
            del self.days[old]

    def now(self) -> dict[str, Detectors]:
        """Return each group's detectors with today's outcomes: more than stated, and fewer."""
        return {group: self._of(group) for group in self._detectors}

    def late(self) -> Detectors | None:
        """Return the detector of late outcomes; None while its baseline is counted."""
        return None if self._late_baseline[1] < _BASELINE else self._late_now()

    def since(self, day: int, group: str) -> Outcomes:
        """Return the sum of a group's outcomes that were counted from a day on."""
        found = Outcomes()
        for one, groups in self.days.items():
            if one >= day and group in groups:
                found = found.plus(groups[group])
        return found

    def restart(self, group: str) -> None:
        """Let a group's detectors begin anew."""
        self._detectors[group] = Detectors.of(2, len(FACTORS))
        self._today.pop(group, None)

    def restart_late(self, *, anew: bool) -> None:
        """Let the monitor of late outcomes begin anew; ``anew``: its baseline, too."""
        self._late, self._due_today, self._late_today = Detectors.of(1), 0, 0
        if anew:
            self._late_baseline = [0, 0]

    def _of(self, group: str) -> Detectors:
        log_l = self._today.get(group)
        if log_l is None:
            return self._detectors[group]
        return self._detectors[group].with_day(self.day, log_l, np.ones(2, dtype=bool))

    def _late_now(self) -> Detectors:
        late, due = (np.array([float(one)]) for one in self._late_baseline)
        limit = upper_limit(late, due, _LATE_MISSED, _LATE_TOLERATED)
        hits, trials = np.array([self._late_today]), np.array([self._due_today])
        return self._late.with_day(self.day, log_period(hits, trials, limit), trials > 0)

    def to_state(self) -> dict[str, Any]:
        """Return all of it as JSON."""
        return {
            "days_of": [self.day, self.next_day, self.next_late, self.follow_up],
            "groups": [
                [group, log_weight, self._detectors[group].to_state()]
                for group, log_weight in self.log_weights.items()
            ],
            "today": {group: log_l.tolist() for group, log_l in self._today.items()},
            "days": {
                str(day): {group: [one.known, one.had, one.stated] for group, one in groups.items()}
                for day, groups in self.days.items()
            },
            "late": [self._late.to_state(), self._due_today, self._late_today],
            "late_baseline": self._late_baseline,
        }

    def take_state(self, state: Mapping[str, Any]) -> None:
        """Become what ``to_state`` returned."""
        self.day, self.next_day, self.next_late, self.follow_up = state["days_of"]
        for group, log_weight, detectors in state["groups"]:
            self.log_weights[group] = float(log_weight)
            self._detectors[group] = Detectors.from_state(detectors)
        self._today = {group: np.array(log_l) for group, log_l in state["today"].items()}
        self.days = {
            int(day): {group: Outcomes(*one) for group, one in groups.items()}
            for day, groups in state["days"].items()
        }
        detectors, self._due_today, self._late_today = state["late"]
        self._late, self._late_baseline = Detectors.from_state(detectors), state["late_baseline"]


def bands(cuts: Sequence[float]) -> list[str]:
    """Return the names of the groups of stated risks that two cuts give."""
    low, high = (f"{100 * cut:.0f} %" for cut in cuts)
    return [f"risks below {low}", f"risks of {low} to {high}", f"risks of {high} and more"]
