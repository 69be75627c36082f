"""A study's progress on the screen: approvals, rounds, ε spent against the budget per hospital."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from rich.console import Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from flo.cli.screen import console, plain
from flo.privacy.accounting import epsilon_of
from flo.privacy.plan import Plan
from flo.study import Study

_POLL_SECONDS = 0.2
_BAR = 16
_LONGEST = 120  # characters of a reason


class StudyProgress:
    """A live view fed with the coordinator's events."""

    def __init__(self, study: Study) -> None:
        self._study, self._plan = study, Plan.of(study)
        self._done = {hospital.id: 0 for hospital in study.hospitals}
        self._state = {hospital.id: "asked to approve" for hospital in study.hospitals}
        self._seconds: list[float] = []
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        self._task = self._progress.add_task("approvals", total=len(study.hospitals))
        self._live = Live(console=console(error=True), refresh_per_second=8)

    def __enter__(self) -> StudyProgress:
        self._live.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._live.__exit__(kind, error, traceback)
        console(error=True).print()

    @property
    def seconds(self) -> list[float]:
        """Seconds of each training round so far."""
        return self._seconds

    def follow(self, ask: Callable[[int], dict[str, Any]]) -> dict[str, Any]:
        """Poll ``ask(after)`` until the study has ended and its model, if any, has its card."""
        last, carded = 0, False
        while True:
            summary = ask(last)
            for event in summary["events"]:
                last = event["number"]
                carded |= event["kind"] in ("published", "no-card")
                self._take(event["kind"], event["facts"])
            self._live.update(self._view(), refresh=True)
            over = summary["status"] in ("done", "stopped", "ended") and not summary["events"]
            if over and (carded or "model" not in (summary["result"] or {})):
                return summary
            time.sleep(_POLL_SECONDS)

    def _take(self, kind: str, facts: dict[str, Any]) -> None:
        if kind == "approved":
            self._state[facts["hospital"]] = "approved"
            self._progress.advance(self._task)
        elif kind == "started":
            planned = next(iter(self._plan.parts.values())).planned
            self._progress.update(
                self._task, description="waiting for sites", total=planned, completed=0
            )
        elif kind == "paused":
            why = str(facts.get("why", "too few sites are there"))
            self._progress.update(self._task, description=f"paused: {plain(why)[:_LONGEST]}")
        elif kind == "job-begun":
            self._progress.update(self._task, description=f"job {facts['job']} is starting")
        elif kind in ("job-over", "failed"):
            why = plain(str(facts["why"]))[:_LONGEST]
            self._progress.update(self._task, description=f"another job follows: {why}")
        elif kind == "online":
            self._progress.update(self._task, description="rounds")
            for hospital in facts["hospitals"]:
                self._state[hospital] = "online"
        elif kind == "round" and facts["phase"] == "training":
            self._progress.update(self._task, completed=facts["round"])
            self._seconds.append(facts["seconds"])
            for hospital in facts["cohort"]:
                self._done[hospital] += 1
                self._state[hospital] = f"round {facts['round']}"
        elif kind == "round" and facts["phase"] == "survey":
            self._progress.update(self._task, completed=1)
            for hospital in facts["cohort"]:
                self._done[hospital] += 1
                self._state[hospital] = "counted"
        elif kind == "round":
            self._state.update(dict.fromkeys(facts["cohort"], "evaluated"))
        elif kind == "declined":
            words = {"refuse": "refused by its steward", "withdraw": "withdrawn by its steward"}
            self._state[facts["hospital"]] = words[facts["decision"]]
        elif kind == "attempt-failed":
            self._take_failed(facts)
        elif kind == "excluded":
            self._state[facts["hospital"]] = "excluded"
        elif kind == "refused":
            self._state[facts["hospital"]] = f"refused: {plain(str(facts['code']))}"
        elif kind == "extract":
            self._state[facts["hospital"]] = "ledger settled"

    def _take_failed(self, facts: dict[str, Any]) -> None:
        """An attempt was thrown away; with distributed noise whoever answered paid for it."""
        for hospital in facts["missing"]:
            self._state[hospital] = f"missing in round {facts['round']}"
        if self._study.mechanism.noise == "distributed" and facts["phase"] in (
            "training",
            "survey",
        ):
            for hospital in set(facts["cohort"]) - set(facts["missing"]):
                self._done[hospital] += 1

    def _view(self) -> Group:
        purpose, part = next(iter(self._plan.parts.items()))
        table = Table("hospital", "state", f"ε spent in {purpose}", "of", "", box=None)
        budget = getattr(self._study, "survey" if purpose == "survey" else "mechanism").epsilon
        for hospital, done in self._done.items():
            spent = epsilon_of(part.mechanism, done, part.delta)
            filled = min(_BAR, round(_BAR * spent / budget))
            bar = "█" * filled + "░" * (_BAR - filled)
            table.add_row(hospital, self._state[hospital], f"{spent:.3f}", f"{budget:g}", bar)
        return Group(self._progress, table)
