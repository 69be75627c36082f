"""What a change of a column is: in other units, exchanged codes, always the same, missing, refused;
or only other patients than before.

The counts since the change are compared with what the baseline would have become under each
explanation, of a part of the patients or of all. The explanation that comes nearest is named, if it
explains most of the difference. A change that none explains is described: what rose, what fell.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np

from flo.arrays import Floats
from flo.clients.sources.mapping import same_unit
from flo.clients.sources.unit_conversions import CONVERSIONS, Conversion
from flo.clients.watching.cells import ColumnCells
from flo.clients.watching.counts import ASKED, SCORED, ColumnPlaces, Counts
from flo.study.columns import CategoryColumn, NumberColumn

Cause = Literal["units", "factor", "codes", "constant", "missing", "refused", "values"]
Rated = Literal["values", "missing", "refused"]
_SHARES = np.linspace(0.05, 1.0, 20)  # of the patients to whom an explanation applies
_LEFT, _SURE = 0.35, 0.25  # of the difference that is left unexplained; largest distance then
_LESS = 0.02  # distance by which the best explanation must be nearer than the next one's
_MOST_CODES = 12  # of a category whose codes are exchanged in trial
_ALIKE, _CHANCE = 0.1, 1.4  # distance of values that are as before, and more of n by chance / √n
# Of two causes that explain a change alike, the other one is said.
_UNLIKELY = {("number", "factor"): 1, ("category", "constant"): 3}  # times ``_LESS``
_ALIKE_CAUSES = ({"units", "factor"}, {"codes", "constant"})


@dataclass(frozen=True)
class Named:
    """``cause``, and in ``words`` what happened, such as "arrives in µmol/L instead of mg/dL"."""

    cause: Cause
    words: str


def named(places: ColumnPlaces, before: Counts, since: Counts, rate: Rated) -> Named:
    """Return what changed in a column, by the counts of the baseline and those since the change.

    ``rate``: which of the column's rates raised the alarm.
    """
    column = places.of
    old, new = _values(places, before), _values(places, since)
    if old.sum() and new.sum() and _are_others(column, old, new):
        found = _explained(column, old / old.sum(), new / new.sum())
        if found is not None:
            return found
    if rate == "values":
        return Named("values", _described(column, old, new))
    place, of = (places.refused, ASKED) if rate == "refused" else (places.missing, SCORED)
    was, now = (percent(counts[place] / max(counts[of], 1)) for counts in (before, since))
    what = "does not fit the study's rules in" if rate == "refused" else "is missing in"
    return Named(rate, f"{what} {now} of patients, before in {was}")


def typical(places: ColumnPlaces, counts: Counts) -> str:
    """Return a column's median, or its most frequent code with its share; "" of no values."""
    values = _values(places, counts)
    if not values.sum():
        return ""
    of = places.of.column
    if of.kind == "number":
        return _median(places.of, values)
    top = int(np.argmax(values))
    return f"{of.codes[top]}, {percent(float(values[top] / values.sum()))}"


def is_as_before(places: ColumnPlaces, before: Counts, since: Counts) -> bool:
    """Return whether a column is hardly changed, by counts of a baseline and of later patients."""
    old, new = _values(places, before), _values(places, since)
    if not old.sum() or not new.sum() or _are_others(places.of, old, new):
        return False
    for place, of in ((places.refused, ASKED), (places.missing, SCORED)):
        was, now = (counts[place] / max(counts[of], 1) for counts in (before, since))
        by_chance = 3 * math.sqrt(was * (1 - was) / max(since[of], 1))
        if now > was + by_chance + _LESS:
            return False
    return True


def _are_others(column: ColumnCells, old: Floats, new: Floats) -> bool:
    """Return whether values are further apart than alike values are by chance, by their counts."""
    most = _ALIKE + _CHANCE / float(np.sqrt(new.sum()))
    return _distance(column, old / old.sum(), new / new.sum()) > most


def _values(places: ColumnPlaces, counts: Counts) -> Floats:
    """Return the counts of values by cell, those beyond the bounds among them; missing left out."""
    found = counts[places.cells] + counts[places.beyond]
    return np.asarray(found[:-1], dtype=float)


