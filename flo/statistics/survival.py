"""Survival from its noisy block: Kaplan-Meier curves, numbers at risk, medians, log-rank test.

With d_j events and c_j censored in interval j and n_j still there at its start, the hazard is
d_j/(n_j - c_j/2) (the life table's, Cutler, Ederer 1958: those who are censored are there for half
of the interval) and S is the product of 1 minus the hazards. Its variance is Greenwood's and that
of the noise. Nobody knows when in an interval the censored left, so an interval of S reaches from
its lower end if all of them left first to its upper end if all left last. The log-rank test (Mantel
1966) adds the noise's covariance to the hypergeometric one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import chdtrc

from flo.arrays import Floats
from flo.privacy.releases.statistics import Block
from flo.statistics.estimates import (
    LEAST_SIGNAL,
    NOTHING,
    Estimate,
    Z,
    of_patients,
    share_variance,
)
from flo.study.statistics import Survival

_WIDEST, _MOST_SHIFT = 0.3, 0.3


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
    """The test of equal survival. ``statistic``: χ², of ``freedom`` degrees of freedom.

    ``compared``: in how many intervals; in others it is not known well enough who was there.
    """

    statistic: float
    freedom: int
    p: float
    compared: int


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
    everyone = float(values.sum())
    curves = tuple(
        _curve(group, row, everyone, variance, (start, *edges))
        for group, row in zip(block.groups, values, strict=True)
    )
    test = log_rank(values, variance) if len(block.groups) > 1 else None
    return SurvivalRead(part.name, part.by, part.time, start, edges, curves, test)


def _exposed(row: Floats, part: float = 0.5) -> tuple[Floats, Floats]:
    """Return a group's exposed numbers by interval, (J,), and their gradients, (J, 2J + 1).

    ``part``: of an interval for which those who were censored in it are taken to have been there.
    """
    intervals = len(row) // 2
    gradients = np.zeros((intervals, len(row)))
    for j in range(intervals):
        gradients[j, j:intervals] = gradients[j, intervals + j :] = 1.0
        gradients[j, intervals + j] = part
    return gradients @ row, gradients


def _curve(
    group: str, row: Floats, everyone: float, variance: float, times: tuple[float, ...]
) -> Curve:
    survival = _survival(row, variance)
    return Curve(
        group,
        tuple(survival),
        tuple(_at_risk(row, everyone, variance)),
        _events(row, everyone, variance),
        _median(survival, times),
    )


def _survival(row: Floats, variance: float) -> list[Estimate]:
    """Return S at each edge; not readable from where too few are exposed to be above the noise."""
    found = list[Estimate]()
    middle, first, last = (_products(row, variance, part) for part in (0.5, 0.0, 1.0))
    lowest = 1.0
    for (value, spread), (low, of_low), (high, of_high) in zip(middle, first, last, strict=False):
        lowest = min(lowest, max(value, 0.0))
        half = Z * math.sqrt(max(spread, of_low, of_high))
        ends = min(max(low - half, 0.0), 1.0), min(max(high + half, 0.0), 1.0)
        shown = min(max(lowest, ends[0]), ends[1])
        found.append(Estimate(shown, *ends, readable=ends[1] - ends[0] <= _WIDEST))
    return found + [NOTHING] * (len(row) // 2 - len(found))


def _products(row: Floats, variance: float, part: float) -> list[tuple[float, float]]:
    """Return S and its variance at each edge, as far as the exposed are above the noise."""
    exposed, gradients = _exposed(row, part)
    product, greenwood, slope = 1.0, 0.0, np.zeros(len(row))
    found = list[tuple[float, float]]()
    for j in range(len(row) // 2):
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
        found.append((product, product**2 * (variance * float(slope @ slope) + greenwood)))
    return found


def _at_risk(row: Floats, everyone: float, variance: float) -> list[Estimate]:
    """Return the numbers still there at time 0 and at each edge; ``everyone``: of all groups."""
    intervals, found = len(row) // 2, []
    for j in range(intervals + 1):
        left = float(row[j:intervals].sum() + row[intervals + j :].sum())
        noise = variance * (2 * (intervals - j) + 1)
        found.append(of_patients(left, noise + _sampled(left, everyone)))
    return found


def _events(row: Floats, everyone: float, variance: float) -> Estimate:
    intervals = len(row) // 2
    happened = float(row[:intervals].sum())
    return of_patients(happened, variance * intervals + _sampled(happened, everyone))


def _sampled(count: float, everyone: float) -> float:
    """Return the sampling variance of a number of patients out of everyone."""
    return everyone**2 * share_variance(count, everyone) if everyone > 0 else 0.0


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
    """Return the log-rank test between groups, from their cells (groups, 2·intervals + 1).

    When in an interval people left is not known, and groups may differ in it. So an interval is
    compared only as long as the worst that this can do to any group's difference, over all
    intervals compared, is ``_MOST_SHIFT`` of its standard deviation: that raises a size of 5 % to
    less than 6 %. Groups that are not above the noise are left out.
    """
    noise = variance * values.shape[1]
    kept = values[values.sum(1) > LEAST_SIGNAL * math.sqrt(noise)]
    groups, width = kept.shape
    if groups < 2:
        return None
    intervals = width // 2
    both = [_exposed(row) for row in kept]
    there = np.array([exposed for exposed, _ in both])  # (groups, intervals)
    gradients = [gradient for _, gradient in both]
    everyone, events = there.sum(0), kept[:, :intervals].sum(0)
    unknown = np.maximum(kept[:, intervals : 2 * intervals], 0.0) / 2  # exposed or not
    difference, shift = np.zeros(groups), np.zeros(groups)
    slopes = np.zeros((groups, groups, width))  # of U_g by the cells of each group
    covariance = np.zeros((groups, groups))
    compared = 0
    for j in range(intervals):
        of_noise = variance * sum(float(gradient[j] @ gradient[j]) for gradient in gradients)
        if everyone[j] <= LEAST_SIGNAL * math.sqrt(of_noise):
            break
        share, hazard = there[:, j] / everyone[j], events[j] / everyone[j]
        left = max(float(everyone[j]), 2.0)
        happened = min(max(float(events[j]), 0.0), left)
        size = happened * (left - happened) / (left - 1)
        with_it = covariance + size * (np.diag(share) - np.outer(share, share))
        others = unknown[:, j].sum() - unknown[:, j]
        shifted = shift + max(hazard, 0.0) * (unknown[:, j] * (1 - share) + others * share)
        if (shifted > _MOST_SHIFT * np.sqrt(np.maximum(np.diag(with_it), 0.0)) + 1e-9).any():
            continue
        compared += 1
        shift, covariance = shifted, with_it
        difference += kept[:, j] - share * events[j]
        for g in range(groups):
            slopes[g, g, j] += 1.0
            slopes[g, :, j] -= share[g]
            slopes[g, g] -= hazard * gradients[g][j]
            for h in range(groups):
                slopes[g, h] += hazard * share[g] * gradients[h][j]
    if not compared:
        return None
    flat = slopes.reshape(groups, -1)
    covariance += variance * flat @ flat.T
    most = slice(0, groups - 1)  # the differences add up to 0
    statistic = float(difference[most] @ np.linalg.solve(covariance[most, most], difference[most]))
    freedom = groups - 1
    p = float(chdtrc(freedom, max(statistic, 0.0)))
    return LogRank(statistic, freedom, p, compared)
