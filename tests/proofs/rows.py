"""What a proof says: one figure, the limit that it has to keep, and on how many runs."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """``figure`` holds if it is within ``least`` and ``most``; either may be infinite."""

    name: str
    figure: float
    runs: int
    seconds: float
    least: float = -math.inf
    most: float = math.inf

    @property
    def holds(self) -> bool:
        return self.least <= self.figure <= self.most

    @property
    def limit(self) -> str:
        if math.isinf(self.least) and math.isinf(self.most):
            return "none"
        if math.isinf(self.least):
            return f"<= {self.most:.4g}"
        if math.isinf(self.most):
            return f">= {self.least:.4g}"
        return f"{self.least:.4g} to {self.most:.4g}"


def chance(share: float, runs: int) -> float:
    """Three and a half standard errors of a share found in so many independent runs.

    A row of few runs gets that much room: a promise that is kept fails it once in 4,000 times.
    """
    return 3.5 * math.sqrt(share * (1 - share) / runs)
