"""A site that releases nothing for a while, under real agents: nothing leaves, then all goes on."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from flo.clients.home.site_home import SiteHome
from tests.commands import flo
from tests.end_to_end.agents import agent
from tests.end_to_end.running import WIDE, launch, wait_for
from tests.server.real_coordinator import serving

pytestmark = pytest.mark.slow


def presses_the_button(home: SiteHome) -> None:
    assert flo("site", "stop", "--home", home.directory).returncode == 0


def lets_it_go_on(home: SiteHome) -> None:
    assert flo("site", "resume", "--home", home.directory).returncode == 0


def edits_the_policy(home: SiteHome) -> None:
    path = home.directory / "policy.toml"
    path.write_text(path.read_text() + "\nmasking_required = true\n")


def signs_it(home: SiteHome) -> None:
    assert flo("site", "policy", "--sign", "--home", home.directory).returncode == 0


def rows(home: SiteHome) -> int:
    with closing(home.open_ledger()) as ledger:
        return ledger.head().sequence


@pytest.mark.parametrize(
    ("stops", "goes_on", "model"),
    [
        pytest.param(presses_the_button, lets_it_go_on, None, id="button"),
        pytest.param(presses_the_button, lets_it_go_on, WIDE, id="button, large model"),
        pytest.param(edits_the_policy, signs_it, None, id="an unsigned policy"),
    ],
)
def test_a_run_waits_for_whoever_releases_nothing_now_and_ends_well(
    tmp_path: Path,
    stops: Callable[[SiteHome], None],
    goes_on: Callable[[SiteHome], None],
    model: dict[str, object] | None,
) -> None:
    with ExitStack() as stack:
        coordinator = stack.enter_context(serving(tmp_path / "home"))
        sites = [coordinator.enrol(tmp_path / name, name) for name in ("north", "south", "west")]
        for site in sites:
            stack.enter_context(agent(site))
        home, mode = coordinator.home.directory, "distributed noise"
        digest = launch(coordinator, sites, mode, deadline=3, steps=40, epsilon=0.5, model=model)
        wait_for(lambda s: any(e["kind"] == "round" for e in s["events"]), home, digest)
        stops(sites[1])
        time.sleep(0.5)  # an edited policy is seen at the next message
        stopped = rows(sites[1])
        wait_for(lambda s: any(e["kind"] == "paused" for e in s["events"]), home, digest)
        time.sleep(2)
        assert rows(sites[1]) == stopped
        goes_on(sites[1])
        summary = wait_for(lambda s: s["status"] == "done", home, digest)
        assert summary["result"]["rounds"] == 40
