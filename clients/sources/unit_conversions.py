"""Conversions between units that hospitals use. Factors: molar masses and SI definitions."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from flo.arrays import Floats
from flo.study import identifier_patterns


@dataclass(frozen=True)
class Conversion:
    """Conversion to value · ``factor`` + ``offset``. ``what``: its quantity, "" for any.

    ``names``: beginnings of words that name this quantity in a column's name, such as ``chol``; one
    of two letters must be the whole word.
    """

    given: str
    wanted: str
    factor: float
    offset: float = 0.0
    what: str = ""
    names: tuple[str, ...] = ()

    def of(self, values: Floats) -> Floats:
        """Convert values from ``given`` to ``wanted``; NaN stays NaN."""
        return values * self.factor + self.offset

    def back(self) -> Conversion:
        """Return the conversion from ``wanted`` to ``given``."""
        return replace(
            self,
            given=self.wanted,
            wanted=self.given,
            factor=1 / self.factor,
            offset=-self.offset / self.factor,
        )

    def is_for(self, name: str) -> bool:
        """Return whether it applies to a column of this name; always if it is for any quantity."""
        words = re.split(r"[\W_]+", identifier_patterns.plain(name))
        long = tuple(name for name in self.names if len(name) > 2)
        return not self.what or any(w in self.names or w.startswith(long) for w in words)


_ONE_WAY = (
    Conversion("mmol/L", "mg/dL", 38.67, what="cholesterol", names=("chol", "ldl", "hdl", "tchol")),
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
