"""Simulations of FARS' fifty-one sites and of thousands, summed in the clear.

In one process the reference trains on the same patients pooled, without privacy, with an ordinary
optimiser. The engine ray's reference is that one process.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

from flo.bench import BenchRow, row
from flo.bench.made_up import study_of, write
from flo.lab.comparison import pooled
from flo.lab.folds import Fold, folds
from flo.lab.ray_engine import run_on_ray
from flo.lab.simulation import load_hospitals, run_once
from flo.study.document import Study
from flo.study.loading import load

_FARS = Path(__file__).parent.parent / "examples" / "fars" / "study.toml"


def rows(*, quick: bool) -> Iterator[BenchRow]:
    """Measure one of five folds of each study; on Ray only if it is installed."""
    study = load(_FARS)
    hospitals = load_hospitals(study, None, "patient_id")
    yield _row("FARS, 51 sites", study, next(folds(hospitals, 5, 0)))
    for count in (100,) if quick else (1000, 10_000):
        study = study_of(count, steps=30)
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            write(study, folder)
            hospitals = load_hospitals(study, folder, "patient_id")
        name, fold = f"{count:,} sites × 30 rounds", next(folds(hospitals, 5, 0))
        yield _row(name, study, fold)
        if count <= 1000 and find_spec("ray"):
            yield _on_ray(name, study, fold)


def _row(name: str, study: Study, fold: Fold) -> BenchRow:
    flo = _seconds(lambda: run_once(study, fold, fast=True))
    reference = _seconds(lambda: pooled(study, fold))
    return row("simulate", f"{name}, logistic, --fast", flo, reference, how="pooled, not private")


def _on_ray(name: str, study: Study, fold: Fold) -> BenchRow:
    """Compare with one process; starting Ray counts."""
    flo = _seconds(lambda: run_on_ray(study, fold))
    reference = _seconds(lambda: run_once(study, fold, fast=True))
    return row("simulate", f"{name}, logistic, ray", flo, reference, how="one process, --fast")


def _seconds(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began
