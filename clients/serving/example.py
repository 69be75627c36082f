"""A request of a made-up patient in the form of CDS Hooks, to try a server by hand."""

from __future__ import annotations

from datetime import date
from typing import Any
from uuid import uuid4

from flo.clients.sources.fhir_events import asked
from flo.clients.sources.fhir_prefetch import PrefetchReader
from flo.clients.sources.mapping import MappedColumn, StudyMapping
from flo.study.columns import CategoryColumn, Column, NumberColumn
from flo.study.schema import Schema

_PATIENT = "made-up"


def example_request(hook: str, mapping: StudyMapping, schema: Schema, at: date) -> dict[str, Any]:
    """Return a request with an ordinary value in every column.

    Raises UsageError: the mapping is not of FHIR.
    """
    reader = PrefetchReader(mapping, schema)
    patient: dict[str, Any] = {"resourceType": "Patient", "id": _PATIENT}
    prefetch: dict[str, Any] = {reader.patient_key: patient}
    for column in schema.columns:
        mapped = mapping.columns[column.name]
        kind, _ = asked(mapped)
        if kind == "Patient":
            patient |= _told(mapped, column, at)
        elif kind == "Condition":
            prefetch[column.name] = None
        else:
            prefetch[column.name] = _observed(mapped, column, at)
    return {
        "hook": hook,
        "hookInstance": str(uuid4()),
        "context": {"userId": "Practitioner/made-up", "patientId": _PATIENT},
        "prefetch": prefetch,
    }


def _told(mapped: MappedColumn, column: Column, at: date) -> dict[str, Any]:
    if mapped.field == "patient:gender":
        return {"gender": _ordinary(mapped, column)}
    if mapped.field == "patient:age":
        return {"birthDate": f"{at.year - int(_ordinary(mapped, column)):04d}-01-01"}
    return {}


def _observed(mapped: MappedColumn, column: Column, at: date) -> dict[str, Any]:
    system, _, codes = mapped.fields[0].partition(":")[2].rpartition("|")
    value: dict[str, Any] = {"valueString": str(_ordinary(mapped, column))}
    if isinstance(column, NumberColumn):
        unit = mapped.unit or column.unit
        value = {"valueQuantity": {"value": _ordinary(mapped, column), "unit": unit}}
    resource = {
        "resourceType": "Observation",
        "id": f"made-up-{len(column.name)}-{codes.split(',')[0]}"[:64],
        "status": "final",
        "subject": {"reference": f"Patient/{_PATIENT}"},
        "code": {"coding": [{"system": system, "code": codes.split(",")[0]}]},
        "effectiveDateTime": f"{at.isoformat()}",
        **value,
    }
    return {"resourceType": "Bundle", "type": "searchset", "entry": [{"resource": resource}]}


def _ordinary(mapped: MappedColumn, column: Column) -> Any:
    """Return a cell of the source that becomes an ordinary value of the column."""
    if isinstance(column, CategoryColumn):
        code = column.codes[0]
        return next((cell for cell, own in mapped.codes.items() if own == code), code)
    assert isinstance(column, NumberColumn)
    value = column.missing_value
    if value is None:
        value = (column.minimum + column.maximum) / 2
    if mapped.multiply is not None:
        value = (value - mapped.add) / mapped.multiply
    return float(f"{value:.6g}")
