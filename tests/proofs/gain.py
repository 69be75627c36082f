"""What a hospital has of taking part: its finished model against the one that it trains alone.

Real patients, models trained by FLO under the study's ε, 5 folds and 4 seeds; every hospital's
finished model and its model alone see its training patients only, and both are scored on the
others.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from flo.lab.simulation import simulate
from tests.proofs.hospitals import CHOSEN_ON, GENERAL, Consortium
from tests.proofs.rows import Row

FEWEST = 30  # patients of each class, below which a hospital's own AUC is mostly chance
_SEEDS = 4
_QUICK = {"heart"}
# Set: (margin in AUC and Brier score, least share of hospitals not worse, least mean gain or None).
# The gain on heart is of its three hospitals with FEWEST of each class, else of all hospitals.
_PROMISED: dict[str, tuple[float, float, float | None]] = {
    "heart": (0.005, 1.0, 0.008),
    "support2": (0.003, 1.0, 0.012),
    "fars": (0.003, 49 / 51, 0.006),
    "nass": (0.003, 0.9, None),
    "wilms": (0.003, 0.9, None),
    "health": (0.003, 0.9, None),
}


def rows(quick: bool) -> Iterator[Row]:
    """Hospitals that are not worse off, the mean gain, and predicted / observed after finishing."""
    sets = CHOSEN_ON | GENERAL
    for name in _QUICK if quick else _PROMISED:
        began, (margin, least, gain) = time.monotonic(), _PROMISED[name]
        found = _simulated(sets[name]())
        sites = found["sites"]
        large = {h: one for h, one in sites.items() if _rarer(one) >= FEWEST}
        kept = sum(_no_worse(one, margin) for one in large.values()) / len(large)
        seconds = time.monotonic() - began
        yield Row(f"{name}: hospitals no worse than alone", kept, len(large), seconds, least)
        if gain is not None:
            counted = large if name == "heart" else sites
            mean = sum(_gain(one) for one in counted.values()) / len(counted)
            yield Row(f"{name}: mean gain in AUC over alone", mean, len(counted), seconds, gain)
        risk = found["calibration_finished"]
        ratio = risk["predicted"] / risk["observed"]
        yield Row(f"{name}: predicted / observed, finished", ratio, _SEEDS, seconds, 0.97, 1.03)


def _simulated(consortium: Consortium) -> dict[str, Any]:
    return simulate(
        consortium.study, consortium.hospitals, seeds=_SEEDS, compare=True, fast=True
    ).document


def _rarer(site: dict[str, Any]) -> int:
    positive = int(site["positive"])
    return min(positive, int(site["patients"]) - positive)


def _gain(site: dict[str, Any]) -> float:
    return float(site["auc_finished"] - site["auc_alone"])


def _no_worse(site: dict[str, Any], margin: float) -> bool:
    return _gain(site) >= -margin and site["brier_finished"] - site["brier_alone"] <= margin
