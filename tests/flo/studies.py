"""Studies for the tests of studies: the small one with one place changed, and one of images."""

from __future__ import annotations

from typing import Any

from flo.study.document import Study, from_document
from tests.builders import small_study, study_document
from tests.paths import EXAMPLES

HEART = EXAMPLES / "heart" / "study.toml"
INF, NAN = float("inf"), float("nan")
GONE = object()
PACK: dict[str, Any] = {
    "kind": "pack",
    "name": "two-layers",
    "layers": [
        {"kind": "Linear", "sizes": [5, 8]},
        {"kind": "Tanh"},
        {"kind": "Linear", "sizes": [8, 1]},
    ],
}

SEQUENCE: dict[str, Any] = {
    "kind": "pack",
    "name": "over-steps",
    "layers": [
        {"kind": "Unflatten", "sizes": [5, 1]},
        {"kind": "GRU", "sizes": [1, 4]},
        {"kind": "SelfAttention", "sizes": [4, 2]},
        {"kind": "LayerNorm", "sizes": [4]},
        {"kind": "LastStep"},
        {"kind": "Linear", "sizes": [4, 1]},
    ],
}

JOINED: dict[str, Any] = {  # a gate, a residual path, and the record itself beside it
    "kind": "pack",
    "name": "joined",
    "layers": [
        {"kind": "Linear", "sizes": [5, 8]},
        {"kind": "Tanh", "name": "bent"},
        {"kind": "Linear", "sizes": [8, 8], "name": "more"},
        {"kind": "Linear", "sizes": [8, 8], "of": ["bent"]},
        {"kind": "Sigmoid", "name": "gate"},
        {"kind": "Multiply", "of": ["more", "gate"], "name": "let-through"},
        {"kind": "Add", "of": ["bent", "let-through"], "name": "sum"},
        {"kind": "Scale", "by": 0.5, "name": "half"},
        {"kind": "Concat", "sizes": [1], "of": ["half", "record"]},
        {"kind": "Linear", "sizes": [13, 1]},
    ],
}

IMAGE = {"kind": "image", "name": "px", "height": 8, "width": 9, "minimum": 0, "maximum": 255}
SURVEY = {"epsilon": 0.5, "columns": ["age", "ward"]}
NUMBER = {"kind": "number", "name": "x", "unit": "u", "minimum": 0, "maximum": 1}
AGE, WARD = "data.columns.0", "data.columns.1"
DISTRIBUTED = {**study_document()["mechanism"], "noise": "distributed", "masking": "on"}


def changed(path: str, value: Any) -> dict[str, Any]:
    """The small study with one place changed (``a.0.b``), or without it (GONE)."""
    document = study_document()
    *way, last = [int(step) if step.isdigit() else step for step in path.split(".")]
    place: Any = document
    for step in way:
        place = place[step]
    if value is GONE:
        del place[last]
    else:
        place[last] = value
    return document


def hospitals(*sizes: int, **more: Any) -> list[dict[str, Any]]:
    return [{"id": f"h{i}", "declared_size": size, **more} for i, size in enumerate(sizes)]


def imaging(model: str = "cnn", label: str = "ill", **image: Any) -> dict[str, Any]:
    """A study of one image column, in which ``image`` changes keys."""
    document = study_document(model={"kind": model})
    document["data"]["label"] = label
    document["data"]["columns"] = [{**IMAGE, **image}]
    return document


FROZEN_TAIL: list[dict[str, Any]] = [  # a frozen layer with an adapter beside it
    {"kind": "Linear", "sizes": [6, 4], "name": "kept", "frozen": True},
    {"kind": "Linear", "sizes": [6, 2], "of": ["record"]},
    {"kind": "Linear", "sizes": [2, 4], "name": "adapter", "zero": True},
    {"kind": "Add", "of": ["kept", "adapter"]},
    {"kind": "Tanh"},
    {"kind": "Linear", "sizes": [4, 1]},
]


def frozen_study(numbers: str = "0" * 64, **encoder: Any) -> Study:
    """A study of images behind an encoder, whose pack has a frozen layer. ``numbers``: its file."""
    six = {"name": "six numbers", "file": "0" * 64, "features": 6, "scaled": False}
    document = imaging(encoder=six | encoder) | {"schema_version": 4}
    document["model"] = {"kind": "pack", "name": "tail", "layers": FROZEN_TAIL, "numbers": numbers}
    return from_document(document)


def history(step: str = "period", **changes: Any) -> dict[str, Any]:
    """A sequence of four steps, as parsed TOML."""
    columns = [
        {"kind": "number", "name": "pulse", "unit": "/min", "minimum": 20, "maximum": 220}
        | {"missing": "indicator", "missing_value": 80},
        {"kind": "category", "name": "room", "codes": ["x", "y"], "missing": "indicator"},
    ]
    return {"steps": 4, "step": step, "days": 30, "columns": columns} | changes


def with_history(step: str = "period", **model: Any) -> Study:
    """A small study of several records a patient, each with a history."""
    own = {"records_per_patient": "many", "sequence": history(step)}
    return small_study(
        schema_version=4,
        data=study_document()["data"] | own,
        model=model or {"kind": "logistic"},
        evaluation={"epsilon": 0.9, "retry_allowance": 0},
    )
