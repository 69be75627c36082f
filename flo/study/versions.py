"""What the schema versions of a study leave out, so that older studies keep their digests."""

from __future__ import annotations

from typing import Any

# Fields that FLO 0.2 did not write; left out at the value that it implied.
_SINCE_THEN = (("aggregation", "sum"), ("algorithm", "fedavgm"), ("augmentation", "none"))


def with_usual_values(document: Any) -> Any:
    """Return a parsed study with the values that it implies where it states none.

    A study of statistics or of published models trains none, so it need not say how.
    """
    if not isinstance(document, dict):
        return document
    gate = document.get("gate")
    for asked in (document.get("statistics"), document.get("monitor")):
        if isinstance(asked, dict):
            return _without_training(document, asked.get("epsilon"))
    if isinstance(gate, dict) and gate.get("candidate"):
        return _without_training(document, gate.get("epsilon"))
    if document.get("schema_version") not in (1, 2):
        return document
    usual: dict[str, dict[str, Any]] = {"evaluation": {"bins": 4}}
    if document["schema_version"] == 1:
        usual["mechanism"] = {"masking": "off"}
    return document | {
        name: {**values, **document[name]}
        for name, values in usual.items()
        if isinstance(document.get(name), dict)
    }


def _without_training(document: dict[str, Any], epsilon: Any) -> dict[str, Any]:
    sums = {"algorithm": "least-squares", "epsilon": epsilon, "clip": 1.0, "steps": 1}
    given = document.get("mechanism", {})
    mechanism = sums | given if isinstance(given, dict) else given
    return {"model": {"kind": "logistic"}, "evaluation": {"epsilon": epsilon}} | {
        **document,
        "mechanism": mechanism,
    }


def in_its_form(document: dict[str, Any]) -> dict[str, Any]:
    """Remove from a study's fields what its version does not write; changes ``document``.

    Fields that a later FLO added are left out at their default value.
    """
    for name, usual in _SINCE_THEN:
        if document["mechanism"][name] == usual:
            del document["mechanism"][name]
    for hospital in document["hospitals"]:
        if hospital["expected"] is None:
            del hospital["expected"]
    steps = document["data"]["sequence"] or {"columns": []}
    for column in (*document["data"]["columns"], *steps["columns"]):
        for name in (
            "scattering",
            "encoder",
            "hinges",
            "about",
            "meanings",
            "changeable_to",
            "changeable_from",
        ):
            if name in column and column[name] in (None, []):
                del column[name]
    if document["limits"]["start_within"] is None:
        del document["limits"]["start_within"]
    for name in ("outcome", "sequence"):
        if document["data"][name] is None:
            del document["data"][name]
    for name in ("continues", "statistics", "gate", "monitor"):
        if document[name] is None:
            del document[name]
    if document["schema_version"] >= 3:
        del document["evaluation"]["bins"]
    if document["schema_version"] == 1:
        del document["survey"], document["mechanism"]["sampling"], document["mechanism"]["masking"]
        del document["evaluation"]["subgroups"], document["data"]["most_records"]
    return document
