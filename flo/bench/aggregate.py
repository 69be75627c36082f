"""Time and memory to aggregate updates of 100 MB, against Flower's FedAvg on as many updates.

Each measurement runs in its own process: ``python -m flo.bench.aggregate flo|flower UPDATES``
prints the seconds, and the growth from start to peak memory in MB. FLO adds each reply when it
arrives; Flower's strategy gets all replies at once. ``rounds`` measures the transport.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from flo.bench import BenchRow, row

_FLOATS = 25_000_000


def rows(*, quick: bool) -> Iterator[BenchRow]:
    """Yield two rows for each number of updates: time and peak memory."""
    for updates in (4,) if quick else (4, 16, 64):
        ours, theirs = _measured("flo", updates), _measured("flower", updates)
        for unit in ("s", "MB"):
            name = f"{updates} updates of 100 MB, {'time' if unit == 's' else 'peak memory'}"
            both = (ours[unit], theirs[unit])
            yield row("aggregate", name, *both, how="Flower's FedAvg", unit=unit)


def _measured(who: str, updates: int) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-m", "flo.bench.aggregate", who, str(updates)],
        check=True,
        capture_output=True,
        text=True,
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _flo(updates: int) -> float:
    """Return seconds to check and sum masked numbers (ring of 2^32), and for one momentum step."""
    from flo.bench.made_up import study_of
    from flo.privacy.accounting.plan import Plan
    from flo.server.rounds.aggregation import StreamingSum
    from flo.server.rounds.state import RunState, advance

    study = study_of(updates, 100.0, steps=2)
    state = RunState.start(study)
    part = Plan.of(study).purpose("training")
    gathered, seconds = StreamingSum(study, part, updates), 0.0
    reply = np.zeros(part.mechanism.length, dtype=np.uint32)
    for hospital in study.hospitals:
        arrived = reply.copy()
        began = time.perf_counter()
        gathered.add(hospital.id, arrived)
        seconds += time.perf_counter() - began
    began = time.perf_counter()
    advance(study, state, gathered)
    return seconds + time.perf_counter() - began


def _flower(updates: int) -> float:
    from flwr.app import ArrayRecord, MetricRecord, RecordDict
    from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords

    numbers = np.zeros(_FLOATS, dtype=np.float32)
    metrics = MetricRecord({"num-examples": 20})
    records = [
        RecordDict({"arrays": ArrayRecord([numbers]), "metrics": metrics}) for _ in range(updates)
    ]
    began = time.perf_counter()
    aggregate_arrayrecords(records, "num-examples")
    return time.perf_counter() - began


def _main(who: str, updates: str) -> None:
    deeds: dict[str, Callable[[int], float]] = {"flo": _flo, "flower": _flower}
    before = _peak()
    seconds = deeds[who](int(updates))
    sys.stdout.write(json.dumps({"s": seconds, "MB": (_peak() - before) * 1.024e-3}) + "\n")


def _peak() -> float:
    """Return this program's own peak resident memory, in KiB; ``ru_maxrss`` counts the parent's."""
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return float(next(line for line in lines if line.startswith("VmHWM:")).split()[1])


if __name__ == "__main__":
    _main(*sys.argv[1:])
