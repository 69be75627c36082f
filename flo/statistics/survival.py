"""Survival from its noisy block: Kaplan-Meier curves, numbers at risk, medians, log-rank test.

With d_j events and c_j censored in interval j and n_j still there at its start, the hazard is
d_j/(n_j - c_j/2) (the life table's, Cutler, Ederer 1958: those who are censored are there for half
of the interval) and S is the product of 1 minus the hazards. Its variance is Greenwood's, that of
the noise, and what not knowing when in an interval they were censored can change. The log-rank test
(Mantel 1966) adds the noise's covariance to the hypergeometric one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.stats import chi2

from flo.arrays import Floats
from flo.privacy.releases.statistics import Block
from flo.statistics.estimates import LEAST_SIGNAL, NOTHING, Estimate, interval
from flo.study.statistics import Survival

_WIDEST = 0.3


@dataclass(frozen=True)
class Curve:
    """One group. ``survival``: at each edge. ``at_risk``: at time 0 and at each edge.

    ``median``: the time to which half survive; not readable if the band does not cross one half.
    """

    group: str
    survival: tuple[Estimate, ...]
    at_risk: tuple[Estimate, ...]
    events: Estimate
    median: Estimate


@dataclass(frozen=True)
class LogRank:
    """The test of equal survival. ``statistic``: χ², of ``freedom`` degrees of freedom."""

    statistic: float
    freedom: int
    p: float


@dataclass(frozen=True)
class SurvivalRead:
    """Curves by group. ``start``: time zero. ``log_rank``: None of one group, or of too few."""

    name: str
    by: str | None
    time: str
    start: float
    edges: tuple[float, ...]
    curves: tuple[Curve, ...]
    log_rank: LogRank | None


def read_survival(block: Block, values: Floats, variance: float, start: float) -> SurvivalRead:
    """Read a curve's block, (groups, 2·intervals + 1). ``start``: time zero, the column's minimum.

    ``variance``: of the noise of a coordinate.
    """
    part = block.part
    assert isinstance(part, Survival)
    edges = part.edges
    curves = tuple(
        _curve(group, row, variance, (start, *edges))
        for group, row in zip(block.groups, values, strict=True)
    )
    test = log_rank(values, variance) if len(block.groups) > 1 else None
    return SurvivalRead(part.name, part.by, part.time, start, edges, curves, test)


def _exposed(row: Floats) -> tuple[Floats, Floats]:
    """Return a group's exposed numbers by interval, (J,), and their gradients, (J, 2J + 1)."""
    intervals = len(row) // 2
    gradients = np.zeros((intervals, len(row)))
    for j in range(intervals):
        gradients[j, j:intervals] = gradients[j, intervals + j :] = 1.0
        gradients[j, intervals + j] = 0.5
    return gradients @ row, gradients


def _curve(group: str, row: Floats, variance: float, times: tuple[float, ...]) -> Curve:
    intervals = len(row) // 2
    exposed, gradients = _exposed(row)
    product, greenwood, grouping, slope = 1.0, 0.0, 0.0, np.zeros(len(row))
    values, spreads = list[float](), list[float]()
    for j in range(intervals):
        noise = variance * float(gradients[j] @ gradients[j])
        if exposed[j] <= LEAST_SIGNAL * math.sqrt(noise):
            break
        hazard = row[j] / exposed[j]
        if hazard >= 1:
            break
        change = -hazard * gradients[j] / exposed[j]
        change[j] += 1 / exposed[j]
        slope -= change / (1 - hazard)
        product *= 1 - hazard
        happened = max(float(row[j]), 0.5)
        greenwood += happened / (exposed[j] * max(exposed[j] - happened, 1.0))
        # Where in the interval the censored left is not known: their exposed part is taken as
        # uniform on [0, 1], of variance 1/12.
        grouping += (hazard / (1 - hazard) * max(row[intervals + j], 0.0) / exposed[j]) ** 2 / 12
        values.append(product)
        noise_of_log = variance * float(slope @ slope)
        spreads.append(product**2 * (noise_of_log + greenwood + grouping))
    falling = np.minimum.accumulate(np.clip(values, 0.0, 1.0)) if values else np.zeros(0)
    survival = [
        interval(float(value), spread, 0.0, 1.0, _WIDEST)
        for value, spread in zip(falling, spreads, strict=True)
    ]
    survival += [NOTHING] * (intervals - len(survival))
    return Curve(
        group,
        tuple(survival),
        tuple(_at_risk(row, variance)),
        _events(row, variance),
        _median(survival, times),
    )


