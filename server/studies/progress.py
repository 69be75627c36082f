"""Progress of a study, computed from its events in order; no IO.

The console and ``flo study watch`` both show it. It contains no patient data, only: approvals,
cohorts, rounds, their duration, and the ε that the study's schedule has spent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from flo.documents.text import in_digits
from flo.privacy.accounting.plan import Plan
from flo.privacy.accounting.spending import first_releases, of_training, spent
from flo.study.document import Study

_NAMES = {"moments": "second moments"}
_DECLINED = {"refuse": "refused by its steward", "withdraw": "withdrawn by its steward"}


@dataclass
class HospitalProgress:
    """Progress of a hospital. ``releases``: at most, by purpose, before the evaluation."""

    status: str = "asked to approve"
    releases: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Round:
    """A completed round. ``retries``: failed attempts before it."""

    phase: str
    number: int
    cohort: tuple[str, ...]
    seconds: float
    time: str
    retries: int


@dataclass
class StudyProgress:
    """Progress of a study; ``apply`` adds an event. ``last``: number of the latest event."""

    study: Study
    hospitals: dict[str, HospitalProgress] = field(default_factory=dict)
    rounds: list[Round] = field(default_factory=list)
    now: str = "approvals"
    retries: int = 0
    approved: set[str] = field(default_factory=set)
    times: dict[str, str] = field(default_factory=dict)  # event kind -> time of its latest
    last: int = 0
    card_published: bool = False
    postponed: str = ""  # why its run waits, though everybody approved
    emitted: str = ""  # what its rounds used and emitted, estimated
    last_failure: str = ""  # why the last attempt failed; "" after a completed round
    _failed: int = 0

    def __post_init__(self) -> None:
        self.hospitals = {hospital.id: HospitalProgress() for hospital in self.study.hospitals}
        self._plan = Plan.of(self.study)
        self._paid = of_training(self._plan.purposes)  # whose ε is shown for each round

    @property
    def refused(self) -> int:
        """Number of hospitals whose steward refused or withdrew."""
        return sum(seat.status in _DECLINED.values() for seat in self.hospitals.values())

    @property
    def purpose(self) -> str:
        """What the rounds before the evaluation are for: training, a survey or statistics."""
        return self._paid[-1]

    @property
    def planned(self) -> int:
        """Planned rounds before the evaluation."""
        return sum(self._plan.purpose(purpose).planned for purpose in self._paid)

    @property
    def done(self) -> int:
        """Completed rounds before the evaluation."""
        return sum(1 for one in self.rounds if one.phase in self._paid)

    @property
    def budget(self) -> float:
        """ε of the rounds before the evaluation, as the study states it."""
        counted = self.study.survey or self.study.statistics or self.study.monitor
        if counted is not None:
            return counted.epsilon
        gate = self.study.gate if self.study.compares else None
        return gate.epsilon if gate else self.study.mechanism.epsilon

    def spent(self, hospital: str) -> float:
        """Return the ε that a hospital has spent before the evaluation, at most, by RDP."""
        return spent(self._plan.purposes, self.hospitals[hospital].releases, self._plan.delta)

    def spent_by_release(self, numbers: Sequence[int]) -> list[tuple[int, float]]:
        """Return the ε after so many releases, of the hospital that has spent most."""

        def paid(releases: dict[str, int]) -> float:
            return spent(self._plan.purposes, releases, self._plan.delta)

        most = max((seat.releases for seat in self.hospitals.values()), key=paid)
        return [
            (n, spent(self._plan.purposes, first_releases(most, n), self._plan.delta))
            for n in numbers
        ]

    @property
    def most_releases(self) -> int:
        """Releases before the evaluation of the hospital with the most of them."""
        return max((_total(seat.releases) for seat in self.hospitals.values()), default=0)

    @property
    def doing(self) -> str:
        """Current activity, in words."""
        if self.now != "rounds":
            return self.now
        for purpose in self._paid:
            planned = self._plan.purpose(purpose).planned
            done = sum(1 for one in self.rounds if one.phase == purpose)
            if done < planned:
                return f"{_NAMES.get(purpose, purpose)}, round {done + 1} of {planned}"
        made = {one.phase for one in self.rounds}
        return next((p for p in self._plan.purposes if p not in made), "being published")

    def apply(self, event: Mapping[str, Any]) -> None:
        """Add an event as ``flo.server.store`` returns it: number, time, kind, facts."""
        kind, facts = event["kind"], event["facts"]
        self.last = event["number"]
        self.times[kind] = event["time"]
        match kind:
            case "approved":
                self._say("approved", facts["hospital"])
                self.approved.add(facts["hospital"])
            case "declined":
                self._say(_DECLINED[facts["decision"]], facts["hospital"])
                if self.now == self.postponed:
                    self.now, self.postponed = "approvals", ""
                self.approved.discard(facts["hospital"])
            case "postponed":
                until = datetime.fromisoformat(facts["until"])
                self.now = self.postponed = (
                    f"waiting for cleaner electricity until {until:%A %H:%M} UTC, expected to save "
                    f"{facts['saves']:.0%}"
                )
            case "emitted":
                energy, grams = facts["kwh"] * 1000, facts["grams"]
                self.emitted = f"{in_digits(energy, 3)} Wh, {in_digits(grams, 3)} g of CO2"
            case "started" | "resumed":
                self.now = "waiting for hospitals"
            case "paused":
                self.now = f"paused: {facts.get('why', 'too few hospitals are connected')}"
            case "job-begun":
                self.now = f"job {facts['job']} is starting"
            case "job-over" | "failed":
                self.now = f"to be launched again: {facts['why']}"
            case "online":
                self.now = "rounds"
                self._say("online", *facts["hospitals"])
            case "round":
                self._round(facts, event["time"])
            case "attempt-failed":
                self._attempt_failed(facts)
            case "excluded":
                self._say("excluded", facts["hospital"])
            case "refused":
                self._say(f"refused: {facts['code']}", facts["hospital"])
            case "extract":
                self._say("ledger settled", facts["hospital"])
            case "published" | "no-card":
                self.card_published = True

    def _say(self, word: str, *hospitals: str) -> None:
        for hospital in hospitals:
            if hospital in self.hospitals:  # a remote job may name unknown ones
                self.hospitals[hospital].status = word

    def _count(self, phase: str, cohort: Sequence[str]) -> None:
        if phase not in self._paid:
            return
        for hospital in cohort:
            if hospital in self.hospitals:
                made = self.hospitals[hospital].releases
                made[phase] = made.get(phase, 0) + 1

    def _round(self, facts: Mapping[str, Any], time: str) -> None:
        phase, cohort = facts["phase"], facts["cohort"]
        self.rounds.append(
            Round(
                phase, facts["round"], tuple(cohort), facts["seconds"], time, retries=self._failed
            )
        )
        self._failed, self.now, self.last_failure = 0, "rounds", ""
        words = {
            "moments": "sent second moments",
            "training": f"round {facts['round']}",
            "survey": "counted",
            "statistics": "counted",
            "regression": f"regression round {facts['round']}",
            "gate": "compared",
            "monitor": "counted",
        }
        self._say(words.get(phase, "evaluated"), *cohort)
        self._count(phase, cohort)

    def _attempt_failed(self, facts: Mapping[str, Any]) -> None:
        """Add a failed attempt; with distributed noise, count a release of the whole cohort.

        This is an upper bound: a hospital pays only if it answered, in time or late.
        """
        self.retries += 1
        self._failed += 1
        missing = ", ".join(facts["missing"]) or "none"
        self.last_failure = f"round {facts['round']}: {facts['why']} (missing: {missing})"
        self._say(f"missing in round {facts['round']}", *facts["missing"])
        if self.study.mechanism.noise == "distributed":
            self._count(facts["phase"], facts["cohort"])


def _total(releases: Mapping[str, int]) -> int:
    return sum(releases.values())
