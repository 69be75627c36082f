"""Studies that continue models, and what their lineage is made of."""

from __future__ import annotations

from typing import Any

from flo.study.document import Study, from_document
from tests.builders import study_document

CARD = "c0" * 32


def ancestor(number: int = 1, **changes: Any) -> dict[str, Any]:
    return {
        "card": f"c{number - 1}" * 32,
        "study": f"d{number - 1}" * 32,
        "name": "tiny",
        "version": number,
        "epsilon": 0.75,
        "delta": 1e-6,
        "worth": 50.0,
    } | changes


def continuing(
    *lineage: dict[str, Any], models: tuple[str, ...] = (CARD,), **changes: Any
) -> Study:
    """A study of schema 4; without ``lineage`` as a person writes it."""
    continues = {"models": list(models), "lineage": list(lineage)}
    document = study_document(schema_version=4, version=9, continues=continues)
    return from_document(document | changes)
