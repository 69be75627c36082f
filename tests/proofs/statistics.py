"""Group ``statistics``: every interval of a table or curve against the truth on real patients.

*Noise*: the patients stay, noise is drawn again, and the truth is their exact value, computed by
pandas and by a Kaplan-Meier estimate of each single time. *Redrawn*: patients are drawn again from
the source, too, and the truth is the source's value. An interval must hold it in 95 % of the runs
in which it is shown.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from flo.arrays import Floats
from flo.clients.records.snapshot import Snapshot
from flo.lab.simulation import load_hospitals
from flo.privacy.accounting.plan import Plan, combined_variance
from flo.privacy.patients.patients import Patients
from flo.privacy.releases import statistics
from flo.statistics import words
from flo.statistics.reading import read
from flo.statistics.survival import SurvivalRead, log_rank
from flo.study.document import Study
from tests.proofs import catalogue, regressions
from tests.proofs.rows import Row, chance
from tests.proofs.statistics_sets import (
    Source,
    fars_source,
    nass_source,
    panel,
    rotterdam,
    support2_source,
)

_RUNS, _TESTS = 3000, 5000
_QUICK_RUNS, _QUICK_TESTS = 40, 300
_SHOWN = 1000  # runs in which a value must be shown to be judged
_LEAST, _MEDIAN, _ALPHA = 0.93, (0.93, 0.97), 0.05
Key = tuple[str, ...]


def rows(quick: bool) -> Iterator[Row]:
    """Coverage on two sources, the log-rank test's size and power, and a curve's error."""
    runs, tests = (_QUICK_RUNS, _QUICK_TESTS) if quick else (_RUNS, _TESTS)
    sources = [support2_source()] if quick else [support2_source(), rotterdam()]
    for source in sources:
        for epsilon in (0.9,) if quick else (0.9, 0.3):
            yield from _coverage(source, epsilon, runs, room=quick)
    yield from _tests_of_curves(support2_source(), tests, room=quick)
    yield from _apart(tests, room=quick)
    yield from regressions.rows(
        sources if quick else [*sources, fars_source(), nass_source(), panel()], quick
    )
    yield from catalogue.rows(quick)
    yield _error(support2_source(), 1000 if not quick else runs, room=quick)


# -- intervals -------------------------------------------------------------------------------------


def _coverage(source: Source, epsilon: float, runs: int, *, room: bool) -> Iterator[Row]:
    study = source.asking(epsilon, *source.parts)
    alone, deviation = _vectors(study, source), _deviation(study)
    truth = _truth(source)
    for how in ("noise", "redrawn"):
        began, draw = time.monotonic(), np.random.default_rng(int(1000 * epsilon))
        held: dict[Key, list[bool]] = {key: [] for key in truth}
        for _ in range(runs):
            sums = alone.sum(0) if how == "noise" else _redrawn(alone, draw)
            noisy = sums + draw.normal(0, deviation, len(sums))
            for key, (low, high) in _intervals(study, noisy, deviation**2).items():
                if key in truth:
                    held[key].append(low - 1e-9 <= truth[key] <= high + 1e-9)
        least = _SHOWN if runs > _SHOWN else 0.5 * runs
        shares = [float(np.mean(found)) for found in held.values() if len(found) >= least]
        slack = chance(0.95, runs) + 0.01 if room else 0.0
        name = f"{source.name}, ε = {epsilon}: {how}"
        took = time.monotonic() - began
        yield Row(f"{name}, least held of {len(shares)}", min(shares), runs, took, _LEAST - slack)
        if how == "redrawn":
            low, high = _MEDIAN
            middle = float(np.median(shares))
            yield Row(f"{name}, median held", middle, runs, took, low - slack, high + slack)


def _vectors(study: Study, source: Source) -> Floats:
    """Each patient's contribution, (patients, length), computed alone."""
    by_site = {
        str(name): part.drop(columns="hospital") for name, part in source.table.groupby("hospital")
    }
    found = list[Floats]()
    for loaded in load_hospitals(study, by_site, "patient_id").values():
        some = Snapshot.divided(loaded, set()).training
        for n in range(some.count):
            one = Patients(some.inputs[[n]], some.labels[[n]], np.zeros(1, dtype=np.int64), 1)
            found.append(statistics.exact(study, one))
    return np.array(found)


