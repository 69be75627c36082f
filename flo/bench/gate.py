"""Reading and checking a million records of thirty columns, against pandas reading the same file.

Each run has its own process, so that its peak memory can be measured.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from flo.bench import BenchRow, row
from flo.study.schema import Schema

_RECORDS, _NUMBERS, _CODED = 1_000_000, 20, 10
_CODES = ["a", "b", "c", "d", "e"]
_RUNS = 3
_WHO = {"flo": "load + gate", "approval": "load + gate + snapshot", "pandas": ""}


def rows(*, quick: bool) -> Iterator[BenchRow]:
    """Yield median seconds and megabytes of both, each run in its own process."""
    records = _RECORDS // 10 if quick else _RECORDS
    with tempfile.TemporaryDirectory() as folder:
        for path in write_tables(Path(folder), records):
            found = {who: [measured(who, path) for _ in range(_RUNS)] for who in _WHO}
            for who, name in list(_WHO.items())[:-1]:
                for what, unit in (("seconds", "s"), ("megabytes", "MB")):
                    both = (statistics.median(r[what] for r in found[w]) for w in (who, "pandas"))
                    named = f"{name}, {records:,} × 30, {path.suffix[1:]}"
                    how = "pandas reads the file"
                    yield row("gate", named, *both, how=how, unit=unit, runs=_RUNS)


def schema() -> Schema:
    """Return the schema of the written files: twenty numbers and ten codes."""
    number: dict[str, object] = {"kind": "number", "unit": "mg/dL", "minimum": 0, "maximum": 200}
    coded: dict[str, object] = {"kind": "category", "codes": _CODES, "missing": "indicator"}
    columns = [number | {"name": f"n{i}"} for i in range(_NUMBERS)]
    columns += [coded | {"name": f"c{i}"} for i in range(_CODED)]
    return Schema.model_validate(
        {"record": "patient", "records_per_patient": "one", "label": "ill", "columns": columns}
    )


def write_tables(folder: Path, records: int) -> list[Path]:
    """Write a table of made-up patients as CSV and as Parquet; return both paths."""
    rng = np.random.default_rng(7)
    columns: dict[str, Any] = {"patient_id": [f"p{i:07d}" for i in range(records)]}
    for i in range(_NUMBERS):
        columns[f"n{i}"] = rng.normal(100, 15, records).clip(0, 200).round(2)
    for i in range(_CODED):
        columns[f"c{i}"] = pa.array(np.array([*_CODES, None])[rng.integers(0, 6, records)])
    columns["ill"] = rng.integers(0, 2, records)
    table = pa.table(columns)
    paths = [folder / "patients.csv", folder / "patients.parquet"]
    pyarrow.csv.write_csv(table, paths[0])
    pyarrow.parquet.write_table(table, paths[1])
    return paths


def measured(who: str, path: Path) -> dict[str, float]:
    """Return seconds and megabytes of reading a file in a process of its own."""
    command = [sys.executable, "-m", "flo.bench.gate", who, str(path)]
    done = subprocess.run(command, check=True, capture_output=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _read(who: str, path: Path) -> None:
    if who == "pandas":
        import pandas as pd

        pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)
        return
    from flo.clients.quality.check import require_clean
    from flo.clients.records.snapshot import Snapshot
    from flo.clients.sources.files import open_file

    checked = require_clean(open_file(path, "patient_id"), schema(), "patient_id", None)
    if who == "approval":
        Snapshot.of(checked, bytes(32), 0.2).write(path.with_suffix(".npz"))


def main() -> None:
    """Measure one run on a file; print seconds and megabytes as JSON."""
    began = time.perf_counter()
    _read(sys.argv[1], Path(sys.argv[2]))
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    sys.stdout.write(json.dumps({"seconds": seconds, "megabytes": peak}))


if __name__ == "__main__":
    main()
