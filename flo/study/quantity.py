"""An outcome that is a number, such as days in hospital, or a count, such as visits in a year.

Public levels v_0 < ... < v_K divide its range into steps. A value y reaches the share

    G_k = min(1, max(0, (y - v_(k-1)) / (v_k - v_(k-1))))

of step k, and is v_0 plus the sum of each step's length times its share, exactly. A record's
outcome is one number, its code: the sum of the K shares, 0 to K, on which each step is one long. A
model's score s is the log odds of code / K: it is trained as if code / K were a label between no
and yes (fractional logistic regression; Papke, Wooldridge 1996). After training, the evaluation's
release says what values belong to a score (``flo.privacy.releases.quantities``).

For releases a code between two levels counts for both, for each the more the closer it is, by
weights of sum 1. Their weighted mean of the levels is the value itself.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator
from scipy.special import logit, xlogy

from flo.arrays import Floats
from flo.documents.document import Document
from flo.study.names import Bound, Text

FEWEST_LEVELS, MOST_LEVELS, LARGEST_COUNT = 3, 12, 10_000
_RARE = 1e-9  # share of patients
FLATTER = 0.346  # the mean of logistic curves is flatter (Zeger, Liang, Albert 1988)


def even_places(steps: int) -> Floats:
    """Return log odds, (K,), that fall evenly from the first step to the last."""
    return np.asarray(logit(1 - (np.arange(steps) + 0.5) / steps))


class Quantity(Document):
    """A number or a count in the label's column.

    ``levels``: 3 to 12 rising values in ``unit``, from public knowledge. The first and the last are
    the bounds: records beyond them are refused, as those of an input are. Between them they are
    best where many patients are, and where somebody acts. Those of a count are whole, from 0 up to
    10,000 at most.
    """

    kind: Literal["number", "count"]
    unit: Text
    levels: Annotated[tuple[Bound, ...], Field(min_length=FEWEST_LEVELS, max_length=MOST_LEVELS)]

    @model_validator(mode="after")
    def _rising(self) -> Quantity:
        if any(one >= other for one, other in pairwise(self.levels)):
            shown = ", ".join(f"{one:g}" for one in self.levels)
            raise ValueError(f"levels must rise, and these do not: {shown}")
        if self.kind == "count":
            if self.levels[0] != 0:
                raise ValueError(f"levels of a count begin at 0, not at {self.levels[0]:g}")
            if broken := [one for one in self.levels if one != int(one)]:
                raise ValueError(f"levels of a count are whole numbers, not {broken[0]:g}")
            if self.levels[-1] > LARGEST_COUNT:
                raise ValueError(
                    f"level {self.levels[-1]:g} of a count, limit {LARGEST_COUNT}; larger ones are "
                    'foreseen with kind = "number"'
                )
        return self

    @property
    def codes(self) -> int:
        """How many levels there are."""
        return len(self.levels)

    @property
    def lengths(self) -> Floats:
        """Of each step, (K,)."""
        return np.diff(self.levels)

    def coded(self, values: Floats) -> Floats:
        """Return the codes (n,), 0 to K, of values (n,)."""
        return np.interp(values, self.levels, np.arange(self.codes))

    def valued(self, codes: Floats) -> Floats:
        """Return the values (n,) of codes (n,)."""
        return np.interp(codes, np.arange(self.codes), self.levels)

    def share(self, values: Floats) -> Floats:
        """Return what share of the range lies below values (n,) within it, 0 to 1."""
        return np.asarray((values - self.levels[0]) / (self.levels[-1] - self.levels[0]))

    def at_share(self, shares: Floats) -> Floats:
        """Return the values (n,) below which these shares (n,) of the range lie."""
        return np.asarray(self.levels[0] + shares * (self.levels[-1] - self.levels[0]))

    def explained(self, values: Floats, expected: Floats) -> float:
        """Return the share of the variation of values (n,) that expected ones (n,) explain.

        R² of a number; of a count the share of Poisson's deviance (Cameron, Windmeijer 1996), for
        which an expectation is taken to be at least a millionth. At most 1; below 0 if they are
        worse than the mean. NaN if all values are the same.
        """
        mean = np.full(len(values), values.mean())
        whole = 0.0 if np.ptp(values) == 0 else self._variation(values, mean)
        return 1 - self._variation(values, expected) / whole if whole > 0 else math.nan

    def _variation(self, values: Floats, expected: Floats) -> float:
        if self.kind == "number":
            return float(((values - expected) ** 2).sum())
        expected = np.maximum(expected, 1e-6)
        return float((xlogy(values, values / expected) - (values - expected)).sum())

    def tails(self, reached: Floats) -> tuple[Floats, Floats]:
        """Return the values (n,) that one, and that nine of ten patients are below.

        ``reached`` (K, n): as of ``exceeded_by``.
        """
        return self.outwards(self.exceeded_by(0.9, reached), self.exceeded_by(0.1, reached))

    def outwards(self, low: Floats, high: Floats) -> tuple[Floats, Floats]:
        """Return two values (n,) of a count as whole numbers, half outwards; a number's as is."""
        if self.kind == "number":
            return low, high
        return np.ceil(low - 0.5) + 0.0, np.floor(high + 0.5)  # no -0

    def exceeded_by(self, share: float, reached: Floats) -> Floats:
        """Return the values (n,) that this ``share`` of patients exceeds, 0 to 1.

        ``reached`` (K, n): the share of each step that is reached on average, which is the share of
        patients above its middle if they lie evenly between two levels. From middle to middle the
        log odds of the share are interpolated, because tails are thin. Before the first middle and
        after the last one, patients may all be at the bound: a value that more than half exceed is
        then the lower end, and another one the upper end.
        """
        levels = np.array(self.levels)
        places = np.concatenate([levels[:1], (levels[:-1] + levels[1:]) / 2, levels[-1:]])
        falling = np.minimum.accumulate(reached, axis=0)
        odds = logit(np.clip(falling, _RARE, 1 - _RARE))
        within = np.array([np.interp(-logit(share), -one, places[1:-1]) for one in odds.T])
        before, after = (places[0], places[-2]) if share > 0.5 else (places[1], places[-1])
        return np.where(share > falling[0], before, np.where(share < falling[-1], after, within))
