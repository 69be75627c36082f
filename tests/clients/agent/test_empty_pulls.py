"""A coordinator that answers every pull at once, with nothing, does not keep a hospital busy."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from flo.clients.agent.agent import Agent
from tests.builders import make_site


class Hasty:
    """The link to a coordinator that holds no call."""

    def __init__(self, working: Agent) -> None:
        self.working, self.pulls, self.end = working, 0, time.monotonic() + 1

    def pull(self) -> None:
        self.pulls += 1
        if time.monotonic() > self.end:
            self.working._stopping.set()


def test_an_agent_pulls_a_few_times_a_second_at_most(tmp_path: Path) -> None:
    working = Agent(make_site(tmp_path / "north"), "cpu")
    hasty: Any = Hasty(working)
    working._answer_forever(hasty, handler=None)  # type: ignore[arg-type]
    assert 2 <= hasty.pulls <= 8