def _at_risk(row: Floats, variance: float) -> list[Estimate]:
    """Return the numbers still there at time 0 and at each edge, with intervals for the noise."""
    intervals, found = len(row) // 2, []
    for j in range(intervals + 1):
        left = row[j:intervals].sum() + row[intervals + j :].sum()
        cells = 2 * (intervals - j) + 1
        found.append(interval(float(left), variance * cells, 0.0, math.inf, math.inf))
    return found


def _events(row: Floats, variance: float) -> Estimate:
    intervals = len(row) // 2
    found = float(row[:intervals].sum())
    sampling = max(found, 0.0)
    return interval(found, variance * intervals + sampling, 0.0, math.inf, math.inf)


def _median(survival: list[Estimate], times: tuple[float, ...]) -> Estimate:
    """Return the time to which half survive, with the times that the band allows."""
    if not survival or not survival[0].high >= 0:
        return NOTHING
    reached = [one for one in survival if not math.isnan(one.value)]
    lows = np.array([1.0, *(one.low for one in reached)])
    highs = np.array([1.0, *(one.high for one in reached)])
    values = np.array([1.0, *(one.value for one in reached)])
    if values[-1] > 0.5 or highs[-1] > 0.5:
        return NOTHING
    at = times[: len(values)]

    def crosses(curve: Floats) -> int:
        return int(np.argmax(np.minimum.accumulate(curve) <= 0.5))

    value = float(np.interp(-0.5, -values, at))
    first, last = crosses(lows), crosses(highs)
    return Estimate(value, at[max(first - 1, 0)], at[last])


def log_rank(values: Floats, variance: float) -> LogRank | None:
    """Return the log-rank test between groups, from their cells (groups, 2·intervals + 1)."""
    groups, width = values.shape
    intervals = width // 2
    exposed, gradients = zip(*(_exposed(row) for row in values), strict=True)
    there = np.array(exposed)  # (groups, intervals)
    everyone, events = there.sum(0), values[:, :intervals].sum(0)
    difference = np.zeros(groups)
    slopes = np.zeros((groups, groups, width))  # of U_g by the cells of each group
    covariance = np.zeros((groups, groups))
    compared = 0
    for j in range(intervals):
        noise = variance * groups * float(gradients[0][j] @ gradients[0][j])
        if everyone[j] <= LEAST_SIGNAL * math.sqrt(noise):
            break
        compared += 1
        share, hazard = there[:, j] / everyone[j], events[j] / everyone[j]
        difference += values[:, j] - share * events[j]
        for g in range(groups):
            slopes[g, g, j] += 1.0
            slopes[g, :, j] -= share[g]
            slopes[g, g] -= hazard * gradients[g][j]
            for h in range(groups):
                slopes[g, h] += hazard * share[g] * gradients[h][j]
        left = max(float(everyone[j]), 2.0)
        happened = min(max(float(events[j]), 0.0), left)
        size = happened * (left - happened) / (left - 1)
        covariance += size * (np.diag(share) - np.outer(share, share))
    if not compared:
        return None
    flat = slopes.reshape(groups, -1)
    covariance += variance * flat @ flat.T
    kept = slice(0, groups - 1)  # the differences add up to 0
    statistic = float(difference[kept] @ np.linalg.solve(covariance[kept, kept], difference[kept]))
    freedom = groups - 1
    return LogRank(statistic, freedom, float(chi2.sf(max(statistic, 0.0), freedom)))
