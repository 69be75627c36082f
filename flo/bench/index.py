"""Measuring the inputs of the efficiency index (``flo.bench.index_rules``), each by itself."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from flo import __version__
from flo.bench import gate, serve, step
from flo.bench.index_rules import INPUTS, Measured
from flo.bench.made_up import study_of, write
from flo.bench.rounds import demo

_HOSPITALS, _MEGABYTES, _ROUNDS = 4, 1.0, 12
_RUNS, _STEPS, _ANSWERS, _RECORDS = 5, 30, 10_000, 100_000
_SETTLE_SECONDS, _WAIT_SECONDS = 15.0, 20.0
_STEP = "MLP 30-64-64-2, b=512"


def measure(name: str, month: float, said: Callable[[str], None]) -> Measured:
    """Measure every input but the month's bill, which is given. Takes some seven minutes.

    ``said``: told what is measured. Raises FloError: a part of FLO did not run.
    """
    values: dict[str, list[float]] = {"month": [month]}
    with tempfile.TemporaryDirectory() as folder:
        said("rounds of four hospitals")
        values["round"] = [_round(Path(folder) / str(run)) for run in range(_RUNS)]
        said("a coordinator and four agents that wait")
        values["waiting"] = list(_waiting(Path(folder) / "0" / "demo"))
        said("reading and checking a table")
        values["gate"] = _gate(Path(folder))
    said("private steps")
    values["step"] = _step()
    said("answers of a served model")
    values["answer"] = list(_answers())
    return Measured(
        name=name,
        machine=f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
        when=datetime.now(UTC).date().isoformat(),
        flo=__version__,
        values={one: tuple(values[one]) for one in INPUTS},
    )


def _round(folder: Path) -> float:
    """Return the median seconds of a round of a demo in ``folder``."""
    folder.mkdir()
    write(study_of(_HOSPITALS, _MEGABYTES, steps=_ROUNDS), folder)
    return float(demo(folder)["seconds_per_round"])


def _waiting(folder: Path) -> Iterator[float]:
    """Yield seconds of processor for an hour of waiting, of what a demo left in ``folder``."""
    homes = [folder / f"site-{number}" for number in range(1, _HOSPITALS + 1)]
    commands = [("coordinator", "serve", "--home", str(folder / "coordinator"))]
    commands += [("site", "run", "--home", str(home)) for home in homes]
    with ExitStack() as stack:
        running = [stack.enter_context(_Running(*command)) for command in commands]
        time.sleep(_SETTLE_SECONDS)
        for _ in range(_RUNS):
            before = sum(map(serve.processor_seconds, running))
            time.sleep(_WAIT_SECONDS)
            used = sum(map(serve.processor_seconds, running)) - before
            yield max(used, 1 / os.sysconf("SC_CLK_TCK")) * 3600 / _WAIT_SECONDS


class _Running:
    """A ``flo`` command that runs in a process group of its own until the block ends."""

    def __init__(self, *words: str) -> None:
        self._words = words

    def __enter__(self) -> int:
        command = [sys.executable, "-m", "flo.cli", *self._words]
        quiet, environment = subprocess.DEVNULL, {**os.environ, "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            command, stdin=quiet, stdout=quiet, stderr=quiet, env=environment
        )
        return self._process.pid

    def __exit__(self, *error: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _gate(folder: Path) -> list[float]:
    path, *_ = gate.write_tables(folder, _RECORDS)
    return [gate.measured("flo", path)["seconds"] for _ in range(_RUNS)]


def _step() -> list[float]:
    """Return milliseconds of blocks of steps on one thread."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        run = step.private_step_of(_STEP)
        run()
        found = []
        for _ in range(_RUNS):
            times = []
            for _ in range(_STEPS):
                began = time.perf_counter()
                run()
                times.append(1000 * (time.perf_counter() - began))
            found.append(float(np.median(times)))
        return found
    finally:
        torch.set_num_threads(threads)


def _answers() -> Iterator[float]:
    with serve.served(images=False) as (site, server, plain, _):
        for _ in range(_RUNS):
            path = f"/models/{site.study.name}/score"
            yield serve.cost_of_an_answer(server, plain, path, site.record(), _ANSWERS)


def to_bytes(found: Measured) -> bytes:
    """Return the file that ``index_rules.read_measured`` reads."""
    document: Any = found.model_dump(mode="json")
    return (json.dumps(document, indent=1) + "\n").encode()