def _redrawn(alone: Floats, draw: np.random.Generator) -> Floats:
    chosen = draw.integers(0, len(alone), len(alone))
    return np.asarray(np.bincount(chosen, minlength=len(alone)) @ alone)


def _deviation(study: Study) -> float:
    part = Plan.of(study).purpose("statistics")
    return math.sqrt(combined_variance(study, part, len(study.hospitals)))


def _intervals(study: Study, noisy: Floats, variance: float) -> dict[Key, tuple[float, float]]:
    parts = read(study, noisy, variance)
    return {
        tuple(names): (found.low, found.high)
        for *names, found in words.rows(parts)
        if found.readable and not math.isnan(found.value)
    }


def _truth(source: Source) -> dict[Key, float]:
    """The exact values, independent of FLO's code."""
    found = dict[Key, float]()
    for group, rows_ in source.table.groupby(source.event):
        at = ("table", str(group))
        found[*at, "", "patients", ""] = len(rows_)
        for name, codes in source.codes.items():
            for code in codes:
                found[*at, name, "count", code] = float((rows_[name] == code).sum())
                found[*at, name, "share", code] = float((rows_[name] == code).mean())
        for name in source.numbers:
            values = rows_[name].dropna()
            found[*at, name, "missing", ""] = len(rows_) - len(values)
            found[*at, name, "mean", ""] = float(values.mean())
            found[*at, name, "standard deviation", ""] = float(values.std(ddof=0))
            for q in (25, 50, 75):
                found[*at, name, "quantile", f"{q} %"] = float(values.quantile(q / 100))
    groups = {("all", "all"): source.table}
    groups |= {("groups", str(code)): part for code, part in source.table.groupby(source.by)}
    for at, part in groups.items():
        survived = _kaplan_meier(part["days"].to_numpy(), part[source.event].to_numpy())
        for edge in source.edges:
            found[*at, "days", "survival", f"{edge:g}"] = survived(edge)
            died = (part["days"] <= edge) & (part[source.event] == 1)
            gone = (part["days"] < edge) & (part[source.event] == 0)
            found[*at, "days", "at risk", f"{edge:g}"] = len(part) - float((died | gone).sum())
        times = np.unique(part["days"])
        if survived(float(times[-1])) <= 0.5:
            found[*at, "days", "median", ""] = next(t for t in times if survived(float(t)) <= 0.5)
        early = (part["days"] <= source.edges[-1]) & (part[source.event] == 1)
        found[*at, "days", "events", ""] = float(early.sum())
    return found


def _kaplan_meier(days: Floats, event: Floats) -> Callable[[float], float]:
    times = np.unique(days[event == 1])
    left = 1.0
    steps = [(0.0, 1.0)]
    for at in times:
        left *= 1 - ((days == at) & (event == 1)).sum() / (days >= at).sum()
        steps.append((float(at), float(left)))
    return lambda edge: next(value for at, value in reversed(steps) if at <= edge)


# -- tests and curves ------------------------------------------------------------------------------