def _explained(column: ColumnCells, old: Floats, new: Floats) -> Named | None:
    """Return the explanation of new shares (cells,) by old ones; None if none is sure."""
    apart = _distance(column, old, new)
    tried = sorted(
        (
            (
                _distance(column, (1 - share) * old + share * changed, new)
                + _LESS * _UNLIKELY.get((column.column.kind, cause), 0),
                *(-share, cause, words),
            )
            for cause, words, changed in _explanations(column, old, new)
            for share in _SHARES
        ),
        key=lambda one: one[:2],
    )
    if not tried or not apart:
        return None
    left, minus, cause, words = tried[0]
    whom = "" if minus < -0.9 else f" for about {percent(-minus)} of patients"
    unit, factor = (
        next((one for one in tried if one[2] == number), None) for number in ("units", "factor")
    )
    if (
        cause in ("units", "factor")
        and unit
        and factor
        and max(unit[0], factor[0]) - left < 2 * _LESS
    ):
        cause, words = unit[2], f"{unit[3]}, or {factor[3]}{',' if whom else ''}"
    others = [one for one in tried if one[2] != cause and {one[2], cause} not in _ALIKE_CAUSES]
    if left > _LEFT * apart or left > _SURE or (others and others[0][0] - left < _LESS):
        return None
    return Named(cause, words + whom)


def _explanations(
    column: ColumnCells, old: Floats, new: Floats
) -> Iterator[tuple[Cause, str, Floats]]:
    """Yield cause, words, and what the old shares (cells,) would have become."""
    of = column.column
    top = int(np.argmax(new))
    same = np.zeros(len(old))
    same[top] = 1.0
    yield "constant", f"is always {_value(column, top)}", same
    if of.kind == "category":
        if len(of.codes) > _MOST_CODES:
            return
        for one, other in combinations(range(len(of.codes)), 2):
            swapped = old.copy()
            swapped[[one, other]] = old[[other, one]]
            words = f"has its codes {of.codes[one]} and {of.codes[other]} exchanged"
            yield "codes", words, swapped
        return
    for conversion in _conversions(of):
        words = f"arrives in {conversion.given} instead of {conversion.wanted}"
        yield "units", words, _converted(column, old, conversion)
    for factor in (10.0, 100.0, 1000.0):
        for words, times in ((f"is {factor:g} times", factor), (f"is 1/{factor:g} of", 1 / factor)):
            conversion = Conversion("", "", 1 / times)
            yield "factor", f"{words} what it was before", _converted(column, old, conversion)


def _conversions(column: NumberColumn) -> list[Conversion]:
    """Return how a column's unit may have been taken for another one."""
    return [
        one for one in CONVERSIONS if same_unit(one.wanted, column.unit) and one.is_for(column.name)
    ]


def _converted(column: ColumnCells, old: Floats, conversion: Conversion) -> Floats:
    """Return the shares (cells,) of values that are still given in ``conversion.given``."""
    edges = column.edges
    rise = np.concatenate([[0.0], np.cumsum(old)])
    ends = np.concatenate([[2 * edges[0] - edges[1]], edges, [2 * edges[-1] - edges[-2]]])
    as_before = conversion.of(edges)  # which of the old values now arrive below each edge
    below = np.interp(as_before, ends, rise)
    return np.diff(below, prepend=0.0, append=1.0)


def _distance(column: ColumnCells, one: Floats, other: Floats) -> float:
    """Return how far two shares are apart: the largest difference of their sums up to a value; for
    codes, half of the sum of all differences."""
    if column.column.kind == "category":
        return float(np.abs(one - other).sum() / 2)
    return float(np.abs(np.cumsum(one - other)).max())


def _described(column: ColumnCells, old: Floats, new: Floats) -> str:
    if not old.sum() or not new.sum():
        return "has other values than before"
    if isinstance(column.column, CategoryColumn):
        shares = [one / one.sum() for one in (old, new)]
        place = int(np.argmax(np.abs(shares[1] - shares[0])))
        was, now = (percent(float(one[place])) for one in shares)
        return f"is {column.column.codes[place]} in {now} of patients, before in {was}"
    was, now = (_median(column, one) for one in (old, new))
    if was == now:
        return f"varies otherwise than before, around {now}"
    return f"has a median of {now}, before {was}"


def _median(column: ColumnCells, counts: Floats) -> str:
    edges = column.edges
    ends = np.concatenate([[edges[0]], edges, [edges[-1]]])
    rise = np.concatenate([[0.0], np.cumsum(counts) / counts.sum()])
    return f"{float(np.interp(0.5, rise, ends)):.3g} {column.column.unit}"  # type: ignore[union-attr]


def _value(column: ColumnCells, cell: int) -> str:
    if column.column.kind == "category":
        return column.column.codes[cell]
    low, high = column.edges[max(cell - 1, 0)], column.edges[min(cell, len(column.edges) - 1)]
    return f"about {(low + high) / 2:.3g} {column.column.unit}"


def percent(share: float) -> str:
    """Return a share in words."""
    return f"{100 * share:.0f} %" if share >= 0.01 or not share else "less than 1 %"
