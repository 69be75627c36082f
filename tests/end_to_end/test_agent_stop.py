"""SIGTERM: an agent ends at once, tidily, and leaves nothing behind; then another may start."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from flo.clients.home.site_home import SiteHome
from tests.end_to_end.agents import agent
from tests.faults.processes import processes
from tests.server.real_coordinator import serving

pytestmark = pytest.mark.processes


def said(home: SiteHome, what: str) -> None:
    end = time.monotonic() + 60
    while what not in (home.directory / "agent.txt").read_text():
        assert time.monotonic() < end, (home.directory / "agent.txt").read_text()
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_agent_stops_when_it_is_told_to_and_can_be_started_again(
    tmp_path: Path, number: signal.Signals
) -> None:
    with serving(tmp_path / "coordinator") as coordinator:
        home = coordinator.enrol(tmp_path / "north", "north")
        for _ in range(2):
            (home.directory / "agent.txt").write_text("")
            with agent(home) as process:
                said(home, "connected")  # it now waits for a request, for twenty seconds at a time
                process.send_signal(number)
                assert process.wait(timeout=10) == 0
            assert "stopped" in (home.directory / "agent.txt").read_text()
            assert processes(home.directory) == {}  # the process that holds patients is gone, too
            with home.agent_lock():
                pass
