"""``make bench``: what FLO costs, as ratios against a reference measured in the same run.

    python -m tests.benchmarks [--json FILE]

Rows: group, name, flo, reference, ratio, unit, runs, how. Timings are medians and never asserted.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flo import models
from flo.cli.screen import console
from flo.privacy.clipping import clipped_gradient_sum
from flo.privacy.discrete_gaussian import SystemNoise
from flo.privacy.ledger import Ledger
from flo.privacy.mechanisms import NoisySum
from flo.privacy.patients import Patients
from tests.builders import make_site, small_study

Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    wanted = parser.parse_args()
    torch.set_num_threads(1)
    rows = [start(), private_step(300), private_step(3000), noise(), ledger()]
    from rich.table import Table

    table = Table(*rows[0])
    for row in rows:
        table.add_row(*(f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values()))
    console().print(table)
    if wanted.json:
        wanted.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")


def start() -> Row:
    """``flo --help`` against an interpreter that does nothing."""
    flo = _median(lambda: _run("-m", "flo.cli", "--help"), 7)
    bare = _median(lambda: _run("-c", "pass"), 7)
    return _row("start", "flo --help", flo, bare, "s", 7, "python -c pass")


def private_step(patients: int) -> Row:
    """Clip and sum every patient's gradient against one ordinary full-batch gradient."""
    study = small_study()
    data = _patients(patients, models.parameter_count(study) - 1)
    weights = np.full(models.parameter_count(study), 0.1)

    def plain() -> None:
        module = models.build(study, weights)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(
            module(torch.from_numpy(data.inputs)), torch.from_numpy(data.labels), reduction="sum"
        )
        torch.autograd.backward(loss)

    def private() -> None:
        clipped_gradient_sum(models.build(study, weights), data, 0.5)

    flo, reference = _median(private, 30), _median(plain, 30)
    return _row("step", f"logistic, {patients} patients", flo, reference, "s", 30, "torch, plain")


def noise() -> Row:
    """Exact discrete Gaussian against numpy's float Gaussian, 1,000 coordinates."""
    mechanism = NoisySum("full-batch-sum", 0.5, 1000, 23.45)
    source, generator = SystemNoise(), np.random.default_rng()
    flo = _median(lambda: source.sample(mechanism.variance_steps(), 1000), 10)
    reference = _median(lambda: generator.normal(size=1000), 10)
    return _row(
        "noise", "1,000 exact samples", flo, reference, "s", 10, "numpy normal, not private"
    )


def ledger() -> Row:
    """One charged release, flushed, against an ``fsync`` of the same size."""
    with tempfile.TemporaryDirectory() as folder:
        home = make_site(Path(folder))
        book: Ledger = home.ledger()
        study = small_study(mechanism=small_study().mechanism.model_dump() | {"steps": 60})
        reservation, counter = book.reserve(study, "main"), iter(range(100))

        def charge() -> None:
            book.charge(reservation, "training", f"r{next(counter)}", {"study": study.digest})

        def flush() -> None:
            with (Path(folder) / "reference").open("wb") as file:
                file.write(b"x" * 1024)
                file.flush()
                os.fsync(file.fileno())

        flo, reference = _median(charge, 50), _median(flush, 50)
        book.close()
    return _row("ledger", "charge one release", flo, reference, "s", 50, "1 KiB and fsync")


def _patients(count: int, width: int) -> Patients:
    generator = np.random.default_rng(1)
    return Patients(
        generator.normal(size=(count, width)),
        generator.integers(0, 2, count).astype(np.float64),
        np.arange(count),
        count,
    )


def _run(*arguments: str) -> None:
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)


def _median(call: Callable[[], Any], runs: int) -> float:
    call()
    times = []
    for _ in range(runs):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def _row(
    group: str, name: str, flo: float, reference: float, unit: str, runs: int, how: str
) -> Row:
    return {
        "group": group,
        "name": name,
        "flo": flo,
        "reference": reference,
        "ratio": flo / reference,
        "unit": unit,
        "runs": runs,
        "how": how,
    }


if __name__ == "__main__":
    main()
