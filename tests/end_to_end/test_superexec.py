"""The process that launches ServerApps dies, or the whole machine stands still: studies go on."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from flo.clients.home.site_home import SiteHome
from flo.host.diagnostics import Finding
from flo.server.http.tokens import issue
from flo.server.maintenance import doctor
from tests.end_to_end.agents import running_sites
from tests.end_to_end.running import all_events, launch, rounds, wait_for
from tests.server.real_coordinator import RealCoordinator, new_home

pytestmark = pytest.mark.slow


@pytest.fixture
def coordinator(tmp_path: Path) -> Iterator[RealCoordinator]:
    started = RealCoordinator(new_home(tmp_path / "coordinator"))
    try:
        started.wait_until_ready()
        yield started
    finally:
        started.stop()


@pytest.fixture
def sites(coordinator: RealCoordinator, tmp_path: Path) -> Iterator[list[SiteHome]]:
    with running_sites(coordinator, tmp_path) as homes:
        yield homes


def superexec_of(coordinator: RealCoordinator) -> int:
    said = f"superexec_process.*{coordinator.home.directory}"
    found = subprocess.run(["pgrep", "-f", said], capture_output=True, text=True, check=True)
    return min(int(number) for number in found.stdout.split())


def under_way(coordinator: RealCoordinator, sites: list[SiteHome]) -> str:
    digest = launch(coordinator, sites, "no masks", steps=20, epsilon=0.3, retry_allowance=20)
    directory = coordinator.home.directory
    wait_for(lambda _: len(rounds(all_events(coordinator.home, digest))) > 3, directory, digest)
    return digest


def test_a_killed_superexec_is_started_again_and_the_study_ends_well(
    coordinator: RealCoordinator, sites: list[SiteHome]
) -> None:
    digest = under_way(coordinator, sites)
    before = superexec_of(coordinator)
    os.kill(before, signal.SIGKILL)
    wait_for(lambda study: study["status"] == "done", coordinator.home.directory, digest)
    assert superexec_of(coordinator) != before
    with closing(coordinator.home.open_store()) as store:
        told = [event for event in store.events_after(0) if event[2] == "process-restarted"]
    assert [event[4] for event in told] == [{"program": "superexec", "code": -9}]
    text, _ = issue(coordinator.home.open_identity(), "prometheus", "viewer", 60)
    headers = {"authorization": f"Bearer {text}"}
    answer = coordinator.private("GET", "/v1/flo/metrics", headers=headers)
    assert "\nflo_process_restarts 1\n" in answer.body.decode()


def test_a_study_goes_on_after_the_coordinator_stood_still(
    coordinator: RealCoordinator, sites: list[SiteHome]
) -> None:
    """As a machine does that is moved to another host. SuperExec waits for ten seconds."""
    digest = under_way(coordinator, sites)
    os.kill(coordinator.pid, signal.SIGSTOP)
    time.sleep(float(os.environ.get("FLO_STILL_SECONDS", "15")))
    os.kill(coordinator.pid, signal.SIGCONT)
    wait_for(lambda study: study["status"] == "done", coordinator.home.directory, digest)


def test_doctor_looks_at_the_process_and_a_frozen_one_is_replaced(
    coordinator: RealCoordinator, sites: list[SiteHome]
) -> None:
    before = superexec_of(coordinator)
    assert launcher(coordinator).state == "ok"
    os.kill(before, signal.SIGSTOP)
    deadline = time.monotonic() + 30  # a busy machine stops a process when its turn comes
    while "was stopped" not in launcher(coordinator).message:
        assert time.monotonic() < deadline, launcher(coordinator)
        time.sleep(0.05)
    digest = launch(coordinator, sites, "no masks", steps=3)
    wait_for(lambda study: study["status"] == "done", coordinator.home.directory, digest)
    assert superexec_of(coordinator) != before
    assert launcher(coordinator).state == "ok"


def launcher(coordinator: RealCoordinator) -> Finding:
    (found,) = [one for one in doctor.coordinator(coordinator.home) if one.subject == "launcher"]
    return found
