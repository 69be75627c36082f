"""Studies of a number or a count, and patients whose values are known."""

from __future__ import annotations

import copy
from typing import Any

from flo.study.document import Study, from_document
from tests.builders import study_document

NUMBER: dict[str, Any] = {"kind": "number", "unit": "points", "levels": [0, 2, 4, 6, 10]}
COUNT: dict[str, Any] = {"kind": "count", "unit": "visits", "levels": [0, 1, 2, 4, 8]}


def quantity_document(outcome: dict[str, Any] = COUNT, **changes: Any) -> dict[str, Any]:
    """The small study with a quantity; ``changes`` are of the outcome."""
    document = copy.deepcopy(study_document(schema_version=4))
    document["data"]["outcome"] = outcome | changes
    return document


def quantity_study(outcome: dict[str, Any] = COUNT, **mechanism: Any) -> Study:
    document = quantity_document(outcome)
    document["mechanism"] |= mechanism
    return from_document(document)
