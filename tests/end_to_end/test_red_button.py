"""The red button under real agents: nothing leaves while it is pressed, and then all goes on."""

from __future__ import annotations

import time
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from flo.clients.home import SiteHome
from tests.end_to_end.agents import agent
from tests.end_to_end.running import WIDE, launch, wait_for
from tests.server.stage import flo, serving

pytestmark = pytest.mark.slow


def rows(home: SiteHome) -> int:
    with closing(home.ledger()) as ledger:
        return ledger.head().sequence


@pytest.mark.parametrize("model", [None, WIDE], ids=["small", "large"])
def test_a_run_waits_for_whoever_pressed_it_and_ends_well(
    tmp_path: Path, model: dict[str, object] | None
) -> None:
    with ExitStack() as stack:
        coordinator = stack.enter_context(serving(tmp_path / "home"))
        sites = [coordinator.enrol(tmp_path / name, name) for name in ("north", "south", "west")]
        for site in sites:
            stack.enter_context(agent(site))
        home = coordinator.home.directory
        digest = launch(
            coordinator, sites, "distributed noise", deadline=3, steps=20, epsilon=0.5,
            model=model,
        )  # fmt: skip
        wait_for(lambda s: any(e["kind"] == "round" for e in s["events"]), home, digest)
        assert flo("site", "stop", "--home", sites[1].directory).returncode == 0
        stopped = rows(sites[1])
        wait_for(lambda s: any(e["kind"] == "paused" for e in s["events"]), home, digest)
        time.sleep(2)
        assert rows(sites[1]) == stopped
        assert flo("site", "resume", "--home", sites[1].directory).returncode == 0
        summary = wait_for(lambda s: s["status"] == "done", home, digest)
        assert summary["result"]["rounds"] == 20
