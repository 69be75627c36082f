"""Content of a condition or an observation: codes, whether it counts, value and unit."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from flo.clients.sources.events import NO_UNIT, bound
from flo.clients.sources.fhir_files import Resource, listed
from flo.clients.sources.mapping import MappedColumn
from flo.errors import UsageError

FhirCode = tuple[str, str]  # system and code
PATIENT_FIELDS = ("patient:age", "patient:gender", "patient:deceased")
_KINDS = {"condition": "Condition", "observation": "Observation"}
_COUNTING_OBSERVATIONS = ("final", "amended", "corrected")
_VALUES = ("valueInteger", "valueString", "valueBoolean")
_NO_VALUES = (
    *("valueRange", "valueRatio", "valueSampledData"),
    *("valueTime", "valueDateTime", "valuePeriod"),
)


def asked(mapped: MappedColumn) -> tuple[str, dict[str, set[FhirCode]]]:
    """Return the resource type of a column's fields, and field -> codes. Raises UsageError."""
    if mapped.field in PATIENT_FIELDS:
        return "Patient", {}
    kinds, codes = set[str](), dict[str, set[FhirCode]]()
    for field in mapped.fields:
        prefix, _, rest = field.partition(":")
        system, bar, names = rest.rpartition("|")
        found = {(system, name) for name in names.split(",")}
        if prefix not in _KINDS or not bar:
            raise UsageError(
                f"{field!r} is not a field of a FHIR export",
                hint="patient:age, patient:gender, patient:deceased, condition:SYSTEM|CODE or "
                "observation:SYSTEM|CODE; a list has conditions only, or observations only",
            )
        if "|" in system or not all(name for _, name in found):
            raise UsageError(
                f"{field!r} names more than one system, or an empty code",
                hint="codes of one system are separated by commas; for several systems give "
                'a list: field = ["condition:SYSTEM|CODE", "condition:OTHER|CODE"]',
            )
        kinds.add(_KINDS[prefix])
        codes[field] = found
    if len(kinds) > 1:
        raise UsageError(
            f"the fields of one column are both conditions and observations: {list(codes)}",
            hint="a column is 1 or 0 for what happened, or the value of what was observed",
        )
    return kinds.pop(), codes


def counts(event: Resource) -> bool:
    """Return whether an observation is final, or a condition is confirmed or has no status."""
    if event.get("resourceType") == "Observation":
        return event.get("status") in _COUNTING_OBSERVATIONS
    status = event.get("verificationStatus")  # a plain code before R4
    said: list[Any] = [status]
    if isinstance(status, dict):
        said = [status.get("text"), *(code for _, code, _ in codings(status))]
    words = {str(word).strip().casefold() for word in said if word}
    return not words or "confirmed" in words


def codings(concept: Any) -> list[tuple[str, str, str]]:
    """Return each (system, code, display) of a CodeableConcept."""
    if not isinstance(concept, dict):
        return []
    text = concept.get("text") or ""
    return [
        (str(c.get("system") or ""), c["code"], str(c.get("display") or text))
        for c in listed(concept, "coding")
        if isinstance(c.get("code"), str) and c["code"]
    ]


def value(part: Resource, named: Collection[str]) -> Any:
    """Return the observed value as a number or text; None if there is none.

    Of several codes it is the one ``named`` in the mapping, else the first; without a code, the
    text. A kind of value that is neither number nor code is given as its kind, which no study
    accepts: an older value must not replace it.
    """
    quantity = part.get("valueQuantity")
    if isinstance(quantity, dict):
        number, sign = quantity.get("value"), quantity.get("comparator")
        return number if number is None or not sign else bound(str(sign), number)
    concept = part.get("valueCodeableConcept")
    if isinstance(concept, dict):
        codes = [code for _, code, _ in codings(concept)]
        words = [concept.get("text"), *(one.get("display") for one in listed(concept, "coding"))]
        texts = [word for word in words if isinstance(word, str) and word]
        return next((c for c in codes if c in named), next(iter(codes + texts), None))
    for name in _VALUES:
        if (found := part.get(name)) is not None:
            return str(found) if isinstance(found, bool) else found
    return next((name for name in _NO_VALUES if part.get(name) is not None), None)


def unit(part: Resource) -> str | None:
    """Return the unit of a quantity; None for a count or code, whose unit cannot be wrong."""
    quantity = part.get("valueQuantity")
    if not isinstance(quantity, dict):
        return None
    return str(quantity.get("code") or quantity.get("unit") or NO_UNIT)
