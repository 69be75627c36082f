"""A round among real processes: complete FLO, against systems whose clients do almost no work.

FLO's agents each train on twenty patients with differential privacy, draw exact noise, mask, write
their ledgers and communicate over mutual TLS. The references' clients add a number and reply,
without privacy, masks or TLS.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from flo.bench import BenchRow, row
from flo.bench.made_up import study_of, write
from flo.bench.references import flower_rounds, nvflare_rounds
from flo.errors import FloError

_ROUNDS = {0.1: 12, 1.0: 12, 100.0: 6}
_QUICK = ((4, 1.0),)
_ALL = tuple((agents, megabytes) for megabytes in _ROUNDS for agents in (2, 4, 8))
_SUMS: dict[str, dict[str, Any]] = {
    "secure sum": {},
    "secure sum, no dropouts": {"dropouts": 0},
    "no masks": {"secure_sum": False},
}
_REFERENCES: dict[str, Callable[[int, float, int], list[float]]] = {
    "stock Flower 1.42": flower_rounds,
    "NVFLARE 2.9": nvflare_rounds,
}


def rows(*, quick: bool) -> Iterator[BenchRow]:
    """Yield rows for each number of agents, model size and reference, and each kind of sum."""
    for agents, megabytes in _QUICK if quick else _ALL:
        kinds = list(_SUMS)[:1] if quick else _SUMS
        ours = {how: _flo(agents, megabytes, _SUMS[how]) for how in kinds}
        for reference, run in _REFERENCES.items():
            seconds = run(agents, megabytes, 4)
            theirs = statistics.median(seconds)
            for how, (flo, runs) in ours.items():
                name, fewest = f"{agents} agents, {megabytes:g} MB, {how}", min(runs, len(seconds))
                yield row("rounds", name, flo, theirs, how=reference, runs=fewest)


def _flo(agents: int, megabytes: float, kind: dict[str, Any]) -> tuple[float, int]:
    """Return the median seconds of a training round, and the number of rounds."""
    steps = _ROUNDS[megabytes]
    study = study_of(agents, megabytes, steps=steps, **kind)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write(study, folder)
        return float(demo(folder)["seconds_per_round"]), steps


def demo(folder: Path, *, own_data: bool = True) -> dict[str, Any]:
    """Run ``flo demo`` on the study in ``folder``. Raises FloError with its output.

    ``own_data``: on the files in ``folder`` too; otherwise on the study's data set.
    """
    command = [sys.executable, "-m", "flo.cli", "demo", "--dir", str(folder / "demo")]
    command += ["--study", str(folder / "study.toml"), "--json", str(folder / "json")]
    command += ["--data", str(folder)] if own_data else []
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise FloError(f"the demo failed with exit code {done.returncode}: {done.stderr}")
    result: dict[str, Any] = json.loads((folder / "json").read_bytes())
    return result
