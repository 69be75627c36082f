"""What moves a model's score, as a part of pages: of the dossier, the console and the desk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flo.errors import UsageError
from flo.published import card_plots
from flo.published.explanation import effects
from flo.published.model_card import PublishedModel
from flo.study.columns import CellColumn
from flo.study.wording import changed_to, title

TEMPLATES = Path(__file__).parent  # of explained_part.html.j2


def shown(model: PublishedModel) -> dict[str, Any]:
    """Return the values that the part needs; in ``no_effects`` why nothing is known."""
    try:
        found = effects(model)
    except UsageError as error:
        return {"no_effects": f"{error}. {error.hint[:1].upper()}{error.hint[1:]}"}
    columns = [one for one in model.study.data.columns if isinstance(one, CellColumn)]
    return {
        "no_effects": "",
        "effects": card_plots.effects_plot(found),
        "hidden": [one.title for one in found if not any(e.is_certain for e in one.effects)],
        "explained": found,
        "aims": [(title(one), aim) for one in columns if (aim := changed_to(one))],
    }
