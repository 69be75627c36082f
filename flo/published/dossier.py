"""All that is known of a published model, on one page for the committee that decides on it.

Everything follows from signed files, and anybody can make the page again. It has no script and
loads nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flo.errors import UsageError
from flo.pages.templates import Pages
from flo.privacy.report.sheet import Section
from flo.published import card_plots, card_sheet, explained_page, fairness_page
from flo.published.fairness import fairness
from flo.published.gate_passed import gates_of
from flo.published.gate_result import GateResult
from flo.published.gate_words import rows
from flo.published.model_card import PublishedModel
from flo.published.stated_curves import stated
from flo.study.wording import measure_of


def render(
    model: PublishedModel,
    threshold: float,
    gates: Sequence[GateResult],
    coordinators: Sequence[str],
    decisions: Sequence[Section],
) -> str:
    """Return the dossier as HTML.

    ``threshold``: the risk from which on the hospital acts. ``gates``: results of later gates about
    the model. ``decisions``: what was decided on it, as far as the caller knows.

    Raises TrustError: a gate is not signed by a key of these coordinators, or is about another
    model.
    """
    card = model.card
    return Pages(Path(__file__).parent, base="").text(
        "dossier.html.j2",
        model=model,
        made=datetime.now(UTC).isoformat(timespec="minutes"),
        sections=[*card_sheet.sections(model), *decisions],
        quality=card_plots.quality_of_card(model.study, card),
        measure=measure_of(model.study),
        curves=stated(model.study, card),
        gates=_gates(model, gates, coordinators),
        **_groups(model, threshold),
        **explained_page.shown(model),
    )


def _gates(
    model: PublishedModel, results: Sequence[GateResult], coordinators: Sequence[str]
) -> list[dict[str, Any]]:
    found = []
    for study, sums in gates_of(model, results, coordinators):
        said = sums.comparison(study)
        plot = card_plots.gate_plot(said)
        found.append({"name": study.name, "rows": rows(study, said), "plot": plot})
    return found


def _groups(model: PublishedModel, threshold: float) -> dict[str, Any]:
    """Return what is known of groups, or in ``no_groups`` why nothing is."""
    try:
        return {
            "no_groups": "",
            **fairness_page.shown(model.study.data, fairness(model, threshold)),
        }
    except UsageError as error:
        return {"no_groups": str(error), "threshold": threshold}
