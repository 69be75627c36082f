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
    fast, slow = statistics.median(ours), statistics.median(theirs)
    return {
        "group": group,
        "name": name,
        "flo": fast,
        "reference": slow,
        "ratio": fast / slow,
        "unit": "s",
        "runs": len(ours),
        "how": how,
    }
