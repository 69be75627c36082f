"""How much memory coordinator and agents hold, round after round.

python -m tests.faults.soak [ROUNDS]
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
import time
from pathlib import Path

from flo.server.flower.superexec import SERVERAPP
from tests.end_to_end.agents import agent
from tests.end_to_end.running import SITES, all_events, launch, rounds
from tests.faults.processes import processes
from tests.server.real_coordinator import RealCoordinator, new_home, served

_FIRST, _EVERY = 100, 200
_KINDS = {
    SERVERAPP: "ServerApp",
    "superexec_process": "superexec",
    "flo.clients.data_process.child": "data process",
    "flo.cli site run": "agent",
    '"coordinator", "serve"': "coordinator",
}


def memory(folder: Path) -> dict[str, float]:
    """MiB that are resident, by kind of process; agents and data processes: the largest."""
    found: dict[str, float] = {}
    for pid, command in processes(folder).items():
        kind = next((name for part, name in _KINDS.items() if part in command), None)
        with contextlib.suppress(OSError):
            pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
            if kind is not None:
                found[kind] = max(found.get(kind, 0.0), pages * 4096 / 2**20)
    return found


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    with tempfile.TemporaryDirectory() as place, contextlib.ExitStack() as stack:
        folder = Path(place)
        coordinator = stack.enter_context(served(RealCoordinator(new_home(folder / "coordinator"))))
        homes = [coordinator.enrol(folder / name, name) for name in SITES]
        digest = launch(coordinator, homes, "distributed noise", steps=count)
        for home in homes:
            stack.enter_context(agent(home))
        due, first = _FIRST, dict[str, float]()
        while due <= count:
            done = len(rounds(all_events(coordinator.home, digest)))
            if done < due:
                time.sleep(0.2)
                continue
            now = memory(folder)
            first = first or now
            held = ", ".join(
                f"{kind} {size:.1f} ({size / first.get(kind, size) - 1:+.1%})"
                for kind, size in sorted(now.items())
            )
            print(f"round {done}: MiB {held}", flush=True)  # noqa: T201
            due += _EVERY if due > _FIRST else _EVERY - _FIRST


if __name__ == "__main__":
    main()
