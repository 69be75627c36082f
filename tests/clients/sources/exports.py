"""Small FHIR exports, resource by resource, and what is read of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from flo.clients.sources.fhir import FhirExport
from flo.clients.sources.mapping import StudyMapping
from flo.clients.sources.source import Batch
from tests.builders import small_study

LOINC = "http://loinc.org"
CHOL = f"observation:{LOINC}|2093-3"
ILL = "condition:http://snomed.info/sct|53741008"
SCHEMA = small_study().data


def patient(name: str = "a", **more: Any) -> dict[str, Any]:
    return {"resourceType": "Patient", "id": name, "birthDate": "1950-06-15", **more}


def code(system: str, value: str) -> dict[str, Any]:
    return {"coding": [{"system": system, "code": value}]}


def chol(value: float, day: str | None = "2020-01-01", **more: Any) -> dict[str, Any]:
    return {
        "resourceType": "Observation",
        "status": "final",
        "subject": {"reference": "Patient/a"},
        "code": code(LOINC, "2093-3"),
        "valueQuantity": {"value": value, "code": "mg/dL"},
        **({"effectiveDateTime": day} if day else {}),
        **more,
    }


def ill(day: str | None = "2020-01-01", **more: Any) -> dict[str, Any]:
    return {
        "resourceType": "Condition",
        "subject": {"reference": "Patient/a"},
        "code": code("http://snomed.info/sct", "53741008"),
        **({"onsetDateTime": day} if day else {}),
        **more,
    }


def write(folder: Path, *resources: dict[str, Any], id_column: str = "id") -> FhirExport:
    """A file for each type."""
    for kind in ("Patient", "Condition", "Observation"):
        lines = [json.dumps(r) for r in resources if r["resourceType"] == kind]
        (folder / f"{kind}.ndjson").write_text("".join(f"{line}\n" for line in lines))
    return FhirExport(folder, id_column)


def read(source: FhirExport, field: Any, **mapped: Any) -> list[Batch]:
    """With one column x, on 1 January 2021."""
    document = {"columns": {"x": {"field": field, **mapped}}, "as_of": "2021-01-01"}
    return list(source.read(StudyMapping.model_validate_json(json.dumps(document)), SCHEMA))


def cells(source: FhirExport, field: Any, **mapped: Any) -> list[Any]:
    """That column."""
    return [c for batch in read(source, field, **mapped) for c in batch.columns["x"].to_pylist()]
