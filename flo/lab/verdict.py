"""Verdict of a simulation in words: who gains, who loses, and whether risks can be believed."""

from __future__ import annotations

import statistics
from typing import Any

Gain = tuple[float, float, float]

MARGIN = 0.003  # AUC and Brier score: a smaller difference is none
_LARGE_LOSS = 0.02  # AUC below pooled
_BELIEVED = (0.9, 1.1)  # predicted / observed


def verdict(result: dict[str, Any], gains: dict[str, Gain | None]) -> list[str]:
    """Return sentences on the ``document`` of a ``flo.lab.result.Simulation`` with comparisons.

    ``gains``: by hospital, (low, middle, high) of the AUC of its finished model minus that of the
    one it trains alone, a 95 % interval; None with too few patients of a class.
    """
    return [*_gains(result["sites"], gains), *_risks(result), *_changes(result)]


def _gains(sites: dict[str, dict[str, Any]], gains: dict[str, Gain | None]) -> list[str]:
    """Compare each hospital's finished model with what it has alone."""
    known = {name: gain for name, gain in gains.items() if gain is not None}
    if not known:
        return ["No hospital has enough patients of both classes, so there is nothing to compare."]
    surely = sum(low > 0 for low, _, _ in known.values())
    mean = statistics.fmean(middle for _, middle, _ in known.values())
    said = [
        f"Finished at home against trained alone, among each hospital's own patients: {mean:+.3f} "
        f"AUC on average; at {surely} of {len(known)} hospitals the 95 % interval is above 0."
    ]
    for name, (low, middle, high) in known.items():
        worse = sites[name]["brier_finished"] - sites[name]["brier_alone"]
        if middle >= -MARGIN and worse <= MARGIN:
            continue
        said.append(
            f"{name} {'may' if high >= 0 else 'would'} lose: AUC {middle:+.3f} (95 % interval "
            f"{low:+.3f} to {high:+.3f}), Brier score {worse:+.3f}."
        )
    return said if len(said) > 1 else [*said, "By these estimates no hospital loses."]


def _risks(result: dict[str, Any]) -> list[str]:
    """Compare predicted with observed risks."""
    said = []
    stated = "calibration_published" if result["calibration_published"] else "calibration"
    for name, key in (("published", stated), ("finished", "calibration_finished")):
        ratio = result[key]["predicted"] / max(result[key]["observed"], 1e-9)
        low, high = _BELIEVED
        said.append(
            f"The {name} model's risks are {ratio:.2f} times the observed ones"
            + (" on average." if low <= ratio <= high else ": do not read them as risks.")
        )
    return said


def _changes(result: dict[str, Any]) -> list[str]:
    lost = result["auc_pooled"] - result["auc"]
    if lost <= _LARGE_LOSS:
        return []
    return [
        f"The published model ranks {lost:.3f} AUC worse than pooled data without privacy would: "
        "`flo study check` compares settings; more patients or a larger ε reduce the loss."
    ]
