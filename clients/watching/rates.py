"""The monitors of one series of answers: which rates are watched, and from which limit on a rate
has changed.

A *series* is all answers of a model here, or those of one ward. Its first weeks are the baseline.
After them every rate has a limit: the upper end of the baseline's exact interval, with
``TOLERATED`` times its odds (``flo.scores.change_detector.upper_limit``), and with more where the
rate was higher on some day of the week than by chance. Of all limits of all series together, one is
too low with a probability of at most ``MISSED``, as far as the groups of rare codes, which are
chosen by the same baseline, do not make it more.

    values    share of patients with a code; share of those whose number is below each of the values
              that cut the baseline in eighths: none rises, none falls
    missing   share of patients without a value: neither rises nor falls
    refused   share of patients whose record does not fit because of the column: does not rise
    risk      stated risks, as values
    slow      hours in which more than a tenth of the answers took more than a second: do not rise
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Literal

import numpy as np
from scipy.sparse import csr_array
from scipy.special import bdtrc

from flo.arrays import Floats, Mask
from flo.clients.watching.counts import (
    ASKED,
    HOURS,
    SCORED,
    SLOW_HOURS,
    Counts,
    Layout,
)
from flo.scores.change_detector import log_period, times_odds, upper_limit

TOLERATED = 1.5  # times the odds
MISSED, _BY_CHANCE = 0.01, 1e-3
_PARTS, _RARE = 8, 50  # of a number's values; of patients, one of whom has a rare code
Kind = Literal["values", "missing", "refused", "risk", "slow"]
# Of the weight of all rates of a series; those of a kind share it.
_SHARES: dict[Kind, float] = {
    "values": 0.4,
    "missing": 0.2,
    "refused": 0.2,
    "risk": 0.1,
    "slow": 0.1,
}


@dataclass(frozen=True)
class Rate:
    """A watched rate: ``hits`` and ``trials`` are places of the counts. ``column``: its number;
    -1 of a rate of no column. ``rises``: whether the rate must not rise; else it must not fall."""

    kind: Kind
    column: int
    hits: tuple[int, ...]
    trials: tuple[int, ...]
    rises: bool


@dataclass(frozen=True)
class Rates:
    """All rates of a series, by its baseline's counts on each day of the week (7, counts).

    ``log_weight``: of the series among all.
    """

    layout: Layout
    weekdays: Counts
    log_weight: float = 0.0

    @cached_property
    def baseline(self) -> Counts:
        """The baseline's counts."""
        return np.asarray(self.weekdays.sum(axis=0))

    @cached_property
    def all(self) -> tuple[Rate, ...]:
        """The rates, in an order that the study and the baseline give."""
        found = list[Rate]()
        for number, column in enumerate(self.layout.columns):
            there = tuple(range(column.cells.start, column.missing))
            is_ordered = column.of.column.kind == "number"
            for group in self._groups(there, is_ordered=is_ordered):
                found += _both("values", number, group, there)
            if column.of.column.missing == "indicator":
                found += _both("missing", number, (column.missing,), (SCORED,))
            found.append(Rate("refused", number, (column.refused,), (ASKED,), True))
        risks = tuple(range(self.layout.risk.start, self.layout.risk.stop))
        for group in self._groups(risks, is_ordered=True):
            found += _both("risk", -1, group, risks)
        found.append(Rate("slow", -1, (SLOW_HOURS,), (HOURS,), True))
        return tuple(found)

    @cached_property
    def log_weights(self) -> Floats:
        """Logarithm of each rate's weight (k,); the weights' sum is at most 1."""
        kinds = [one.kind for one in self.all]
        weights: Floats = np.log([_SHARES[kind] / kinds.count(kind) for kind in kinds])
        return weights

    @cached_property
    def limits(self) -> Floats:
        """Highest rate of what must not rise (k,): the hits, or the misses of what must not fall.

        1, which cannot be left, without any trial in the baseline.
        """
        hits, trials = self.counted(self.baseline)
        missed = MISSED * np.exp(self.log_weights + self.log_weight)
        limits = times_odds(upper_limit(hits, trials, missed, TOLERATED), self._cycle(hits, trials))
        return np.where(trials > 0, limits, 1.0)

    def _cycle(self, hits: Floats, trials: Floats) -> Floats:
        """Return by what factor the odds of a rate are higher on its highest day of the week (k,).

        1 if no day has more hits than by chance.
        """
        factor = np.ones(len(hits))
        for counts in self.weekdays:
            of_day, there = self.counted(counts)
            expected = hits / np.maximum(trials, 1)
            by_chance = bdtrc(of_day - 1, there.astype(np.int64), expected) > _BY_CHANCE
            rate = np.clip((of_day + 0.5) / (there + 1), 1e-4, 1 - 1e-4)
            usual = np.clip((hits + 0.5) / (trials + 1), 1e-4, 1 - 1e-4)
            odds = rate / (1 - rate) / (usual / (1 - usual))
            factor = np.maximum(factor, np.where(by_chance, 1.0, odds))
        return factor

    def counted(self, counts: Counts) -> tuple[Floats, Floats]:
        """Return hits (or misses of what must not fall) and trials, each (k,)."""
        of_hits, of_trials, rises = self._sums
        hits, trials = of_hits @ counts, of_trials @ counts
        return np.where(rises, hits, trials - hits), trials

    def log_day(self, counts: Counts) -> tuple[Floats, Mask]:
        """Return log L of a day's counts, (k, alternatives), and which rates had a trial (k,)."""
        hits, trials = self.counted(counts)
        return log_period(hits, trials, self.limits), trials > 0

    @cached_property
    def _sums(self) -> tuple[csr_array, csr_array, Floats]:
        """Which counts are summed as hits and as trials, and which rates must not rise."""
        several = [_rows([one.hits for one in self.all], self.layout.length)]
        several += [_rows([one.trials for one in self.all], self.layout.length)]
        return several[0], several[1], np.array([one.rises for one in self.all])

    def _groups(self, places: tuple[int, ...], *, is_ordered: bool) -> list[tuple[int, ...]]:
        """Return groups of places: all below each eighth of the baseline; or of codes, each that is
        not rare, and all that are."""
        counts = self.baseline[list(places)]
        if is_ordered:
            rise = np.cumsum(counts)
            at = np.searchsorted(rise, np.arange(1, _PARTS) * (rise[-1] / _PARTS))
            full = at[counts[at] > rise[-1] / _PARTS]  # a cut before such a cell, too
            ends = np.unique(np.concatenate([at + 1, full]))
            return [places[:end] for end in ends.tolist() if 0 < end < len(places)]
        often = counts >= counts.sum() / _RARE
        rare = tuple(place for place, is_often in zip(places, often, strict=True) if not is_often)
        found: list[tuple[int, ...]] = [
            (place,) for place, is_often in zip(places, often, strict=True) if is_often
        ]
        return [*found, rare] if rare else found


def _both(kind: Kind, column: int, hits: tuple[int, ...], trials: tuple[int, ...]) -> list[Rate]:
    if set(hits) == set(trials):
        return []
    return [Rate(kind, column, hits, trials, rises) for rises in (True, False)]


def _rows(several: list[tuple[int, ...]], length: int) -> csr_array:
    """Return a matrix whose rows have a 1 at each of the places."""
    ends = np.cumsum([0, *map(len, several)])
    places = np.fromiter(chain.from_iterable(several), dtype=np.int64)
    return csr_array((np.ones(len(places)), places, ends), shape=(len(several), length))
