"""Plots of what a model's card or a run's result says; ``flo.pages.plots`` lays them out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from flo.pages import plots
from flo.privacy.releases.gate_decision import Comparison
from flo.privacy.releases.score_waves import Estimate
from flo.published.explanation import Column
from flo.published.further_estimates import further_estimates
from flo.published.model_card import ModelCard, Quality
from flo.study.document import Study

_MOST_EFFECTS = 12


def quality_plot(result: dict[str, Any]) -> plots.Intervals | None:
    """Plot noisy AUCs, overall and by subgroup, with intervals; from a run's result."""
    everyone = result.get("estimate")
    found = {"all held-out patients": everyone} | (result.get("subgroups") or {})
    rows = [_row(name, one["low"], one["auc"], one["high"]) for name, one in found.items() if one]
    return plots.intervals(rows, 0.0, 1.0) if rows else None


def quality_of_card(study: Study, card: ModelCard) -> plots.Intervals | None:
    """Plot what a card states: overall, at each horizon or of each class, and by subgroup."""
    if card.evaluation is None:
        return None
    found: dict[str, Estimate | Quality] = {"all held-out patients": card.evaluation}
    found |= further_estimates(study, card) or {}
    found |= card.subgroups
    rows = [_row(name, one.low, one.auc, one.high) for name, one in found.items()]
    return plots.intervals(rows, 0.0, 1.0)


def _row(name: str, low: float, auc: float, high: float) -> tuple[str, float, float | None, float]:
    """Return a row without a point if the interval is all that an AUC can be."""
    return name, low, auc if low > 0 or high < 1 else None, high


def gate_plot(found: Comparison) -> plots.Intervals:
    """Plot by how much the candidate's Brier score is better than asked, by subgroup, too."""
    gains = {"all held-out patients": found.kept} | found.subgroups
    known = [one for one in gains.values() if one.high - one.low < 2]
    reach = max([0.02, *(abs(end) for one in known for end in (one.low, one.high))])
    step = next((s for s in (0.005, 0.01, 0.02, 0.05, 0.1) if reach <= 4 * s), 0.2)
    reach = step * math.ceil(reach / step)
    rows = [(name, one.low, one.value, one.high) for name, one in gains.items()]
    return plots.intervals(rows, -reach, reach, step=step, limit=0.0)


def effects_plot(found: Sequence[Column]) -> plots.Intervals | None:
    """Plot the strongest effects whose direction noise does not hide; None if it hides all."""
    shown = [
        (plots.cut_before(column.title, effect.name), effect)
        for column in found
        for effect in column.effects
        if effect.is_certain
    ]
    strongest = sorted(shown, key=lambda one: -abs(one[1].value))[:_MOST_EFFECTS]
    if not strongest:
        return None
    rows = [(name, one.interval[0], one.value, one.interval[1]) for name, one in strongest]
    furthest = max(abs(end) for _, low, _, high in rows for end in (low, high))
    step = next((s for s in (0.1, 0.25, 0.5, 1.0, 2.0, 5.0) if furthest <= 4 * s), furthest / 4)
    reach = step * math.ceil(furthest / step)
    return plots.intervals(rows, -reach, reach, step=step, limit=0.0)
