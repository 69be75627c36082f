"""kill -9 of the coordinator at random instants: it goes on by itself, to the very same model.

``FLO_KILL_POINTS=50 pytest -s tests/end_to_end/test_coordinator_kills.py`` kills more often, and
shows how long it took until the next round.
"""

from __future__ import annotations

import contextlib
import os
import statistics
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from flo.clients.home.site_home import SiteHome
from flo.storage.artifacts import LocalArtifacts
from tests.builders import make_site
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
from tests.server.real_coordinator import RealCoordinator, new_home, served

KEYED = "tests.end_to_end.keyed_agent"
LONGEST_LIFE = 5.0  # seconds between two kills: a start takes two of them
ROUNDS_A_LIFE = 15  # at most; a start and a kill let a few more end

pytestmark = pytest.mark.slow


@pytest.fixture
def sites(tmp_path: Path) -> list[SiteHome]:
    """Three hospitals."""
    return [make_site(tmp_path / name, name) for name in SITES]


@pytest.mark.parametrize("model", [None, WIDE], ids=["small", "large"])
def test_a_coordinator_that_is_killed_again_and_again_ends_in_the_undisturbed_model(
    tmp_path: Path, sites: list[SiteHome], model: dict[str, Any] | None
) -> None:
    """A large model starts from weights of its study, so two studies have no model in common."""
    points = int(os.environ.get("FLO_KILL_POINTS", "2" if model else "3"))
    home = new_home(tmp_path / "coordinator")
    steps = (points + 1) * (ROUNDS_A_LIFE + 5)
    with contextlib.ExitStack() as stack:
        coordinator = stack.enter_context(served(RealCoordinator(home)))
        for site in sites:
            coordinator.admit(site)
            stack.enter_context(agent(site, KEYED))

        def run(version: int) -> Any:
            """There is room for two studies of the same patients."""
            return launch(
                coordinator,
                sites,
                "distributed noise",
                steps=steps,
                version=version,
                epsilon=0.4,
                model=model,
            )

        def over(digest: str) -> Any:
            return wait_for(
                lambda found: found["status"] == "done", home.directory, digest, seconds=600
            )

        undisturbed = over(run(1))
        digest, kills, starts = run(2), 0, []
        while kills < points:
            live(home, digest, seconds=LONGEST_LIFE, most=ROUNDS_A_LIFE)
            kill(coordinator._process.pid)
            coordinator.stop()
            kills += 1
            starts.append(datetime.now(UTC))
            coordinator = RealCoordinator(home)
            stack.callback(coordinator.stop)
        summary = over(digest)
    events = all_events(home, digest)
    if model is None:
        assert summary["result"]["model_digest"] == undisturbed["result"]["model_digest"]
    assert LocalArtifacts(home.directory / "states").keys("") == []
    assert rounds(events) == list(range(1, steps + 1))
    assert failed(events, sites[0]) == 0  # no attempt was thrown away
    for site in sites:  # in both studies
        assert releases(site) == {"training": 2 * steps, "evaluation": 2}
    back = seconds_to_the_next_round(starts, events)
    print(  # noqa: T201 - the measured result, shown with -s
        f"{kills} kills; {len(back)} starts that got to a round, within "
        f"{statistics.median(back):.1f} s (median) and {max(back):.1f} s at most"
    )


def seconds_to_the_next_round(starts: list[datetime], events: list[dict[str, Any]]) -> list[float]:
    """From each start of the coordinator's process to the first round, if it lived that long.

    A round that ends before the run is resumed is the last of the process before.
    """
    found = []
    for start, next_start in pairwise([*starts, datetime.max.replace(tzinfo=UTC)]):
        resumed = False
        for event in events:
            time_ = datetime.fromisoformat(event["time"])
            if start < time_ < next_start:
                resumed |= event["kind"] == "resumed"
                if resumed and event["kind"] == "round":
                    found.append((time_ - start).total_seconds())
                    break
    return found
