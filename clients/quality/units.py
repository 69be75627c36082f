"""Detect numbers in another unit than the study's, such as Fahrenheit for Celsius.

The check uses the study's public bounds: many values lie outside them, or nearly all lie at one
end, and one well-known conversion would correct that.
"""

from __future__ import annotations

import numpy as np

from flo.arrays import Floats
from flo.clients.quality.findings import DataFinding
from flo.clients.sources.mapping import same_unit
from flo.clients.sources.unit_conversions import CONVERSIONS, Conversion
from flo.study.columns import NumberColumn

UNIT = "unit"
_FEWEST, _DISTINCT = 20, 5
_OUTSIDE = 0.02  # share of the values; fewer are typing errors
_INSIDE = 0.95  # share of the tested values that a conversion must bring within the bounds
_CROWDED = 0.05  # share of the bounds' width that holds 95 % of the values
_WELL_SPREAD = 0.1


def wrong_unit(column: NumberColumn, values: Floats) -> list[DataFinding]:
    """Return one finding if another unit explains the values, (n,) with NaN for missing, better."""
    known = np.sort(values[~np.isnan(values)])
    if len(known) < _FEWEST or np.count_nonzero(known[1:] != known[:-1]) < _DISTINCT - 1:
        return []
    outside = (known < column.minimum) | (known > column.maximum)
    if outside.mean() >= _OUTSIDE:
        best = _best(column, known[outside])
        if best is None:
            return []
        rule = f"{_how_many(outside.mean())} outside the bounds; {_would(best)}"
        return [DataFinding(column.name, rule, kind=UNIT)]
    if not _crowded(column, known):
        return []
    best = _best(column, known, spread=True)
    if best is None:
        return []
    where = "lowest" if np.median(known) < (column.minimum + column.maximum) / 2 else "highest"
    rule = f"95 % of the values lie in the {where} {_CROWDED:.0%} of the study's bounds"
    rule += f"; {_would(best)}"
    return [DataFinding(column.name, rule, level="to accept", kind=UNIT)]


def _how_many(share: float) -> str:
    return "most values lie" if share > 0.5 else "some values lie"


def _would(best: Conversion) -> str:
    of = f" of {best.what}" if best.what else ""
    shift = f" {best.offset:+.4g}" if best.offset else ""
    return (
        f"times {best.factor:.4g}{shift} they would not: are they in {best.given}, while the study "
        f"uses {best.wanted}{of}?"
    )


def _best(column: NumberColumn, values: Floats, *, spread: bool = False) -> Conversion | None:
    """Return the conversion into the study's unit that brings the values within the bounds.

    A conversion for one analyte is used only if the column's name names it.
    """
    fitting = [
        conversion
        for conversion in CONVERSIONS
        if same_unit(conversion.wanted, column.unit)
        and conversion.is_for(column.name)
        and _fits(conversion, column, values, spread=spread)
    ]
    return min(fitting, key=_strangeness, default=None)


def _fits(conversion: Conversion, column: NumberColumn, values: Floats, *, spread: bool) -> bool:
    after = conversion.of(values)
    inside = (after >= column.minimum) & (after <= column.maximum)
    return bool(inside.mean() >= _INSIDE) and not (spread and _crowded(column, after, _WELL_SPREAD))


def _crowded(column: NumberColumn, values: Floats, share: float = _CROWDED) -> bool:
    width = (column.maximum - column.minimum) * share
    low, high = np.quantile(values, [0.05, 0.95])
    return bool(high <= column.minimum + width or low >= column.maximum - width)


def _strangeness(conversion: Conversion) -> tuple[bool, float]:
    """Rank conversions of the column's own quantity first, then those with the smallest change."""
    return not conversion.what, abs(float(np.log(conversion.factor)))
