"""Site agents as real processes, each the leader of its own process group."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

from flo.clients.home.site_home import SiteHome
from tests.forked import Forked
from tests.server.real_coordinator import RealCoordinator

RUN = ("flo.cli", "site", "run", "-v", "--home")


@contextlib.contextmanager
def agent(home: SiteHome, *command: str, said: Path | None = None) -> Iterator[Forked]:
    """``python -m command HOME``, killed at the end.

    All that it and its child say goes to the file ``said``, which is in the site's folder if left
    out.
    """
    with (
        (said or home.directory / "agent.txt").open("ab") as log,
        Forked(*(command or RUN), str(home.directory), log=log, OMP_NUM_THREADS="1") as process,
    ):
        try:
            yield process
        finally:
            kill(process.pid)


@contextlib.contextmanager
def running_sites(coordinator: RealCoordinator, folder: Path) -> Iterator[list[SiteHome]]:
    """Three enrolled hospitals, each with its agent."""
    homes = [coordinator.enrol(folder / name, name) for name in ("north", "south", "west")]
    with contextlib.ExitStack() as stack:
        for home in homes:
            stack.enter_context(agent(home))
        yield homes


def kill(group: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
