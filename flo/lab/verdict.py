"""Verdict of a simulation in words: who gains, who loses, and whether risks can be believed."""

from __future__ import annotations

import statistics
from typing import Any

Gain = tuple[float, float, float]
Mean = tuple[float, float]  # predicted, observed

MARGIN = 0.003  # AUC and Brier score: a smaller difference is none
_LARGE_LOSS = 0.02  # AUC below pooled
_BELIEVED = (0.9, 1.1)  # predicted / observed
_LEAST = 1e-9  # an observed mean that predicted ones are divided by


def verdict(
    result: dict[str, Any],
    gains: dict[str, Gain | None],
    stated: dict[str, list[Mean] | None],
    *,
    measure: str,
    unit: str = "",
) -> list[str]:
    """Return sentences on the ``document`` of a ``flo.lab.result.Simulation`` with comparisons.

    ``measure``: what its AUCs are. ``gains``: by hospital, (low, middle, high) of the AUC of its
    finished model minus that of the one it trains alone, a 95 % interval; None with too few
    patients of a class. ``stated``: by model, (predicted, observed) of each risk; None of a model
    that states none. ``unit``: of values, where these are foreseen and no risks.
    """
    means = _values(unit, stated) if unit else _risks(stated)
    return [*_gains(measure, result["sites"], gains), *means, *_changes(measure, result)]


def _gains(
    measure: str, sites: dict[str, dict[str, Any]], gains: dict[str, Gain | None]
) -> list[str]:
    """Compare each hospital's finished model with what it has alone."""
    known = {name: gain for name, gain in gains.items() if gain is not None}
    if not known:
        return ["No hospital has enough patients of both classes, so there is nothing to compare."]
    surely = sum(low > 0 for low, _, _ in known.values())
    mean = statistics.fmean(middle for _, middle, _ in known.values())
    said = [
        f"Finished at home against trained alone, among each hospital's own patients: {mean:+.3f} "
        f"{measure} on average; at {surely} of {len(known)} hospitals the 95 % interval is above 0."
    ]
    for name, (low, middle, high) in known.items():
        worse, brier = 0.0, ""
        if "brier_finished" in sites[name]:
            worse = sites[name]["brier_finished"] - sites[name]["brier_alone"]
            brier = f", Brier score {worse:+.3f}"
        if middle >= -MARGIN and worse <= MARGIN:
            continue
        said.append(
            f"{name} {'may' if high >= 0 else 'would'} lose: {measure} {middle:+.3f} (95 % "
            f"interval {low:+.3f} to {high:+.3f}){brier}."
        )
    return said if len(said) > 1 else [*said, "By these estimates no hospital loses."]


def _risks(stated: dict[str, list[Mean] | None]) -> list[str]:
    """Compare predicted with observed risks."""
    said, (least, most) = [], _BELIEVED
    for name, risks in stated.items():
        if risks is None:
            said.append(f"The {name} model states no risks: it only ranks patients.")
            continue
        found = [predicted / max(observed, _LEAST) for predicted, observed in risks]
        low, high = min(found), max(found)
        between = f"{low:.2f} times" if low == high else f"{low:.2f} to {high:.2f} times"
        said.append(
            f"The {name} model's risks are {between} the observed ones"
            + (" on average." if least <= low <= high <= most else ": do not read them as risks.")
        )
    return said


def _values(unit: str, stated: dict[str, list[Mean] | None]) -> list[str]:
    """Compare expected with observed values."""
    said = []
    for name, values in stated.items():
        if values is None:
            said.append(f"The {name} model expects no values: it only ranks patients.")
            continue
        ((expected, observed),) = values
        said.append(
            f"The {name} model expects {expected:.3g} {unit} on average; {observed:.3g} were "
            "observed."
        )
    return said


def _changes(measure: str, result: dict[str, Any]) -> list[str]:
    lost = result["auc_pooled"] - result["auc"]
    if lost <= _LARGE_LOSS:
        return []
    return [
        f"The published model ranks {lost:.3f} {measure} worse than pooled data without privacy "
        "would: `flo study check` compares settings; more patients or a larger ε reduce the loss."
    ]
