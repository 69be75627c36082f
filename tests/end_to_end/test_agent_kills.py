"""kill -9 of an agent at random instants of a real run: it costs one retry each at most.

``FLO_KILL_POINTS=40 pytest -s tests/end_to_end/test_agent_kills.py`` kills more often. What one
site's ledger holds after kills at every instant is in ``test_kill``.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.agents import agent, kill
from tests.end_to_end.running import (
    SITES,
    WIDE,
    all_events,
    failed,
    launch,
    live,
    releases,
    rounds,
    wait_for,
)
from tests.server.real_coordinator import serving

LONGEST_LIFE, ROUNDS_A_LIFE = 3.0, 15


@pytest.mark.slow
@pytest.mark.parametrize("model", [None, WIDE], ids=["small", "large"])
def test_an_agent_that_is_killed_again_and_again_costs_a_retry_each_at_most(
    tmp_path: Path, model: dict[str, Any] | None
) -> None:
    points = int(os.environ.get("FLO_KILL_POINTS", "3"))
    steps = (points + 1) * (ROUNDS_A_LIFE + 5)
    with serving(tmp_path / "coordinator") as coordinator, contextlib.ExitStack() as stack:
        sites = [coordinator.enrol(tmp_path / name, name) for name in SITES]
        digest = launch(
            coordinator,
            sites,
            "distributed noise",
            steps=steps,
            retry_allowance=2 * points,
            model=model,
        )
        north, *_ = [stack.enter_context(agent(site)) for site in sites]
        home, kills = coordinator.home, 0
        while kills < points:
            live(home, digest, seconds=LONGEST_LIFE, most=ROUNDS_A_LIFE)
            kill(north.pid)
            kills += 1
            north = stack.enter_context(agent(sites[0]))
        wait_for(lambda found: found["status"] == "done", home.directory, digest, seconds=300)
    events = all_events(home, digest)
    retries = failed(events, sites[1])
    print(f"{kills} kills, {retries} retries, {steps} rounds")  # noqa: T201 - shown with -s
    assert rounds(events) == list(range(1, steps + 1))
    assert retries <= kills
    for site in sites:  # opening a ledger checks its whole chain
        made = releases(site)
        assert steps <= made["training"] <= steps + kills
        assert made["evaluation"] >= 1
