"""One schedule after another on one federation, and a table of what came of it."""

from __future__ import annotations

import heapq
import itertools
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flo.server.flower.superexec import SERVERAPP
from tests.end_to_end.running import all_events
from tests.faults import clocks
from tests.faults.federation import MODES, Federation
from tests.faults.invariants import OVER, violations
from tests.faults.processes import processes
from tests.faults.schedule import CLOCK_DRIFT, CLOCK_STEP, DISK_FULL, KINDS, Fault, schedule

LONGEST_SECONDS = 120.0  # from the launch; the faults are over after eight or nine
_SHOWN = ("phase", "round", "attempt", "cohort", "missing", "why", "hospital", "code", "floor")
_LOOK_SECONDS, _ENDING_SECONDS, _A_FEDERATION = 0.1, 60.0, 50


@dataclass(frozen=True)
class Outcome:
    """``seconds``: from launch to the end of the run. ``retries``: attempts thrown away."""

    seed: int
    mode: str
    faults: list[Fault]
    status: str
    seconds: float
    retries: int
    wrong: list[str]
    story: list[str]

    def __str__(self) -> str:
        faults = "; ".join(f"{fault.kind} {fault.whom}" for fault in self.faults)
        verdict = "; ".join(self.wrong) or "ok"
        return (
            f"{self.seed:5d}  {self.mode:17s} {self.status:8s} {self.seconds:5.1f} s  "
            f"{self.retries} retries  {verdict}   [{faults}]"
        )


def run(federation: Federation, seed: int, faults: list[Fault]) -> Outcome:
    mode = MODES[seed % len(MODES)]
    digest = federation.launch(mode)
    began, began_at = time.monotonic(), datetime.now(UTC)
    strike(federation, faults, lambda: federation.status(digest) in OVER, began)
    while federation.status(digest) not in OVER and time.monotonic() < began + LONGEST_SECONDS:
        time.sleep(_LOOK_SECONDS)
    status, seconds = federation.status(digest), time.monotonic() - began
    wrong = violations(federation, digest) + _orphans(federation)
    events = all_events(federation.home, digest)
    retries = sum(event["kind"] == "attempt-failed" for event in events)
    masks = "no masks" if mode["masking"] == "off" else f"{mode.get('noise', 'local')} noise"
    story = told(faults, events, began_at)
    return Outcome(seed, masks, faults, status, seconds, retries, wrong, story)


def told(faults: list[Fault], events: list[dict[str, Any]], began: datetime) -> list[str]:
    """Faults and what the coordinator noted of the study, by seconds since the launch."""
    lines = [(fault.at, f"** {fault}") for fault in faults]
    for event in events:
        at = (datetime.fromisoformat(event["time"]) - began).total_seconds()
        if at >= 0:
            shown = {k: v for k, v in event["facts"].items() if k in _SHOWN}
            lines.append((at, f"   {at:4.1f} s  {event['kind']} {shown or ''}"))
    return [line for _, line in sorted(lines)]


def strike(
    federation: Federation, faults: list[Fault], over: Callable[[], bool], began: float
) -> None:
    """Every fault at its time, and the end of each; those that come after the run are left out."""
    order = itertools.count()
    due: list[tuple[float, int, Fault | Callable[[], None]]] = [
        (fault.at, next(order), fault) for fault in faults
    ]
    heapq.heapify(due)
    while due:
        at, _, what = heapq.heappop(due)
        while time.monotonic() < began + at:
            time.sleep(0.01)
        if not isinstance(what, Fault):
            what()
        elif not over():
            ends = federation.strike(what)
            if ends is not None:
                heapq.heappush(due, (at + what.seconds, next(order), ends))


def _orphans(federation: Federation) -> list[str]:
    """Processes beyond the coordinator, its SuperExec, agents and their data processes."""
    end = time.monotonic() + _ENDING_SECONDS
    while True:
        lines = processes(federation.folder).values()
        left = [line for line in lines if line.startswith(SERVERAPP)]
        left += ["two of one" for count in _doubles(federation.folder).values() if count > 1]
        if not left or time.monotonic() > end:
            return [f"still running: {line[:120]}" for line in left]
        time.sleep(_LOOK_SECONDS)


def _doubles(folder: Path) -> Counter[str]:
    kinds = (
        "coordinator serve",
        "superexec_process",
        "faulty_agent",
        "flo.clients.data_process.child",
    )
    lines = processes(folder).values()
    return Counter(line for line in lines if any(kind in line for kind in kinds))


def run_many(folder: Path, seeds: Sequence[int], say: Callable[[str], None]) -> list[Outcome]:
    """A new federation every fifty schedules. Raises AssertionError if a process outlives one."""
    outcomes: list[Outcome] = []
    kinds = possible_kinds(say)
    for start in range(0, len(seeds), _A_FEDERATION):
        place = folder / f"federation-{start}"
        with Federation.running(place, disks=DISK_FULL in kinds) as federation:
            say(f"clocks ahead by, in seconds: {federation.clocks}")
            for seed in seeds[start : start + _A_FEDERATION]:
                outcomes.append(run(federation, seed, schedule(seed, federation.members, kinds)))
                say(str(outcomes[-1]))
        assert not federation.outlived, f"outlived the federation: {federation.outlived}"
    return outcomes


def possible_kinds(say: Callable[[str], None]) -> list[str]:
    """The faults that can be made here; what is left out, and why, is said."""
    kinds = set(KINDS)
    if os.geteuid() != 0:
        kinds.discard(DISK_FULL)
        say("no full disks: only root can make file systems")
    if not clocks.can_be_wrong():
        kinds -= {CLOCK_STEP, CLOCK_DRIFT}
        say("no wrong clocks: they need a C compiler (apt-get install gcc)")
    return sorted(kinds)
