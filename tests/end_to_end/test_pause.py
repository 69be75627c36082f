"""Too few hospitals are there: the run waits, costs nothing, and goes on by itself; or is ended."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from flo.cli.coordinator.operator import Operator
from flo.clients.home.site_home import SiteHome
from tests.commands import flo
from tests.end_to_end.agents import agent, kill
from tests.end_to_end.running import SITES, failed, launch, releases, rounds, wait_for
from tests.server.real_coordinator import RealCoordinator, serving

STEPS = 40
pytestmark = pytest.mark.slow


@pytest.fixture
def coordinator(tmp_path: Path) -> Iterator[RealCoordinator]:
    with serving(tmp_path / "coordinator") as real:
        yield real


@pytest.fixture
def homes(coordinator: RealCoordinator, tmp_path: Path) -> list[SiteHome]:
    return [coordinator.enrol(tmp_path / name, name) for name in SITES]


def is_settled(home: SiteHome) -> bool:
    with closing(home.open_ledger()) as ledger:
        (held,) = ledger.balance().reservations.values()
        return bool(held.settled)


@contextlib.contextmanager
def paused(
    coordinator: RealCoordinator, homes: list[SiteHome]
) -> Iterator[tuple[str, contextlib.ExitStack, dict[str, Any]]]:
    """All three are needed and the north is killed after a few rounds."""
    with contextlib.ExitStack() as stack:
        digest = launch(coordinator, homes, "distributed noise", deadline=4, steps=STEPS)
        north, *_ = [stack.enter_context(agent(home)) for home in homes]
        folder = coordinator.home.directory
        wait_for(lambda found: len(rounds(found["events"])) >= 3, folder, digest)
        kill(north.pid)
        summary = wait_for(lambda found: found["status"] == "paused", folder, digest)
        assert not any(map(is_settled, homes))
        yield digest, stack, summary


def test_a_run_that_needs_a_hospital_waits_for_it_and_goes_on(
    coordinator: RealCoordinator, homes: list[SiteHome]
) -> None:
    folder = coordinator.home.directory
    with paused(coordinator, homes) as (digest, stack, summary):
        few = [event["facts"] for event in summary["events"] if event["kind"] == "too-few"]
        assert few[-1] == {"floor": 3, "there": ["south", "west"]}
        stack.enter_context(agent(homes[0]))
        summary = wait_for(lambda found: found["status"] == "done", folder, digest)
    assert rounds(summary["events"]) == list(range(1, STEPS + 1))
    retries = failed(summary["events"], homes[1])
    assert retries <= 1
    for home in homes[1:]:
        assert releases(home) == {"training": STEPS + retries, "evaluation": 1}
    assert releases(homes[0])["training"] <= STEPS + retries
    kinds = [event["kind"] for event in summary["events"]]
    assert kinds.index("paused") < kinds.index("resumed") < kinds.index("done")


def test_a_run_that_waits_is_ended_by_an_operator_and_what_did_not_run_is_free_again(
    coordinator: RealCoordinator, homes: list[SiteHome]
) -> None:
    folder = coordinator.home.directory
    with paused(coordinator, homes) as (digest, _, summary):
        done = flo("study", "stop", digest, "--yes", "--home", folder)
        assert done.returncode == 0, done.stderr
        summary = wait_for(lambda found: found["status"] == "stopped", folder, digest)
        wait_for(lambda _: all(map(is_settled, homes[1:])), folder, digest, seconds=30)
    assert 3 <= summary["result"]["rounds"] < STEPS
    assert Path(summary["result"]["model"]).is_file()


def test_a_run_that_waits_survives_the_coordinator(
    coordinator: RealCoordinator, homes: list[SiteHome]
) -> None:
    folder = coordinator.home.directory
    with paused(coordinator, homes) as (digest, stack, _):
        kill(coordinator._process.pid)
        coordinator.stop()  # another one may start once it has ended
        again = RealCoordinator(coordinator.home)
        stack.callback(again.stop)
        again.wait_until_ready()
        with Operator(folder) as operator:
            assert operator.call("GET", f"studies/{digest}")["status"] == "paused"
        stack.enter_context(agent(homes[0]))
        summary = wait_for(lambda found: found["status"] == "done", folder, digest)
    assert rounds(summary["events"]) == list(range(1, STEPS + 1))
