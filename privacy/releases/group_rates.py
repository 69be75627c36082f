"""For whom a model fails: rates of each group at one threshold, from the evaluation's release.

A patient is *flagged* if their risk is at least the threshold, that is if their position is above a
place t. Among the patients with the outcome the share that is flagged is the *sensitivity*, among
the others the *false alarm rate*. A class's number above t and its total are linear in the noisy
sums (``flo.privacy.releases.score_waves``): T = c_t·x and P = c_p·x. So U(s) = T - s·P has, for the
true share s, mean 0 and variance

    V(s) = v·|c_t - s·c_p|² + P·s(1 - s),

the noise's and the sampling's, v being the noise variance of every number. The interval is
Fieller's (1954) set {s: U(s)² <= z²·V(s)}, a quadratic in s. Every group has one, so that groups
are not selected by their noise; where a group's total is below ``ENOUGH`` deviations of its noise,
or below ``FEWEST`` patients, no value is stated: *too few to say*.

The waves beyond the last are missing, which blurs t by about half the shortest wave. Scores of a
model with a number or an image among its columns are dense, and the blur changes little. A model of
codes alone has few scores, and all patients of one may be on the other side of t. There the ends
are those at t + ``_BLUR`` and t - ``_BLUR``, and the difference between the two counts as an error
in every comparison; no thresholds by group are stated.

Groups *differ* in a rate if Cochran's Q = Σ (s_g - s̄)²/V_g exceeds the quantile of χ² at level
``SIZE`` shared by all rates that are tested (Bonferroni), for a threshold that was fixed before.
The largest difference of the groups that have a value lies between the largest lower end and the
largest upper end of all pairs' simultaneous intervals. No test here ever says that groups are
equal.

Thresholds of each group, from the same numbers, at which sensitivities are less apart: only where
the groups differ. With DerSimonian and Laird's (1986) variance τ² between groups each sensitivity
is shrunk towards the mean (empirical Bayes) and then by ``CAUTION`` of its remaining deviation, so
that a group is seldom moved too far. The group's own curve says which place changes its sensitivity
by as much. The groups go this way only as far as, noise included, at most ``MOST_COST`` of all
patients are classified rightly no more.

``ENOUGH``, ``CAUTION`` and ``MOST_COST`` were chosen on some patients of FARS, and the group's own
curve on ``health``; ``make proofs`` judges them on other patients of FARS and on ``nass``.
Everything here is post-processing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import combinations
from statistics import NormalDist
from typing import Literal

import numpy as np
from scipy.special import chdtri

from flo.arrays import Floats
from flo.privacy.releases import evaluation, score_waves
from flo.study.columns import CategoryColumn
from flo.study.document import Study

LEVEL, SIZE = 0.9, 0.05  # of intervals; of the tests, together
ENOUGH, FEWEST, CAUTION, MOST_COST = 10.0, 50.0, 1.0, 0.005
RateKind = Literal["sensitivity", "false alarms"]
_Z = NormalDist().inv_cdf((1 + LEVEL) / 2)
_Z_COST = NormalDist().inv_cdf(LEVEL)  # one-sided
_BLUR = 1 / (2 * score_waves.WAVES)
_INSIDE = 0.02  # rates and places this near to an end are moved there
_STEPS = 400  # of a curve that is inverted
_PARTS = 21  # ways between the common threshold and those of each group, the ends included


@dataclass(frozen=True)
class Rate:
    """Share of one group's patients of a class that is flagged.

    ``patients``: about how many there are, at least 0. ``low`` to ``high``: interval, perhaps 0 to
    1. ``value``: None if patients are too few to say. ``deviation``: of the value, from noise and
    sampling; ``blur``: how far it may be off where few scores are possible.
    """

    group: str
    patients: float
    value: float | None
    low: float
    high: float
    deviation: float
    blur: float


@dataclass(frozen=True)
class Gap:
    """How a rate differs between the groups of one column.

    ``differ``: whether that is more than noise and chance. ``low`` <= largest difference of the
    groups that have a value <= ``high``, or (0, 1) if fewer than two have one; ``low`` is 0 unless
    they differ.
    """

    column: str
    kind: RateKind
    rates: tuple[Rate, ...]
    differ: bool
    low: float
    high: float

    @property
    def known(self) -> list[Rate]:
        """The groups that have a value."""
        return [one for one in self.rates if one.value is not None]

    @property
    def unknown(self) -> list[str]:
        """The groups that are too few to say."""
        return [one.group for one in self.rates if one.value is None]


@dataclass(frozen=True)
class GroupThresholds:
    """``places``: of each group, one or several of which differ from the common ``place``.

    ``cost``: share of all patients who would be classified rightly no more, and its upper end.
    """

    column: str
    groups: tuple[str, ...]
    place: float
    places: tuple[float, ...]
    cost: tuple[float, float]

    def part_of_the_way(self, share: float) -> tuple[float, ...]:
        """Return the groups' places this share of the way from the common one."""
        return tuple(self.place + share * (one - self.place) for one in self.places)


