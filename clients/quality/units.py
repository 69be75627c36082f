"""A number in another unit than the study's: mmol/L for mg/dL, Fahrenheit for Celsius, and so on.

Seen by the study's public bounds: many values lie outside, or all crowd at one end, and one
well-known conversion would bring them in. Factors: molar masses and SI definitions.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import numpy as np

from flo import looks
from flo.clients.mapping import same_unit
from flo.clients.quality.cells import Floats
from flo.clients.quality.findings import Finding
from flo.schema import NumberColumn

UNIT = "unit"
_FEWEST, _DISTINCT = 20, 5
_OUTSIDE = 0.02  # of the values; fewer are slips of the pen
_INSIDE = 0.95  # of what lay outside, after a conversion
_CROWDED = 0.05  # of the bounds' width holds 95 % of the values
_WELL_SPREAD = 0.1


@dataclass(frozen=True)
class Conversion:
    """value · ``factor`` + ``offset``. ``what``: of which quantity, "" for any.

    ``names``: how a word of a column's name begins that is of this quantity, such as ``chol``; of
    two letters it is the whole word.
    """

    given: str
    wanted: str
    factor: float
    offset: float = 0.0
    what: str = ""
    names: tuple[str, ...] = ()

    def of(self, values: Floats) -> Floats:
        """Values in ``given``, as they are in ``wanted``; NaN stays NaN."""
        return values * self.factor + self.offset

    def back(self) -> Conversion:
        """The conversion from ``wanted`` to ``given``."""
        return replace(
            self,
            given=self.wanted,
            wanted=self.given,
            factor=1 / self.factor,
            offset=-self.offset / self.factor,
        )

    def is_for(self, name: str) -> bool:
        """Whether a column of this name is of the quantity, or the quantity does not matter."""
        words = re.split(r"[\W_]+", looks.plain(name))
        long = tuple(name for name in self.names if len(name) > 2)
        return not self.what or any(w in self.names or w.startswith(long) for w in words)


_ONE_WAY = (
    Conversion(
        "mmol/L",
        "mg/dL",
        38.67,
        what="cholesterol",
        names=("chol", "ldl", "hdl", "tchol"),
    ),
    Conversion("mmol/L", "mg/dL", 18.016, what="glucose", names=("gluc", "gluk", "bg", "sugar")),
    Conversion("mmol/L", "mg/dL", 88.57, what="triglycerides", names=("trig", "tg")),
    Conversion("mmol/L", "mg/dL", 2.801, what="urea nitrogen", names=("urea", "bun", "harnst")),
    Conversion("mmol/L", "mg/dL", 4.008, what="calcium", names=("ca", "calc", "kalz")),
    Conversion("µmol/L", "mg/dL", 1 / 88.42, what="creatinine", names=("crea", "krea", "scr")),
    Conversion("µmol/L", "mg/dL", 1 / 17.1, what="bilirubin", names=("bili", "tbili")),
    Conversion("g/L", "g/dL", 0.1),
    Conversion("mmol/mol", "%", 0.0915, 2.15, what="HbA1c", names=("hba1c", "a1c", "hba")),
    Conversion("kPa", "mm Hg", 7.50062),
    Conversion("°F", "°C", 5 / 9, -160 / 9),
    Conversion("lb", "kg", 0.45359237),
    Conversion("m", "cm", 100),
    Conversion("inches", "cm", 2.54),
    Conversion("months", "years", 1 / 12),
    Conversion("days", "years", 1 / 365.25),
    Conversion("a fraction", "%", 100),
    Conversion("thousands", "single ones", 1000),
)
CONVERSIONS = (*_ONE_WAY, *(conversion.back() for conversion in _ONE_WAY))


def wrong_unit(column: NumberColumn, values: Floats) -> list[Finding]:
    """One finding if another unit explains the values, (n,) with NaN for missing, better."""
    known = values[~np.isnan(values)]
    if len(known) < _FEWEST or len(np.unique(known)) < _DISTINCT:
        return []
    outside = (known < column.minimum) | (known > column.maximum)
    if outside.mean() >= _OUTSIDE:
        best = _best(column, known[outside])
        if best is None:
            return []
        rule = f"{_how_many(outside.mean())} outside the bounds; {_would(best)}"
        return [Finding(column.name, rule, kind=UNIT)]
    if not _crowded(column, known):
        return []
    best = _best(column, known, spread=True)
    if best is None:
        return []
    where = "lowest" if np.median(known) < (column.minimum + column.maximum) / 2 else "highest"
    rule = f"95 % of the values lie in the {where} {_CROWDED:.0%} of the study's bounds"
    rule += f"; {_would(best)}"
    return [Finding(column.name, rule, level="to accept", kind=UNIT)]


def _how_many(share: float) -> str:
    return "most values lie" if share > 0.5 else "some values lie"


def _would(best: Conversion) -> str:
    of = f" of {best.what}" if best.what else ""
    shift = f" {best.offset:+.4g}" if best.offset else ""
    return (
        f"times {best.factor:.4g}{shift} they would not: are they in {best.given} where the study "
        f"has {best.wanted}{of}?"
    )


def _best(column: NumberColumn, values: Floats, *, spread: bool = False) -> Conversion | None:
    """The conversion into the study's unit that brings the values in; of an analyte's own ones
    only where the column names it."""
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
    """Least for the column's own quantity; among equals, for the smallest change."""
    return not conversion.what, abs(float(np.log(conversion.factor)))