def _tests_of_curves(source: Source, runs: int, *, room: bool) -> Iterator[Row]:
    """Groups drawn by chance must be told apart in 5 % of runs; the test's power at ε = 0.3."""
    parts = source.parts
    draw = np.random.default_rng(17)
    groups = (source.table[source.by] == source.codes[source.by][1]).to_numpy().astype(int)
    cell, width = _cells(source)
    for epsilon in (0.9, 0.3):
        study = source.asking(epsilon, parts[2])
        (block,) = statistics.layout(study)
        deviation, began, rejected = _deviation(study) / block.scale, time.monotonic(), 0
        for _ in range(runs):
            counts = _by_group(cell, draw.permutation(groups), width)
            noisy = counts + draw.normal(0, deviation, counts.shape)
            test = log_rank(noisy, deviation**2)
            rejected += test is not None and test.p < _ALPHA
        most = 0.06 + (chance(_ALPHA, runs) if room else 0.0)
        took = time.monotonic() - began
        yield Row(f"log-rank, ε = {epsilon}: a true null", rejected / runs, runs, took, most=most)
    # Power for the difference that there is, beside that of the test without noise.
    sample = min(runs, 1000)
    for name, noise in (("ε = 0.3", deviation), ("no privacy", 1e-6)):
        began, found = time.monotonic(), 0
        for _ in range(sample):
            chosen = draw.integers(0, len(cell), len(cell))
            counts = _by_group(cell[chosen], groups[chosen], width)
            test = log_rank(counts + draw.normal(0, noise, counts.shape), noise**2)
            found += test is not None and test.p < _ALPHA
        took = time.monotonic() - began
        yield Row(f"log-rank, power by {source.by}, {name}", found / sample, sample, took, 0.05)


def _cells(source: Source) -> tuple[np.ndarray[Any, np.dtype[np.int64]], int]:
    days, died = source.table["days"].to_numpy(), source.table[source.event].to_numpy() == 1
    return _cell_of(days, died, source.edges), 2 * len(source.edges) + 1


def _cell_of(days: Any, died: Any, edges: tuple[float, ...]) -> Any:
    last = len(edges)
    happened, left = np.searchsorted(edges, days, "left"), np.searchsorted(edges, days, "right")
    return np.where(died, np.where(happened == last, 2 * last, happened), last + left)


def _apart(runs: int, *, room: bool) -> Iterator[Row]:
    """The log-rank test where one group is followed for less time, and leaves in each interval.

    Times are real, those of SUPPORT2; how long people are followed is drawn.
    """
    source, draw, began = support2_source(), np.random.default_rng(29), time.monotonic()
    edges = tuple(300.0 * n for n in range(1, 6))
    table = source.table[source.table["death"] == 1]
    width, rejected = 2 * len(edges) + 1, 0
    for _ in range(runs):
        days = draw.choice(table["days"].to_numpy(), 4000).astype(float)
        group = draw.integers(0, 2, 4000)
        followed = np.where(group == 1, draw.uniform(0, 700, 4000), draw.uniform(900, 1600, 4000))
        seen, died = np.minimum(days, followed), days <= followed
        counts = _by_group(_cell_of(seen, died, edges), group, width)
        test = log_rank(counts + draw.normal(0, 5.0, counts.shape), 25.0)
        rejected += test is not None and test.p < _ALPHA
    most = 0.06 + (chance(_ALPHA, runs) if room else 0.0)
    took = time.monotonic() - began
    yield Row(
        "log-rank, groups that leave differently: a true null",
        rejected / runs,
        runs,
        took,
        most=most,
    )


def _by_group(cell: Any, groups: Any, width: int) -> Floats:
    return np.bincount(groups * width + cell, minlength=2 * width).reshape(2, width).astype(float)


def _error(source: Source, runs: int, *, room: bool) -> Row:
    """One curve of SUPPORT2 at ε = 0.3: how often all twelve points are right within .02."""
    began, draw = time.monotonic(), np.random.default_rng(23)
    study = source.asking(0.3, source.parts[1])
    exact, deviation = _vectors(study, source).sum(0), _deviation(study)
    survived = _kaplan_meier(source.table["days"].to_numpy(), source.table["death"].to_numpy())
    truth, good = [survived(edge) for edge in source.edges], 0
    for _ in range(runs):
        (part,) = read(study, exact + draw.normal(0, deviation, len(exact)), deviation**2)
        assert isinstance(part, SurvivalRead)
        values = [found.value for found in part.curves[0].survival]
        good += max(abs(one - other) for one, other in zip(values, truth, strict=True)) <= 0.02
    least = 0.9 - (chance(0.9, runs) if room else 0.0)
    return Row("curve at ε = 0.3 within .02", good / runs, runs, time.monotonic() - began, least)