@dataclass(frozen=True)
class _Column:
    """``sums`` (groups, 2, LENGTH) of one column, with ``variance`` in every number."""

    name: str
    groups: tuple[str, ...]
    sums: Floats
    variance: float
    blur: float


def gaps(study: Study, sums: Floats, variance: float, place: float) -> list[Gap]:
    """Return sensitivity and false alarm rate of every group of every subgroup column.

    ``sums`` (length,): the evaluation's release. ``place``: the threshold's position, in (0, 1).
    """
    columns = _columns(study, sums, variance)
    size = SIZE / max(1, 2 * len(columns))
    kinds: tuple[RateKind, ...] = ("sensitivity", "false alarms")
    return [
        _gap(column, kind, (place,) * len(column.groups), size)
        for column in columns
        for kind in kinds
    ]


def thresholds(
    study: Study, sums: Floats, variance: float, place: float
) -> dict[str, GroupThresholds]:
    """Return thresholds by group for the columns whose groups differ in sensitivity."""
    differ = {
        gap.column: gap
        for gap in gaps(study, sums, variance, place)
        if gap.kind == "sensitivity" and gap.differ
    }
    columns = [one for one in _columns(study, sums, variance) if one.name in differ]
    found = [_thresholds(column, differ[column.name], place) for column in columns]
    return {one.column: one for one in found if one is not None}


def gaps_at(
    study: Study, sums: Floats, variance: float, column: str, places: tuple[float, ...]
) -> tuple[Gap, Gap]:
    """Return both rates of one column's groups at a place for each group. Nothing is tested."""
    (found,) = (one for one in _columns(study, sums, variance) if one.name == column)
    return _gap(found, "sensitivity", places, 0.0), _gap(found, "false alarms", places, 0.0)


def classified_rightly(
    study: Study, sums: Floats, variance: float, column: str, places: tuple[float, ...]
) -> float:
    """Return the share of all patients who are classified rightly at these places, 0 to 1."""
    (found,) = (one for one in _columns(study, sums, variance) if one.name == column)
    patients = max(float((found.sums @ score_waves.of_total()).sum()), 1.0)
    return float(np.clip(_right(found, places) / patients, 0.0, 1.0))


def _columns(study: Study, sums: Floats, variance: float) -> list[_Column]:
    classes = sums.reshape(-1, 2, score_waves.LENGTH)
    codes_only = all(isinstance(column, CategoryColumn) for column in study.data.columns)
    blur = _BLUR if codes_only else 0.0
    found, start = [], 0
    for name, codes in evaluation.groupings(study).items():
        some = classes[start : start + len(codes)]
        if name:
            found.append(_Column(name, tuple(codes), some, variance, blur))
        start += len(codes)
    return found


