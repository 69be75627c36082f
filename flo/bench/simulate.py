"""Simulations in one process, of FARS' fifty-one sites and of thousands, summed in the clear.

The reference trains on the same patients pooled, without privacy, with an ordinary optimiser.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from flo.bench import BenchRow, row
from flo.bench.made_up import study_of, write
from flo.lab.comparison import pooled
from flo.lab.folds import Fold, folds
from flo.lab.simulation import load_hospitals, run_once
from flo.study.document import Study
from flo.study.loading import load

_FARS = Path(__file__).parent.parent / "examples" / "fars" / "study.toml"


def rows(*, quick: bool) -> Iterator[BenchRow]:
    """Measure one of five folds of each study."""
    study = load(_FARS)
    hospitals = load_hospitals(study, None, "patient_id")
    yield _row("FARS, 51 sites", study, next(folds(hospitals, 5, 0)))
    for count in (100,) if quick else (1000, 10_000):
        study = study_of(count, steps=30)
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            write(study, folder)
            hospitals = load_hospitals(study, folder, "patient_id")
        yield _row(f"{count:,} sites × 30 rounds", study, next(folds(hospitals, 5, 0)))


def _row(name: str, study: Study, fold: Fold) -> BenchRow:
    began = time.perf_counter()
    run_once(study, fold, fast=True)
    flo = time.perf_counter() - began
    began = time.perf_counter()
    pooled(study, fold)
    reference, name = time.perf_counter() - began, f"{name}, logistic, --fast"
    return row("simulate", name, flo, reference, how="pooled, not private")
