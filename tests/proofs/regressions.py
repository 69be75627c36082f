"""Regressions of group ``statistics``: intervals, widths and signs against fits of pandas' rows.

The truth is the maximum of the likelihood over all patients of the source, found by a Newton
iteration on the table itself. *Noise*: the patients stay; *redrawn*: they are drawn again, too.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from flo.arrays import Floats
from flo.clients.records.snapshot import Snapshot
from flo.lab.foresight import foresee_all
from flo.lab.simulation import load_hospitals
from flo.privacy.accounting.plan import Plan, combined_variance
from flo.privacy.patients.patients import Patients
from flo.privacy.releases import regressions, statistics
from flo.privacy.releases.fisher_scoring import Released, next_coefficients
from flo.statistics.catalogue import CatalogueRead
from flo.statistics.reading import read
from flo.statistics.regression import RegressionRead
from flo.statistics.synthetic_rows import synthetic_rows
from flo.study.document import Study
from flo.study.statistics import INTERCEPT, ROUNDS
from tests.proofs.rows import Row, chance
from tests.proofs.statistics_sets import Source

_RUNS, _QUICK_RUNS = 1000, 30
_LEAST, _MEDIAN, _WIDEST = 0.93, (0.93, 0.97), 2.5
_MOSTLY = 0.5  # shown in fewer runs than this, those that are shown are chosen by their noise
_CERTAIN, _ENOUGH = 3.0, 7000  # standard errors, and patients from which widths are promised


@dataclass(frozen=True)
class Fit:
    """Coefficients and standard errors by name, per unit, without noise; of ``patients``."""

    values: dict[str, float]
    errors: dict[str, float]
    patients: int


@dataclass(frozen=True)
class Seen:
    """Whether each shown interval of a coefficient held the truth, and its width beside none."""

    held: list[bool]
    wide: list[float]


def rows(sources: list[Source], quick: bool) -> Iterator[Row]:
    """Coverage, widths beside a fit without privacy, and signs."""
    runs = _QUICK_RUNS if quick else _RUNS
    for source in sources:
        for part in source.regressions:
            for epsilon in (0.9,) if quick else (0.9, 0.3):
                yield from _coverage(source, part, epsilon, runs, room=quick)


def _coverage(
    source: Source, part: dict[str, Any], epsilon: float, runs: int, *, room: bool
) -> Iterator[Row]:
    study, truth = source.asking(epsilon, part), _fitted(source, part)
    everyone = everyone_of(study, source)
    slack = chance(0.95, runs) + 0.01 if room else 0.0
    for how in ("noise", "redrawn"):
        if how == "noise" and source.enlarged > 1:
            continue  # the truth is of the source
        began, draw = time.monotonic(), np.random.default_rng(int(1000 * epsilon))
        seen = {name: Seen([], []) for name in truth.values}
        wrong = 0
        for _ in range(runs):
            patients = everyone if how == "noise" else redrawn(everyone, draw, source.enlarged)
            for one in _answer(study, patients, draw).coefficients:
                if one.p is None:
                    continue
                true = truth.values[one.name]
                error = truth.errors[one.name] / math.sqrt(source.enlarged)
                seen[one.name].held.append(one.value.low <= true <= one.value.high)
                seen[one.name].wide.append((one.value.high - one.value.low) / (2 * 1.96 * error))
                certain = not one.value.low <= 0 <= one.value.high
                beyond = abs(true) > _CERTAIN * error
                wrong += certain and beyond and (one.value.value > 0) != (true > 0)
        took = time.monotonic() - began
        name = f"{source.name}, {part['name']}, ε = {epsilon}: {how}"
        shown = len(seen[INTERCEPT].held) / runs
        yield Row(f"{name}, share of runs shown", shown, runs, took)
        right = [1 - (len(one.held) - sum(one.held)) / runs for one in seen.values()]
        yield Row(f"{name}, least hidden or held", min(right), runs, took, _LEAST - slack)
        yield Row(f"{name}, wrong signs", wrong, runs, took, most=0)
        if shown < _MOSTLY:
            continue
        shares = [float(np.mean(one.held)) for one in seen.values()]
        yield Row(f"{name}, least held of {len(shares)}", min(shares), runs, took, _LEAST - slack)
        low, high = _MEDIAN
        middle = float(np.median(shares))
        if how == "redrawn":
            yield Row(f"{name}, median held", middle, runs, took, low - slack, high + slack)
        widths = {name: float(np.median(one.wide)) for name, one in seen.items()}
        most = _WIDEST if truth.patients >= _ENOUGH else math.inf
        yield Row(f"{name}, widest beside no privacy", max(widths.values()), runs, took, most=most)
        yield from _foreseen(study, source, widths, name)


def _foreseen(study: Study, source: Source, widths: dict[str, float], name: str) -> Iterator[Row]:
    """What the synthetic rows of a catalogue at ε = 0.3 foretell of the widths."""
    began = time.monotonic()
    (block,) = regressions.layout(study)
    part = block.part
    columns = list(dict.fromkeys([*part.predictors, part.outcome, source.event]))
    catalogue = source.asking(0.3, {"kind": "catalogue", "name": "all", "columns": columns})
    draw = np.random.default_rng(7)
    everyone = redrawn(everyone_of(catalogue, source), draw, source.enlarged)
    variance = combined_variance(
        catalogue, Plan.of(catalogue).purpose("statistics"), len(catalogue.hospitals)
    )
    exact = statistics.exact(catalogue, everyone)
    noisy = exact + draw.normal(0, math.sqrt(variance), len(exact))
    (found,) = read(catalogue, noisy, variance)
    assert isinstance(found, CatalogueRead)
    rows = synthetic_rows(found, everyone.count, draw.random)
    for missing in {column.name for column in study.data.columns} - set(rows.columns):
        rows[missing] = source.table[missing].iloc[0]
    (precision,) = foresee_all(study, rows).values()
    off = [precision.widths[one] / width for one, width in widths.items()]
    worst = max(off, key=lambda ratio: abs(math.log(ratio)))
    took = time.monotonic() - began
    yield Row(f"{name}, width foreseen / measured, worst", worst, len(off), took, 0.8, 1.25)


def _by_hospital(study: Study, source: Source) -> dict[str, Patients]:
    by_site = {
        str(name): part.drop(columns="hospital") for name, part in source.table.groupby("hospital")
    }
    loaded = load_hospitals(study, by_site, "patient_id")
    return {name: Snapshot.divided(one, set()).training for name, one in loaded.items()}


def everyone_of(study: Study, source: Source) -> Patients:
    """All patients of all hospitals."""
    found = _by_hospital(study, source).values()
    inputs = np.concatenate([one.inputs for one in found])
    labels = np.concatenate([one.labels for one in found])
    return Patients(inputs, labels, np.arange(len(labels)), len(labels))


def redrawn(everyone: Patients, draw: np.random.Generator, times: int) -> Patients:
    """Patients drawn again from all of them, ``times`` as many."""
    count = everyone.count * times
    chosen = draw.integers(0, everyone.count, count)
    return Patients(everyone.inputs[chosen], everyone.labels[chosen], np.arange(count), count)


def _answer(study: Study, patients: Patients, draw: np.random.Generator) -> RegressionRead:
    part = Plan.of(study).purpose("regression")
    variance = combined_variance(study, part, len(study.hospitals))
    found = list[Released]()
    for _ in range(ROUNDS):
        asked = next_coefficients(study, found)
        exact = regressions.exact(study, patients, asked)
        noisy = exact + draw.normal(0, math.sqrt(variance), len(exact))
        found.append(Released(noisy, asked, variance))
    (answer,) = read(study, np.zeros(0), 0.0, found)
    assert isinstance(answer, RegressionRead)
    return answer


# -- the truth -------------------------------------------------------------------------------------


def _fitted(source: Source, part: dict[str, Any]) -> Fit:
    table = source.table.dropna(subset=[part["outcome"], *part["predictors"]])
    design = {"intercept": np.ones(len(table))}
    for name in part["predictors"]:
        if name in source.codes:
            for code in source.codes[name][1:]:
                design[f"{name} = {code}"] = (table[name] == code).to_numpy(float)
        else:
            design[name] = table[name].to_numpy(float)
    x, y = np.column_stack(list(design.values())), table[part["outcome"]].to_numpy(float)
    fit = {"logistic": _logistic, "linear": _linear, "poisson": _poisson}[part["family"]]
    beta, covariance = fit(x, y)
    errors = np.sqrt(np.diag(covariance))
    return Fit(
        dict(zip(design, map(float, beta), strict=True)),
        dict(zip(design, map(float, errors), strict=True)),
        len(table),
    )


def _linear(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    beta, *_ = np.linalg.lstsq(x, y, rcond=None)
    left = y - x @ beta
    of_residuals = float(left @ left) / (len(y) - x.shape[1])
    return np.asarray(beta, float), np.asarray(np.linalg.inv(x.T @ x) * of_residuals, float)


def _logistic(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    beta = np.zeros(x.shape[1])
    for _ in range(50):
        p = 1 / (1 + np.exp(-x @ beta))
        information = (x * (p * (1 - p))[:, None]).T @ x
        beta = beta + np.linalg.solve(information, x.T @ (y - p))
    return np.asarray(beta, float), np.asarray(np.linalg.inv(information), float)


def _poisson(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """With the dispersion Σ(y - m)²/Σm."""
    beta = np.zeros(x.shape[1])
    beta[0] = math.log(y.mean())
    for _ in range(50):
        m = np.exp(x @ beta)
        information = (x * m[:, None]).T @ x
        beta = beta + np.linalg.solve(information, x.T @ (y - m))
    dispersion = float((y - m) @ (y - m) / m.sum())
    return np.asarray(beta, float), np.asarray(np.linalg.inv(information) * dispersion, float)