def _gap(column: _Column, kind: RateKind, places: tuple[float, ...], size: float) -> Gap:
    of_class = column.sums[:, 1 if kind == "sensitivity" else 0]
    rates = tuple(
        _rate(group, each, column, place)
        for group, each, place in zip(column.groups, of_class, places, strict=True)
    )
    gap = Gap(column.name, kind, rates, False, 0.0, 1.0)
    if len(gap.known) < 2:
        return gap
    values, deviations, blurs = _values(gap)
    q = _heterogeneity(values, deviations + blurs)
    differ = size > 0 and q > chdtri(len(values) - 1, size)
    pairs = list(combinations(range(len(values)), 2))
    z = NormalDist().inv_cdf(1 - (1 - LEVEL) / 2 / len(pairs))
    apart = [
        (
            abs(values[a] - values[b]),
            z * math.hypot(deviations[a], deviations[b]) + blurs[a] + blurs[b],
        )
        for a, b in pairs
    ]
    low = max(0.0, *(distance - reach for distance, reach in apart)) if differ else 0.0
    high = min(1.0, max(distance + reach for distance, reach in apart))
    return replace(gap, differ=bool(differ), low=float(low), high=float(high))


def _values(gap: Gap) -> tuple[Floats, Floats, Floats]:
    """Return values, deviations and blurs of the groups that have a value."""
    values = np.array([one.value for one in gap.known], dtype=np.float64)
    deviations = np.array([one.deviation for one in gap.known])
    return values, deviations, np.array([one.blur for one in gap.known])


def _heterogeneity(values: Floats, deviations: Floats) -> float:
    """Return Cochran's Q."""
    weight = deviations**-2
    mean = (weight * values).sum() / weight.sum()
    return float((weight * (values - mean) ** 2).sum())


def _rate(group: str, sums: Floats, column: _Column, place: float) -> Rate:
    total = score_waves.of_total()
    patients = float(total @ sums)
    at, after, before = score_waves.of_above(
        np.clip(place + column.blur * np.array([0.0, 1.0, -1.0]), 0.0, 1.0)
    )
    low, _ = _interval(after, sums, column.variance)
    _, high = _interval(before, sums, column.variance)
    noise = (column.variance * float(total @ total)) ** 0.5
    if patients < max(ENOUGH * noise, FEWEST):
        return Rate(group, max(0.0, patients), None, low, high, 1.0, 0.0)
    value = float(np.clip(at @ sums / patients, 0.0, 1.0))
    beyond = _beyond_waves(at, sums, column.variance) / patients
    near = float(np.clip(value, _INSIDE, 1 - _INSIDE))  # a rate of 0 or 1 is not known exactly
    spread = column.variance * float(((at - near * total) ** 2).sum())
    spread += patients * near * (1 - near)
    return Rate(
        group,
        patients,
        value,
        max(0.0, min(low, value) - beyond),
        min(1.0, max(high, value) + beyond),
        spread**0.5 / patients,
        max(0.0, float((before - after) @ sums / patients)) if column.blur else beyond,
    )


def _interval(above: Floats, sums: Floats, variance: float) -> tuple[float, float]:
    """Return the ends of Fieller's set for T/P, within 0 and 1.

    If noise moved the share so far beyond 0 or 1 that none agrees with it, those that disagree
    little more than the closest are accepted.
    """
    total = score_waves.of_total()
    flagged, patients = float(above @ sums), float(total @ sums)
    if patients <= 0:
        return 0.0, 1.0
    square = _Z**2
    while True:
        quadratic = patients**2 - square * variance * float(total @ total) + square * patients
        linear = -2 * flagged * patients + 2 * square * variance * float(above @ total)
        linear -= square * patients
        constant = flagged**2 - square * variance * float(above @ above)
        if quadratic <= 0:
            return 0.0, 1.0
        root = linear**2 - 4 * quadratic * constant
        if root >= 0:
            half, middle = root**0.5 / (2 * quadratic), -linear / (2 * quadratic)
            low, high = max(middle - half, 0.0), min(middle + half, 1.0)
            if low <= high:
                return low, high
        square *= 1.2


