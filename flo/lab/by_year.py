"""AUC by year of a study that is repeated, for ``flo.lab.years``."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

WAYS = ("first_only", "fresh", "continued", "all_at_once")


@dataclass
class Years:
    """AUC of each run, by way and year: lists of (years,). ``life_epsilon``: of the most exposed.

    Ways: the first year's model for ever; each year's own; the one that goes on learning; and one
    study of the patients of all years.
    """

    count: int
    runs: dict[str, list[list[float]]] = field(default_factory=lambda: {way: [] for way in WAYS})
    life_epsilon: float = 0.0

    @property
    def document(self) -> list[dict[str, Any]]:
        """Mean AUC of each way by year, and its standard error over runs (None of one run)."""
        found = []
        for year in range(self.count):
            aucs = {way: np.array([run[year] for run in self.runs[way]]) for way in WAYS}
            errors = {
                way: float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None
                for way, values in aucs.items()
            }
            means = {way: float(values.mean()) for way, values in aucs.items()}
            found.append({"year": year + 1, **means, "standard_errors": errors})
        return found
