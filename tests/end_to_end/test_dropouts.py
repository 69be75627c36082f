"""Four real hospitals, one killed in one round after another: no attempt is thrown away."""

from __future__ import annotations

import contextlib
import random
import time
from pathlib import Path
from typing import Any

import pytest

from flo.clients.home.site_home import SiteHome
from tests.end_to_end.agents import agent, kill
from tests.end_to_end.running import WIDE, all_events, failed, launch, releases, rounds, wait_for
from tests.server.real_coordinator import serving

FOUR, LONGEST_WAIT = ("east", "north", "south", "west"), 120.0


def connections(site: SiteHome) -> int:
    """How often its agents have connected."""
    return (site.directory / "agent.txt").read_text().count(" connected\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "kills", "steps"), [(None, 6, 50), (WIDE, 3, 30)], ids=["small", "large"]
)
def test_of_four_hospitals_one_is_killed_in_one_round_after_another_and_no_attempt_is_lost(
    tmp_path: Path, model: dict[str, Any] | None, kills: int, steps: int
) -> None:
    chosen = random.Random()
    with serving(tmp_path / "coordinator") as coordinator, contextlib.ExitStack() as stack:
        sites = [coordinator.enrol(tmp_path / name, name) for name in FOUR]
        settings: dict[str, Any] = {
            "steps": steps,
            "retry_allowance": 0,
            "model": model,
            "schema": 4,
        }
        digest = launch(coordinator, sites, "distributed noise", **settings)
        running = [stack.enter_context(agent(site)) for site in sites]
        home = coordinator.home
        for _ in range(kills):
            done = len(rounds(all_events(home, digest)))
            end = time.monotonic() + LONGEST_WAIT
            while len(rounds(all_events(home, digest))) < done + 2 and time.monotonic() < end:
                time.sleep(0.02)  # all four are in the run again
            time.sleep(chosen.uniform(0, 0.2))
            which = chosen.randrange(len(sites))
            before = connections(sites[which])
            kill(running[which].pid)
            running[which] = stack.enter_context(agent(sites[which]))
            while connections(sites[which]) == before and time.monotonic() < end:
                time.sleep(0.02)
        wait_for(lambda found: found["status"] == "done", home.directory, digest, seconds=300)
    events = all_events(home, digest)
    assert rounds(events) == list(range(1, steps + 1))
    assert failed(events, sites[1]) == 0
    missing = sum(len(e["facts"]["cohort"]) < 4 for e in events if e["kind"] == "round")
    assert missing >= kills / 2, "kills struck rounds"
    for site in sites:  # opening a ledger checks its whole chain
        assert releases(site)["training"] <= steps
