"""For whom a model fails: rates of each group at one threshold, from the evaluation's release.

A patient is *flagged* if their risk is at least the threshold, that is if their position is above a
place t. Among the patients with the outcome the share that is flagged is the *sensitivity*, among
the others the *false alarm rate*. A class's number above t and its total are linear in the noisy
sums (``flo.privacy.releases.score_waves``): T = c_t·x and P = c_p·x. So U(s) = T - s·P has, for the
true share s, mean 0 and variance

    V(s) = v·|c_t - s·c_p|² + P·s(1 - s),

the noise's and the sampling's, v being the noise variance of every number. The interval is
Fieller's (1954) set {s: U(s)² <= z²·V(s)}, widened by what the second half of the waves adds beyond
its noise, as the AUC's is. A group whose total is below ``ENOUGH`` deviations of its noise, or
below ``FEWEST`` patients, has no rate: *too few to say*.

Groups *differ* in a rate if Cochran's Q = Σ (s_g - s̄)²/V_g exceeds the quantile of χ² at level
``SIZE`` shared by all rates that are tested (Bonferroni). The largest difference lies between the
largest lower end and the largest upper end of all pairs' simultaneous intervals. No test here ever
says that groups are equal.

Thresholds of each group, from the same numbers, at which sensitivities are about equal: only where
the groups differ. With DerSimonian and Laird's (1986) variance τ² between groups each sensitivity
is shrunk towards the mean (empirical Bayes) and then by ``CAUTION`` of its remaining deviation, so
that a group is seldom moved too far. The group's own curve says which place changes its sensitivity
by as much; the common sensitivity is kept. The groups go this way only as far as at most
``MOST_COST`` of all patients are classified rightly no more.

``ENOUGH``, ``CAUTION`` and ``MOST_COST`` were chosen on FARS; ``make proofs`` judges them on other
patients and sets. Everything here is post-processing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations
from statistics import NormalDist
from typing import Literal

import numpy as np
from scipy.stats import chi2

from flo.arrays import Floats
from flo.privacy.releases import evaluation, score_waves
from flo.study.document import Study

LEVEL, SIZE = 0.9, 0.05  # of intervals; of the tests, together
ENOUGH, FEWEST, CAUTION, MOST_COST = 10.0, 50.0, 1.0, 0.004
RateKind = Literal["sensitivity", "false alarms"]
_CANDIDATES = np.linspace(0.0, 1.0, 2001)
_INSIDE = 0.02  # rates and places this near to an end are moved there
_STEPS = 400  # of a curve that is inverted
_PARTS = 21  # ways between the common threshold and those of each group, the ends included


@dataclass(frozen=True)
class Rate:
    """Share of one group's patients of a class that is flagged.

    ``patients``: about how many there are. ``value``, ``low``, ``high``: None if they are too few
    to say. ``deviation``: of the value, from noise and sampling.
    """

    group: str
    patients: float
    value: float | None
    low: float | None
    high: float | None
    deviation: float


@dataclass(frozen=True)
class Gap:
    """How a rate differs between the groups of one column.

    ``differ``: whether that is more than noise and chance. ``low`` <= largest difference <=
    ``high``, or (0, 1) if fewer than two groups have a rate.
    """

    column: str
    kind: RateKind
    rates: tuple[Rate, ...]
    differ: bool
    low: float
    high: float

    @property
    def known(self) -> list[Rate]:
        """The groups that have a rate."""
        return [one for one in self.rates if one.value is not None]

    @property
    def largest(self) -> float | None:
        """The largest difference of the values; noise and chance enlarge it. None: unknown."""
        values = [one.value for one in self.known if one.value is not None]
        return max(values) - min(values) if len(values) > 1 else None


@dataclass(frozen=True)
class GroupThresholds:
    """``places``: of each group, one or several of which differ from the common ``place``.

    ``before``, ``after``: (gap in sensitivity, share of all patients who are classified rightly),
    by the same noisy sums that the thresholds were chosen from.
    """

    column: str
    groups: tuple[str, ...]
    place: float
    places: tuple[float, ...]
    before: tuple[float, float]
    after: tuple[float, float]

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


def gaps(study: Study, sums: Floats, variance: float, place: float) -> list[Gap]:
    """Return sensitivity and false alarm rate of every group of every subgroup column.

    ``sums`` (length,): the evaluation's release. ``place``: the threshold's position, in (0, 1).
    """
    columns = _columns(study, sums, variance)
    size = SIZE / max(1, 2 * len(columns))
    kinds: tuple[RateKind, ...] = ("sensitivity", "false alarms")
    return [_gap(column, kind, place, size) for column in columns for kind in kinds]


def thresholds(
    study: Study, sums: Floats, variance: float, place: float
) -> dict[str, GroupThresholds]:
    """Return thresholds by group for the columns whose groups differ in sensitivity."""
    found = {}
    differ = {
        gap.column: gap
        for gap in gaps(study, sums, variance, place)
        if gap.kind == "sensitivity" and gap.differ
    }
    for column in _columns(study, sums, variance):
        if column.name in differ:
            found[column.name] = _thresholds(column, differ[column.name], place)
    return found


def at_places(
    study: Study, sums: Floats, variance: float, column: str, places: tuple[float, ...]
) -> tuple[float, float]:
    """Return (gap in sensitivity, share classified rightly) at these places of a column's groups.

    By the noisy sums; groups that are too few to say count in the second only.
    """
    (found,) = (one for one in _columns(study, sums, variance) if one.name == column)
    return _at_places(found, places)


def _columns(study: Study, sums: Floats, variance: float) -> list[_Column]:
    classes = sums.reshape(-1, 2, score_waves.LENGTH)
    found, start = [], 0
    for name, codes in evaluation.groupings(study).items():
        if name:
            found.append(_Column(name, tuple(codes), classes[start : start + len(codes)], variance))
        start += len(codes)
    return found


def _gap(column: _Column, kind: RateKind, place: float, size: float) -> Gap:
    of_class = column.sums[:, 1 if kind == "sensitivity" else 0]
    rates = tuple(
        _rate(group, each, column.variance, place)
        for group, each in zip(column.groups, of_class, strict=True)
    )
    gap = Gap(column.name, kind, rates, False, 0.0, 1.0)
    if len(gap.known) < 2:
        return gap
    values, deviations = _values(gap)
    weight = deviations**-2
    mean = (weight * values).sum() / weight.sum()
    q = (weight * (values - mean) ** 2).sum()
    pairs = list(combinations(range(len(values)), 2))
    z = NormalDist().inv_cdf(1 - (1 - LEVEL) / 2 / len(pairs))
    apart = [
        (abs(values[a] - values[b]), z * float(np.hypot(deviations[a], deviations[b])))
        for a, b in pairs
    ]
    return replace(
        gap,
        differ=bool(q > chi2.ppf(1 - size, len(values) - 1)),
        low=float(max(0.0, *(distance - reach for distance, reach in apart))),
        high=float(min(1.0, max(distance + reach for distance, reach in apart))),
    )


def _values(gap: Gap) -> tuple[Floats, Floats]:
    """Return values and deviations of the groups that have a rate."""
    values = np.array([one.value for one in gap.known], dtype=np.float64)
    return values, np.array([one.deviation for one in gap.known])


def _rate(group: str, sums: Floats, variance: float, place: float) -> Rate:
    above, total = score_waves.of_above(np.array([place]))[0], score_waves.of_total()
    flagged, patients = float(above @ sums), float(total @ sums)
    noise = (variance * float(total @ total)) ** 0.5
    if patients < max(ENOUGH * noise, FEWEST):
        return Rate(group, max(0.0, patients), None, None, None, 1.0)

    def spread(share: Floats) -> Floats:
        from_noise = ((above - share[:, None] * total) ** 2).sum(1) * variance
        return np.asarray(from_noise + patients * share * (1 - share))

    value = float(np.clip(flagged / patients, 0.0, 1.0))
    z = NormalDist().inv_cdf((1 + LEVEL) / 2)
    statistic = flagged - _CANDIDATES * patients
    inside = _CANDIDATES[statistic**2 <= z**2 * spread(_CANDIDATES)]
    ends = (inside.min(), inside.max()) if len(inside) else (value, value)
    half = above.copy()
    half[: 1 + score_waves.WAVES // 2] = 0.0
    half[1 + score_waves.WAVES : 1 + score_waves.WAVES + score_waves.WAVES // 2] = 0.0
    beyond = abs(float(half @ sums)) - z * (variance * float(half @ half)) ** 0.5
    bias = max(0.0, beyond) / patients
    near = np.clip([value], _INSIDE, 1 - _INSIDE)  # a rate of 0 or 1 is not known exactly
    return Rate(
        group,
        patients,
        value,
        float(max(0.0, min(ends[0], value) - bias)),
        float(min(1.0, max(ends[1], value) + bias)),
        float(spread(near)[0] ** 0.5 / patients),
    )


def _thresholds(column: _Column, gap: Gap, place: float) -> GroupThresholds:
    """Return the places at which sensitivities are about equal; see the head of the module."""
    values, deviations = _values(gap)
    patients = np.array([one.patients for one in gap.known])
    shrunk = _shrunk(values, deviations)
    common = (patients * shrunk).sum() / patients.sum()
    adds = dict(zip([one.group for one in gap.known], (common - shrunk).tolist(), strict=True))
    places = tuple(
        _moved(sums[1], place, adds[group]) if group in adds else place
        for group, sums in zip(column.groups, column.sums, strict=True)
    )
    common_place = (place,) * len(places)
    whole = GroupThresholds(
        column.name,
        *(column.groups, place, places),
        *(_at_places(column, common_place), _at_places(column, places)),
    )
    for share in np.linspace(1.0, 0.0, _PARTS):
        part = whole.part_of_the_way(float(share))
        reached = _at_places(column, part)
        if reached[1] >= whole.before[1] - MOST_COST:
            return replace(whole, places=part, after=reached)
    return replace(whole, places=common_place, after=whole.before)


def _shrunk(values: Floats, deviations: Floats) -> Floats:
    """Return sensitivities moved towards their mean, by noise and then by caution."""
    weight = deviations**-2
    mean = (weight * values).sum() / weight.sum()
    q = (weight * (values - mean) ** 2).sum()
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


def _at_places(column: _Column, places: tuple[float, ...]) -> tuple[float, float]:
    above, total = score_waves.of_above(np.array(places)), score_waves.of_total()
    noise = (column.variance * float(total @ total)) ** 0.5
    flagged = np.einsum("gl,gcl->gc", above, column.sums)
    patients = column.sums @ total
    enough = patients[:, 1] >= max(ENOUGH * noise, FEWEST)
    share = flagged[enough, 1] / patients[enough, 1]
    right = (flagged[:, 1] + patients[:, 0] - flagged[:, 0]).sum() / max(patients.sum(), 1.0)
    gap = float(share.max() - share.min()) if enough.sum() > 1 else 0.0
    return gap, float(np.clip(right, 0.0, 1.0))
