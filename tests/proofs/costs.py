"""Group ``cost``: what is advised for real traces costs no more than what anybody would do, and
little more than what nobody can do.

Ways are chosen on the first half of a trace and judged here on the second. The better static way is
sized in knowledge of the second half.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from flo.infra.aws.costs import PriceTable, function_price
from flo.infra.aws.scaling.advice import Advice, Limits, advise
from flo.infra.aws.scaling.forecast import same_hours
from flo.infra.aws.scaling.trace import WEEK, Trace
from flo.infra.aws.scaling.ways import Function, Machine
from tests.proofs.request_traces import ZONES, request_trace
from tests.proofs.rows import Row

PEAKS = (1.0, 100.0, 500.0, 20_000.0, 100_000.0)
LARGE = 20_000.0
HOURLY = ("bicycles", "cars", "orders", "road", "electricity")
MACHINE_SECONDS, FUNCTION_SECONDS, COLD_SECONDS, MEMORY_MB = 0.001, 0.005, 0.5, 1024


def rows(quick: bool) -> Iterator[Row]:
    """Every trace at every peak, or bicycles at two."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ["bicycles"] if quick else ZONES:
            trace = request_trace(name, Path(folder))
            yield from _advised(name, trace, PEAKS[2:4] if quick else PEAKS)
            yield _foreseen(name, trace)


def advised(trace: Trace, peak: float) -> Advice:
    """Return the advice for a peak, with the command's defaults and FLO's price table."""
    prices, limits = PriceTable.read(), Limits()
    kind = "ml.m5.large"
    machine = Machine.within(kind, prices.endpoint_hour[kind], MACHINE_SECONDS, limits.p99)
    price = function_price(prices, 1000 * FUNCTION_SECONDS, MEMORY_MB)
    function = Function(price, FUNCTION_SECONDS, COLD_SECONDS)
    return advise(trace.with_peak(peak), machine, function, limits)


def _advised(name: str, trace: Trace, peaks: tuple[float, ...]) -> Iterator[Row]:
    began = time.monotonic()
    found = {peak: advised(trace, peak) for peak in peaks}
    seconds, runs = time.monotonic() - began, len(peaks)
    static = max(one.outcome.cost / one.better_static for one in found.values())
    yield Row(f"{name}: cost / better static, worst peak", static, runs, seconds, most=1.0)
    if name in HOURLY:
        within = [one for peak, one in found.items() if peak <= LARGE]
        worst = max(one.outcome.cost / one.oracle for one in within)
        yield Row(f"{name}: cost / oracle, worst peak", worst, len(within), 0, most=1.25)
    unserved = max(one.outcome.unserved for one in found.values())
    yield Row(f"{name}: share unserved, worst peak", unserved, runs, 0, most=0.001)


def _foreseen(name: str, trace: Trace) -> Row:
    """Four weeks' mean against the same hour of last week; stated, not promised."""
    began = time.monotonic()
    hourly = trace.last(56).hourly
    found = same_hours(hourly, trace.last(56).hours_of_week)
    judged = slice(4 * WEEK, None)
    error = np.abs(found[judged] - hourly[judged]).mean()
    naive = np.abs(hourly[judged] - hourly[3 * WEEK : -WEEK]).mean()
    return Row(
        f"{name}: error of the forecast / of last week",
        float(error / naive),
        len(hourly[judged]),
        time.monotonic() - began,
    )
