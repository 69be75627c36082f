"""Least squares among real agents: one exchange makes the model."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest

from flo.study.loading import from_canonical
from tests.end_to_end.agents import agent
from tests.end_to_end.running import SITES, all_events, launch, releases, rounds, wait_for
from tests.server.real_coordinator import RealCoordinator, new_home, served

ONE_ROUND: dict[str, Any] = {
    **{"algorithm": "least-squares", "steps": 1},
    **{"learning_rate": 0.0, "momentum": 0.0},
}


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["no masks", "distributed noise"])
def test_a_model_is_published_after_one_noisy_sum(tmp_path: Path, mode: str) -> None:
    with (
        served(RealCoordinator(new_home(tmp_path / "coordinator"))) as coordinator,
        contextlib.ExitStack() as stack,
    ):
        homes = [coordinator.enrol(tmp_path / name, name) for name in SITES]
        digest = launch(coordinator, homes, mode, **ONE_ROUND)
        for home in homes:
            stack.enter_context(agent(home))
        ended = wait_for(lambda now: now["status"] == "done", coordinator.home.directory, digest)
        assert from_canonical(ended["study"].encode()).mechanism.algorithm == "least-squares"
        assert rounds(all_events(coordinator.home, digest)) == [1]
        assert ended["result"]["rounds"] == 1
        assert ended["result"]["estimate"] is not None
        for home in homes:
            assert releases(home) == {"training": 1, "evaluation": 1}