def _beyond_waves(above: Floats, sums: Floats, variance: float) -> float:
    """Return what the second half of the waves adds to T, beyond z times its noise."""
    half = above.copy()
    half[: 1 + score_waves.WAVES // 2] = 0.0
    half[1 + score_waves.WAVES : 1 + score_waves.WAVES + score_waves.WAVES // 2] = 0.0
    beyond = abs(float(half @ sums)) - _Z * math.sqrt(variance * float(half @ half))
    return max(0.0, beyond)


def _thresholds(column: _Column, gap: Gap, place: float) -> GroupThresholds | None:
    """Return the places at which sensitivities are less apart; None if any would cost too much."""
    if column.blur:
        return None
    values, deviations, _ = _values(gap)
    patients = np.array([one.patients for one in gap.known])
    shrunk = _shrunk(values, deviations)
    common = (patients * shrunk).sum() / patients.sum()
    adds = dict(zip([one.group for one in gap.known], (common - shrunk).tolist(), strict=True))
    places = tuple(
        _moved(sums[1], place, adds[group]) if group in adds else place
        for group, sums in zip(column.groups, column.sums, strict=True)
    )
    whole = GroupThresholds(column.name, column.groups, place, places, (0.0, 0.0))
    for share in np.linspace(1.0, 0.0, _PARTS)[:-1]:
        part = whole.part_of_the_way(float(share))
        cost = _cost(column, place, part)
        if cost[1] <= MOST_COST:
            return replace(whole, places=part, cost=cost)
    return None


def _shrunk(values: Floats, deviations: Floats) -> Floats:
    """Return sensitivities moved towards their mean, by noise and then by caution."""
    weight = deviations**-2
    q = _heterogeneity(values, deviations)
    between = (q - len(values) + 1) / (weight.sum() - (weight**2).sum() / weight.sum())
    between = max(float(between), 0.0)
    weight = 1 / (deviations**2 + between)
    mean = (weight * values).sum() / weight.sum()
    kept = between / (between + deviations**2)
    apart = (values - mean) * kept
    remaining = deviations * kept**0.5
    apart = np.sign(apart) * np.maximum(np.abs(apart) - CAUTION * remaining, 0.0)
    return np.asarray(mean + apart)


def _moved(sums: Floats, place: float, more: float) -> float:
    """Return the place above which a class's share is larger by ``more`` than above ``place``.

    The share above each place is made to fall: to the right of ``place`` it is the least so far,
    to the left of it the largest.
    """
    if more == 0.0:
        return place
    side = 1 - _INSIDE if more < 0 else _INSIDE
    places = np.linspace(place, side, _STEPS)
    above = score_waves.of_above(places) @ sums / float(score_waves.of_total() @ sums)
    added = np.abs(np.maximum.accumulate(np.sign(more) * (above - above[0])))
    return float(np.interp(abs(more), added, places))


def _cost(column: _Column, place: float, places: tuple[float, ...]) -> tuple[float, float]:
    """Return the share of all patients classified rightly no more, and its upper end by noise."""
    moved = score_waves.of_above(np.array(places)) - score_waves.of_above(np.array([place]))
    patients = max(float((column.sums @ score_waves.of_total()).sum()), 1.0)
    lost = _right(column, (place,) * len(places)) - _right(column, places)
    noise = (2 * column.variance * float((moved**2).sum())) ** 0.5
    return lost / patients, (lost + _Z_COST * noise) / patients


def _right(column: _Column, places: tuple[float, ...]) -> float:
    """Return how many patients are classified rightly at these places of the groups."""
    above = score_waves.of_above(np.array(places))
    flagged = np.einsum("gl,gcl->gc", above, column.sums)
    patients = column.sums @ score_waves.of_total()
    return float((flagged[:, 1] + patients[:, 0] - flagged[:, 0]).sum())
