"""Verdict of a simulation in words: who gains, who loses, and whether risks can be believed."""

from __future__ import annotations

import math
import statistics
from statistics import NormalDist
from typing import Any, NamedTuple

Gain = tuple[float, float, float]


class Mean(NamedTuple):
    """Mean ``predicted`` and ``observed`` risk or value; ``of``: its name, "" of yes or no."""

    of: str
    predicted: float
    observed: float


MARGIN = 0.003  # AUC and Brier score: a smaller difference is none
_LARGE_LOSS = 0.02  # AUC below pooled
_BELIEVED = (0.9, 1.1)  # predicted / observed
_BY_CHANCE = 0.05  # how often right risks of a model may be called wrong


def verdict(
    result: dict[str, Any],
    gains: dict[str, Gain | None],
    stated: dict[str, list[Mean] | None],
    *,
    measure: str,
    patients: int,
    unit: str = "",
) -> list[str]:
    """Return sentences on the ``document`` of a ``flo.lab.result.Simulation`` with comparisons.

    ``measure``: what its AUCs are. ``gains``: by hospital, (low, middle, high) of the AUC of its
    finished model minus that of the one it trains alone, a 95 % interval; None with too few
    patients of a class. ``stated``: by model, what is known of each risk; None of a model that
    states none. ``patients``: how many were tested. ``unit``: of values, where these are foreseen
    and no risks.
    """
    means = _values(unit, stated) if unit else _risks(stated, patients)
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


def _risks(stated: dict[str, list[Mean] | None], patients: int) -> list[str]:
    """Compare predicted with observed risks."""
    said = []
    for name, risks in stated.items():
        if risks is None:
            said.append(f"The {name} model states no risks: it only ranks patients.")
            continue
        found = [one.predicted / one.observed for one in risks if one.observed > 0]
        low, high = min(found, default=1.0), max(found, default=1.0)
        between = f"{low:.2f} times" if low == high else f"{low:.2f} to {high:.2f} times"
        wrong = [one.of for one in risks if _is_wrong(one, patients, len(risks))]
        which = f" ({', '.join(wrong)})" if any(wrong) else ""
        said.append(
            f"The {name} model's risks are {between} the observed ones"
            + (f": do not read them as risks{which}." if wrong else " on average.")
        )
    return said


def _is_wrong(one: Mean, patients: int, risks: int) -> bool:
    """Return whether a mean risk is far from what was observed, by more than chance."""
    least, most = _BELIEVED
    if least * one.observed <= one.predicted <= most * one.observed:
        return False
    chance = NormalDist().inv_cdf(1 - _BY_CHANCE / 2 / risks)
    spread = math.sqrt(one.predicted * (1 - one.predicted) / patients)
    return abs(one.predicted - one.observed) > chance * spread


def _values(unit: str, stated: dict[str, list[Mean] | None]) -> list[str]:
    """Compare expected with observed values."""
    said = []
    for name, values in stated.items():
        if values is None:
            said.append(f"The {name} model expects no values: it only ranks patients.")
            continue
        (one,) = values
        said.append(
            f"The {name} model expects {one.predicted:.3g} {unit} on average; {one.observed:.3g} "
            "were observed."
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
