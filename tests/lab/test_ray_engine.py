"""``flo simulate --engine ray``: the same study, the same bits, in many processes."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flo.bench.made_up import study_of, write
from flo.clients.data_process import trainer
from flo.errors import FloError, UsageError
from flo.lab import ray_engine
from flo.lab.folds import folds
from flo.lab.ray_engine import run_on_ray
from flo.lab.simulation import load_hospitals, run_once, simulate
from flo.study.loading import load
from tests.builders import NoNoise
from tests.commands import flo_process
from tests.paths import EXAMPLES
from tests.ports import free_port

HEART = EXAMPLES / "heart" / "study.toml"


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder for Ray's sockets, whose paths may have 107 characters."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def wait_until_listening(port: int) -> None:
    end = time.monotonic() + 60
    while True:
        with socket.socket() as tried:
            if tried.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.mark.slow
def test_rays_workers_give_the_model_and_the_estimate_of_one_process_to_the_bit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    study = load(HEART).with_mechanism(steps=4)
    fold = next(folds(load_hospitals(study, None, "patient_id"), 5, 0))
    spread, seconds = run_on_ray(study, fold, NoNoise)
    monkeypatch.setattr(trainer, "SystemNoise", NoNoise)
    alone, _ = run_once(study, fold)
    assert spread.model.any()
    assert spread.model.tobytes() == alone.model.tobytes()
    assert spread.estimate == alone.estimate
    assert len(seconds) == 6, "second moments, four rounds and the evaluation"


@pytest.mark.slow
def test_a_cluster_of_two_machines_gives_the_same_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, short: Path
) -> None:
    """Two raylets on this machine, as ``ray start`` begins them, of one worker each."""
    port = free_port()
    environment = os.environ | {
        **{"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)},
        **{"RAY_ADDRESS": f"127.0.0.1:{port}", "RAY_TMPDIR": str(short)},
    }

    def raylet(*words: str) -> subprocess.Popen[bytes]:
        command = [str(Path(sys.executable).with_name("ray")), "start", "--block"]
        command += ["--num-cpus", "1", "--min-worker-port", "0", "--max-worker-port", "0"]
        command += ["--dashboard-agent-listen-port", "0"]  # two on one machine share no port
        with (tmp_path / f"{words[0]}.log").open("wb") as log:
            return subprocess.Popen(
                [*command, *words], env=environment, stdout=log, stderr=log, start_new_session=True
            )

    started = [raylet("--head", "--port", str(port), "--include-dashboard", "false")]
    try:
        wait_until_listening(port)
        started.append(raylet("--address", f"127.0.0.1:{port}"))
        done = subprocess.run(
            [sys.executable, "-m", "tests.lab.ray_run"],
            env=environment,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
    finally:
        for one in started:
            os.killpg(one.pid, signal.SIGTERM)
            one.wait(60)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    study = load(HEART).with_mechanism(steps=4)
    fold = next(folds(load_hospitals(study, None, "patient_id"), 5, 0))
    monkeypatch.setattr(trainer, "SystemNoise", NoNoise)
    alone, _ = run_once(study, fold)
    assert found == {"model": alone.model.tobytes().hex(), "rounds": 6, "workers": 2}


@pytest.mark.slow
def test_the_command_says_what_every_simulation_says(tmp_path: Path) -> None:
    write(study_of(3, steps=2), tmp_path)
    done = flo_process(
        *("simulate", tmp_path / "study.toml", "--data", tmp_path, "--folds", "2"),
        *("--engine", "ray", "--json", tmp_path / "result.json"),
        seconds=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["private"], result["rounds"]) == (False, 2)
    assert result["masks"] == "none: summed in the clear"
    assert "NOT PRIVATE" in done.stdout


@pytest.mark.slow
def test_a_runtime_that_breaks_ends_the_simulation_with_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(ray: object) -> int:
        raise ValueError("no memory for workers")

    monkeypatch.setattr(ray_engine, "_connect", broken)
    study = load(HEART).with_mechanism(steps=1)
    fold = next(folds(load_hospitals(study, None, "patient_id"), 5, 0))
    before = threading.active_count()
    with pytest.raises(FloError, match="no memory for workers"):
        run_on_ray(study, fold)
    end = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < end:
        time.sleep(0.1)
    assert threading.active_count() <= before, "nobody waits for it any more"


@pytest.mark.slow
def test_without_ray_it_is_named_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_engine, "find_spec", lambda name: None)
    study = study_of(3, steps=2)
    with pytest.raises(UsageError, match="ray is not installed") as refused:
        run_on_ray(study, fold=None)  # type: ignore[arg-type]
    assert "flo-federated[simulation]" in str(refused.value.hint)


@pytest.mark.processes
@pytest.mark.parametrize("options", [["--engine", "dask"], ["--engine", "ray", "--fast"]])
def test_an_engine_that_is_not_there_is_refused(options: list[str]) -> None:
    done = flo_process("simulate", HEART, *options)
    assert done.returncode == 2
    assert "is not one of loop, ray; fast needs loop" in done.stderr


def test_without_fast_a_study_of_too_many_hospitals_is_refused_at_once() -> None:
    with pytest.raises(UsageError, match="1001 hospitals, and messages name 1000 at most"):
        simulate(study_of(1001, steps=1), {})
