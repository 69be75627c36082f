"""``flo bench``: FLO's costs on this machine, as ratios to a reference measured in the same run.

Every row has ``group name flo reference ratio unit runs how``. Timings are medians, and no test
asserts them. The hardware may be shared and noisy, so only the ratios are meaningful.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

BenchRow = dict[str, Any]


def row(
    group: str, name: str, flo: float, reference: float, *, how: str, unit: str = "s", runs: int = 1
) -> BenchRow:
    """Return the row of two measurements in ``unit``."""
    ratio = {"flo": flo, "reference": reference, "ratio": flo / reference}
    return {"group": group, "name": name, **ratio, "unit": unit, "runs": runs, "how": how}


def compared(
    group: str,
    name: str,
    flo: Callable[[], Any],
    reference: Callable[[], Any],
    *,
    how: str,
    runs: int = 30,
    blocks: int = 3,
) -> BenchRow:
    """Measure median seconds of both, in alternate blocks of ``runs / blocks`` after a warm-up."""
    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(blocks):
        for call, times in ((flo, ours), (reference, theirs)):
            call()
            for _ in range(max(1, runs // blocks)):
                began = time.perf_counter()
                call()
                times.append(time.perf_counter() - began)
    medians = (statistics.median(ours), statistics.median(theirs))
    return row(group, name, *medians, how=how, runs=len(ours))
