"""``flo bench``: what FLO costs here, as ratios against a reference measured in the same run.

Every row has ``group name flo reference ratio unit runs how``. Timings are medians and never
asserted; this hardware may be shared and noisy, so only the ratios mean something.
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
    """Median seconds of both, taken in turns of ``runs / blocks``, each warmed up first."""
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
