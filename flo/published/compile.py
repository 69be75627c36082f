"""Compile a published model into the document that ``flo.scoring`` runs.

The caller has checked the model's signature. The document states what card, study, mapping and rule
state, in a form that needs no library to be read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from flo.published.model_card import PublishedModel
from flo.scoring.record import Field
from flo.study.encoders import require_no_encoder
from flo.study.yes_or_no import require_yes_or_no

SCHEMA_VERSION = 1


def compiled(
    model: PublishedModel,
    *,
    fields: Mapping[str, Field] | None = None,
    rule: tuple[str | None, Sequence[float]] | None = None,
    places: Sequence[int] | None = None,
) -> dict[str, Any]:
    """Return the document of ``flo.scoring.compiled.CompiledModel``.

    ``fields``: the hospital's own, by column; None if there is no mapping. ``rule``: the column
    whose groups have thresholds, None for one threshold; and the thresholds. ``places``: of a
    network's ONNX inputs among the study's (``flo.published.onnx.places_of``); None for a linear
    model.
    """
    card, study = model.card, model.study
    require_yes_or_no(study, "a compiled model")
    require_no_encoder(study, "a compiled model")
    curve = card.calibration
    document = {
        "schema_version": SCHEMA_VERSION,
        "facts": {"model": study.name, "version": study.version, "card": card.digest},
        "columns": [column.model_dump(mode="json") for column in study.data.columns],
        "fields": None if fields is None else {n: one._asdict() for n, one in fields.items()},
        "weights": model.weights.tolist() if places is None else None,
        "network": None if places is None else list(places),
        "curve": None if curve is None else curve.model_dump(mode="json", exclude={"level"}),
        "rule": None if rule is None else {"column": rule[0], "limits": list(rule[1])},
    }
    found: dict[str, Any] = json.loads(json.dumps(document))  # lists for tuples, as it is stored
    return found
