"""What the schema versions of a study leave out, so that older studies keep their digests."""

from __future__ import annotations

from typing import Any

# Fields that FLO 0.2 did not write; left out at the value that it implied.
_SINCE_THEN = (("aggregation", "sum"), ("algorithm", "fedavgm"), ("augmentation", "none"))


def with_usual_values(document: Any) -> Any:
    """Return a parsed study with the values that its version implies where it states none."""
    if not isinstance(document, dict) or document.get("schema_version") not in (1, 2):
        return document
    usual: dict[str, dict[str, Any]] = {"evaluation": {"bins": 4}}
    if document["schema_version"] == 1:
        usual["mechanism"] = {"masking": "off"}
    return document | {
        name: {**values, **document[name]}
        for name, values in usual.items()
        if isinstance(document.get(name), dict)
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
    for column in document["data"]["columns"]:
        for name in ("scattering", "hinges"):
            if name in column and not column[name]:
                del column[name]
    if document["continues"] is None:
        del document["continues"]
    if document["schema_version"] >= 3:
        del document["evaluation"]["bins"]
    if document["schema_version"] == 1:
        del document["survey"], document["mechanism"]["sampling"], document["mechanism"]["masking"]
        del document["evaluation"]["subgroups"], document["data"]["most_records"]
    return document
