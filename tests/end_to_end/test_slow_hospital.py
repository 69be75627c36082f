"""A hospital whose machine stood still for some seconds: that round waits, and no other does."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.agents import agent
from tests.end_to_end.running import SITES, WIDE, all_events, failed, launch, rounds, wait_for
from tests.server.real_coordinator import serving

DEADLINE, STILL = 10.0, 6.5  # after half the deadline a hospital is asked again


@pytest.mark.slow
def test_a_hospital_that_is_asked_twice_hears_the_next_round_at_once(tmp_path: Path) -> None:
    with serving(tmp_path / "coordinator") as coordinator, contextlib.ExitStack() as stack:
        sites = [coordinator.enrol(tmp_path / name, name) for name in SITES]
        steps = 12
        settings: dict[str, Any] = {"steps": steps, "retry_allowance": 0}
        digest = launch(
            coordinator, sites, "distributed noise", deadline=DEADLINE, model=WIDE, **settings
        )
        home = coordinator.home
        running = [stack.enter_context(agent(site)) for site in sites]
        for _ in range(2):
            done, end = len(rounds(all_events(home, digest))), time.monotonic() + 60
            while len(rounds(all_events(home, digest))) < done + 2 and time.monotonic() < end:
                time.sleep(0.01)
            os.killpg(running[0].pid, signal.SIGSTOP)
            time.sleep(STILL)
            os.killpg(running[0].pid, signal.SIGCONT)
        wait_for(lambda found: found["status"] == "done", home.directory, digest, seconds=120)
    events = all_events(home, digest)
    assert rounds(events) == list(range(1, steps + 1))
    assert failed(events, sites[0]) == 0
    facts = [event["facts"] for event in events if event["kind"] == "round"]
    # The first round is not among them, nor is the evaluation's: they load what others do not need.
    seconds = sorted(one["seconds"] for one in facts[1:] if one["phase"] == "training")
    assert seconds[-2] > STILL / 2, "both stops struck a round"
    assert seconds[-3] < STILL / 2, "no other round waited"
