"""``python -m tests.lab.ray_run``: the heart study on Ray without noise; prints its model."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

from flo.lab import ray_engine
from flo.lab.folds import folds
from flo.lab.ray_engine import run_on_ray
from flo.lab.simulation import load_hospitals
from flo.study.loading import load
from tests.builders import NoNoise
from tests.paths import EXAMPLES

HEART = EXAMPLES / "heart" / "study.toml"
WORKERS: list[int] = []


def both_there(connect: Callable[[Any], int]) -> Callable[[Any], int]:
    """Connect as ``connect`` does, and wait for the second machine."""

    def connected(ray: Any) -> int:
        workers, end = connect(ray), time.monotonic() + 60
        while workers < 2 and time.monotonic() < end:
            time.sleep(0.2)
            workers = int(ray.cluster_resources().get("CPU", 0))
        WORKERS.append(workers)
        return workers

    return connected


def main() -> None:
    study = load(HEART).with_mechanism(steps=4)
    fold = next(folds(load_hospitals(study, None, "patient_id"), 5, 0))
    with patch.object(ray_engine, "_connect", both_there(ray_engine._connect)):
        state, seconds = run_on_ray(study, fold, NoNoise)
    found = {"model": state.model.tobytes().hex(), "rounds": len(seconds), "workers": WORKERS[0]}
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
