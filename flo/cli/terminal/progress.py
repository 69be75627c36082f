"""Progress of a study on the screen: approvals, rounds, each hospital's spent ε and budget."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rich.console import Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from flo.cli.terminal.output import console, plain
from flo.server.studies.progress import StudyProgress
from flo.study.document import Study

_POLL_SECONDS = 0.2
_BAR = 16
_LONGEST = 120  # characters of a reason
OVER = ("done", "stopped", "ended")
"""Final statuses of a study."""


class ProgressScreen:
    """Live view of a study, updated from the coordinator's events."""

    def __init__(self, study: Study) -> None:
        self._study, self._following = study, StudyProgress(study)
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        self._task = self._progress.add_task("approvals", total=len(study.hospitals))
        self._live = Live(console=console(error=True), refresh_per_second=8)

    def __enter__(self) -> ProgressScreen:
        self._live.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.stop()
        console(error=True).print()

    @property
    def seconds(self) -> list[float]:
        """Seconds of each finished training round."""
        return [done.seconds for done in self._following.rounds if done.phase == "training"]

    @property
    def emitted(self) -> str:
        """What the rounds used and emitted, estimated; "" if the coordinator does not say."""
        return self._following.emitted

    def follow(self, ask: Callable[[int], dict[str, Any]]) -> dict[str, Any]:
        """Poll ``ask(after)`` until the study has ended and its model, if any, has a card."""
        following = self._following
        while True:
            summary = ask(following.last)
            for event in summary["events"]:
                following.apply(event)
            self._live.update(self._view(), refresh=True)
            over = summary["status"] in OVER and not summary["events"]
            if over and (following.card_published or "model" not in (summary["result"] or {})):
                return summary
            time.sleep(_POLL_SECONDS)

    def _view(self) -> Group:
        following = self._following
        waiting = following.now in ("approvals", following.postponed)
        self._progress.update(
            self._task,
            description=plain(following.now)[:_LONGEST],
            total=len(following.hospitals) if waiting else following.planned,
            completed=len(following.approved) if waiting else following.done,
        )
        table = Table("hospital", "state", f"ε spent in {following.purpose}", "of", "", box=None)
        for hospital, seat in following.hospitals.items():
            spent = following.spent(hospital)
            filled = min(_BAR, round(_BAR * spent / following.budget))
            bar = "█" * filled + "░" * (_BAR - filled)
            row = (plain(seat.status), f"{spent:.3f}", f"{following.budget:g}", bar)
            table.add_row(hospital, *row)
        return Group(self._progress, table)
