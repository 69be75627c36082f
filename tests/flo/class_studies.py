"""Studies of several classes, and patients whose classes are known."""

from __future__ import annotations

import copy
from typing import Any

from flo.study.document import Study, from_document
from tests.builders import study_document

NAMES = ("mild", "severe", "worst")
CLASSES: dict[str, Any] = {"kind": "classes", "classes": list(NAMES)}


def class_document(outcome: dict[str, Any] = CLASSES, **changes: Any) -> dict[str, Any]:
    """The small study with classes; ``changes`` are of the outcome."""
    document = copy.deepcopy(study_document(schema_version=4))
    document["data"]["outcome"] = outcome | changes
    return document


def class_study(*, subgroups: bool = False, **mechanism: Any) -> Study:
    """``subgroups``: evaluated by ward, too. ``mechanism``: changes of it."""
    document = class_document()
    document["mechanism"] |= mechanism
    document["evaluation"] |= {"subgroups": ["ward"]} if subgroups else {}
    return from_document(document)
