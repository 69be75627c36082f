"""``flo simulate --engine ray``: the same study, the same bits, in many processes."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest

from flo.bench.made_up import study_of, write
from flo.clients.data_process import trainer
from flo.errors import FloError, UsageError
from flo.lab import ray_engine
from flo.lab.folds import folds
from flo.lab.ray_engine import run_on_ray
from flo.lab.simulation import load_hospitals, run_once
from flo.study.loading import load
from tests.builders import NoNoise
from tests.commands import flo_process
from tests.paths import EXAMPLES

HEART = EXAMPLES / "heart" / "study.toml"


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
def test_the_command_says_what_every_simulation_says(tmp_path: Path) -> None:
    write(study_of(3, steps=2), tmp_path)
    done = flo_process(
        *("simulate", tmp_path / "study.toml", "--data", tmp_path, "--folds", "2"),
        *("--engine", "ray", "--json", tmp_path / "result.json"),
        seconds=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["private"], result["masks"], result["rounds"]) == (False, "as deployed", 2)
    assert "NOT PRIVATE" in done.stdout


@pytest.mark.slow
def test_a_runtime_that_breaks_ends_the_simulation_with_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from flwr.server.superlink.fleet.vce.backend.raybackend import RayBackend

    def broken(self: RayBackend, config: object) -> None:
        raise ValueError("no memory for workers")

    monkeypatch.setattr(RayBackend, "init_ray", broken)
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
