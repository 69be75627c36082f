"""SuperExec's program: whom it obeys, when it ends, and that forked runs share no noise."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from flwr.proto.runtime_pb2 import AcquireTaskRequest

from flo.server.flower.superexec import end_group, start_superexec
from flo.server.flower.superexec_process import Runtime
from flo.server.flower.superlink import APP_HERE
from tests.server.real_coordinator import RealCoordinator, new_home, served

pytestmark = pytest.mark.processes

WANTED = AcquireTaskRequest(supported_task_types=["flwr-serverapp"])
_TWO_RUNS = """
import importlib, os, sys
importlib.import_module(sys.argv[1])
from flo.privacy.mechanisms.entropy import SystemStream
for _ in range(2):
    if os.fork() == 0:
        os.write(1, f"{SystemStream().words(4).tolist()}\\n".encode())
        os._exit(0)
    os.wait()
"""


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealCoordinator]:
    with served(RealCoordinator(new_home(tmp_path_factory.mktemp("c") / "coordinator"))) as started:
        yield started


def runtime_of(coordinator: RealCoordinator) -> Runtime:
    url = coordinator.home.read_private_url().removeprefix("https://")
    return Runtime(url, coordinator.home.chain_path.read_bytes())


def test_a_call_for_a_task_waits_while_there_is_none(coordinator: RealCoordinator) -> None:
    secret = coordinator.home.superexec_secret_path.read_bytes()
    with closing(runtime_of(coordinator).client(secret)) as client:
        begun = time.monotonic()
        answer = client.AcquireTask(WANTED)
    assert answer.token == ""
    assert 0.8 < time.monotonic() - begun < 10


def test_whoever_has_another_secret_is_refused(coordinator: RealCoordinator) -> None:
    with (
        closing(runtime_of(coordinator).client(bytes(32))) as client,
        pytest.raises(httpx.HTTPStatusError, match="401"),
    ):
        client.AcquireTask(WANTED)


def test_it_ends_when_its_secret_is_refused(coordinator: RealCoordinator, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(32))
    home = coordinator.home
    started = start_superexec(
        *(home.read_private_url(), home.chain_path, secret),
        app=APP_HERE,
        home=tmp_path,
        environment={},
    )
    try:
        assert started.wait(timeout=60) == 3
    finally:
        end_group(started)


def test_it_ends_when_whoever_started_it_has_ended(
    coordinator: RealCoordinator, tmp_path: Path
) -> None:
    home = coordinator.home
    program = [sys.executable, "-P", "-m", "flo.server.flower.superexec_process"]
    program += [home.read_private_url().removeprefix("https://"), str(home.chain_path)]
    program += [str(home.superexec_secret_path), str(os.getppid()), "flo.server.runs.app"]
    done = subprocess.run(program, capture_output=True, timeout=60, check=False, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_runs_that_are_forked_from_one_process_draw_noise_of_their_own() -> None:
    program = [sys.executable, "-c", _TWO_RUNS, "flo.server.runs.app"]
    done = subprocess.run(program, capture_output=True, timeout=60, check=True, text=True)
    first, second = done.stdout.splitlines()
    assert len({*json.loads(first), *json.loads(second)}) == 8
