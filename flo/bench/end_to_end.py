"""Whole study on the heart data, from launch to verified report, against others with Opacus.

All run the same number of rounds. FLO's time includes approvals, secure sums, ledgers, a private
evaluation, the report and its verification. The references' times end with the last round and
include no accounting. NVFLARE's time begins with its first round, Flower's with the launch.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from flo.bench import BenchRow, row
from flo.bench.references import flower_with_opacus, nvflare_with_opacus
from flo.bench.rounds import demo
from flo.lab.simulation import load_hospitals
from flo.study.features import input_names
from flo.study.loading import load

_REFERENCES: dict[str, Callable[[Path, int, int, int], float]] = {
    "Flower 1.42 + Opacus": flower_with_opacus,
    "NVFLARE 2.9 + Opacus": nvflare_with_opacus,
}
_HEART = Path(__file__).parent.parent / "examples" / "heart" / "study.toml"


def rows(*, quick: bool) -> Iterator[BenchRow]:
    """Yield a row for each reference. ``quick``: few rounds, about a minute for the reference."""
    study = load(_HEART)
    steps = 5 if quick else study.mechanism.steps
    hospitals = load_hospitals(study, None, "patient_id")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        text = _HEART.read_text(encoding="utf-8")
        changed = text.replace(f"steps = {study.mechanism.steps}", f"steps = {steps}")
        (folder / "study.toml").write_text(changed, encoding="utf-8")
        command = [sys.executable, "-m", "flo.cli", "data", "heart", scratch]
        subprocess.run(command, check=True, capture_output=True)
        flo = float(demo(folder)["seconds_from_launch"])
        for number, checked in enumerate(hospitals.values(), start=1):
            np.savez(folder / f"{number}.npz", inputs=checked.inputs, labels=checked.labels)
        inputs = len(input_names(study.data))
        for how, run in _REFERENCES.items():
            reference = run(folder, len(hospitals), inputs, steps)
            name = f"heart, launch to verified report, {steps} rounds"
            yield row("end-to-end", name, flo, reference, how=how)
