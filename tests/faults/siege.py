"""One hostile hospital against three honest ones: what it costs them, and the coordinator's memory.

    make bench-siege

First the rounds go on undisturbed for a tenth of the time; then ``tests.faults.hostile`` begins.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from flo.cli.coordinator.operator import Operator
from flo.clients.home.site_home import SiteHome
from tests.builders import small_study
from tests.end_to_end.agents import agent
from tests.end_to_end.running import SITES, all_events, launch
from tests.faults.soak import memory
from tests.server.real_coordinator import RealCoordinator, new_home, served

SECONDS = 600.0
_STEPS, _FIRST_ROUNDS, _LOOK_SECONDS = 10_000, 20, 0.5


@dataclass(frozen=True)
class Siege:
    """Seconds a round took, undisturbed and besieged; MiB that the coordinator held at most;
    attempts that failed meanwhile; what the hostile one did, and how it was answered.
    """

    before: list[float]
    during: list[float]
    idle: float
    most: float
    failed: int
    did: dict[str, int]

    @property
    def slower(self) -> float:
        return statistics.median(self.during) / statistics.median(self.before)

    @property
    def larger(self) -> float:
        return self.most / self.idle

    def __str__(self) -> str:
        def told(seconds: list[float]) -> str:
            return f"{len(seconds)}, median {statistics.median(seconds):.3f} s"

        lines = [
            f"rounds undisturbed    {told(self.before)}",
            f"rounds besieged       {told(self.during)}, longest {max(self.during):.1f} s",
            f"median, times as long {self.slower:.2f}",
            f"failed attempts       {self.failed}",
            f"coordinator, MiB      {self.idle:.0f} before, at most {self.most:.0f}",
            f"memory, times as much {self.larger:.2f}",
            *(f"  {name:45s} {count}" for name, count in sorted(self.did.items())),
        ]
        return "\n".join(lines)


def besiege(folder: Path, seconds: float) -> Siege:
    """Of a consortium of its own."""
    with contextlib.ExitStack() as stack:
        coordinator = stack.enter_context(served(RealCoordinator(new_home(folder / "coordinator"))))
        homes = [coordinator.enrol(folder / name, name) for name in SITES]
        hostile = coordinator.enrol(folder / "hostile", "hostile")
        digest = launch(coordinator, homes, "distributed noise", steps=_STEPS)
        for home in homes:
            stack.enter_context(agent(home))

        def rounds() -> list[float]:
            events = all_events(coordinator.home, digest)
            return [event["facts"]["seconds"] for event in events if event["kind"] == "round"]

        while len(rounds()) < _FIRST_ROUNDS:
            time.sleep(_LOOK_SECONDS)
        settled = len(rounds())
        time.sleep(seconds / 10)
        before, idle = rounds()[settled:], memory(folder)["coordinator"]
        begun, most = len(rounds()), idle
        with _attacking(hostile, coordinator, homes, seconds) as attacker:
            while attacker.poll() is None:
                most = max(most, memory(folder)["coordinator"])
                time.sleep(_LOOK_SECONDS)
            said, _ = attacker.communicate()
        events = all_events(coordinator.home, digest)
        failed = sum(event["kind"] == "attempt-failed" for event in events)
        return Siege(before, rounds()[begun:], idle, most, failed, json.loads(said))


def _attacking(
    hostile: SiteHome, coordinator: RealCoordinator, homes: list[SiteHome], seconds: float
) -> subprocess.Popen[bytes]:
    """The hostile hospital, with a study on offer that names it."""
    names = [hostile.read_config().hospital, *(home.read_config().hospital for home in homes[1:])]
    hospitals = [{"id": name, "declared_size": 40} for name in names]
    study = small_study(name="bait", hospitals=hospitals)
    with Operator(coordinator.home.directory) as operator:
        summary = operator.call("POST", "studies?on=here", body=study.canonical_bytes)
    offered = hostile.directory / "offered.json"
    offered.write_text(summary["study"])
    arguments = (hostile.directory, coordinator.port, offered, seconds)
    return subprocess.Popen(
        [sys.executable, "-m", "tests.faults.hostile", *map(str, arguments)],
        stdout=subprocess.PIPE,
    )


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else SECONDS
    with tempfile.TemporaryDirectory() as folder:
        print(besiege(Path(folder), seconds), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
