"""The same hospital's patients in each system that FLO reads, and the mapping for each."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from flo.clients.quality.check import EncodedTable, require_clean
from flo.clients.sources.fhir import FhirExport
from flo.clients.sources.files import open_file
from flo.clients.sources.mapping import StudyMapping
from flo.clients.sources.omop import OmopDatabase
from flo.clients.sources.source import DataSource
from flo.clients.sources.sql import SqlTable
from flo.datasets import sample_sources as samples
from flo.study.loading import load
from flo.study.schema import Schema
from tests.paths import EXAMPLES

HEART = load(EXAMPLES / "heart" / "study.toml").data
HOSPITALS = ("cleveland", "hungary", "switzerland", "va-long-beach")


def source(kind: str, table: pd.DataFrame, folder: Path) -> DataSource:
    """These patients as a source of that kind, written and opened."""
    return opened(kind, written(kind, table, folder))


def written(kind: str, table: pd.DataFrame, folder: Path) -> Path:
    """The file or folder that these patients are in."""
    if kind != "csv":
        return Path(samples.FORMS[kind](table, folder, "heart"))
    table.to_csv(folder / "heart.csv", index=False)
    return folder / "heart.csv"


def opened(kind: str, path: Path) -> DataSource:
    """What lies there, as a source of that kind."""
    match kind:
        case "csv" | "parquet":
            return open_file(path, "patient_id")
        case "sql":
            return SqlTable(f"sqlite:///{path}", "patients", None, "patient_id")
        case "fhir":
            return FhirExport(path, "id")
        case _:
            return OmopDatabase(f"sqlite:///{path}", None, "person_source_value")


def mapping(kind: str, table: pd.DataFrame) -> StudyMapping | None:
    """What a hospital with such a system would write; none for tables with the study's names."""
    if kind not in ("fhir", "omop"):
        return None
    columns = _fhir() if kind == "fhir" else _omop(table)
    own = {"as_of": samples.DAY} if kind == "fhir" else {"cohort": samples.COHORT}
    return StudyMapping.model_validate_json(json.dumps({"columns": columns, **own}))


def checked(kind: str, table: pd.DataFrame, folder: Path, schema: Schema = HEART) -> EncodedTable:
    """Through the gate, in the order of the ids."""
    folder.mkdir(parents=True, exist_ok=True)
    return in_order_of_ids(
        require_clean(source(kind, table, folder), schema, "patient_id", mapping(kind, table))
    )


def with_another_label(
    kind: str, table: pd.DataFrame, folder: Path, schema: Schema
) -> EncodedTable:
    """Through the gate of a study that foresees one of heart's columns; in the order of the ids."""
    folder.mkdir(parents=True, exist_ok=True)
    mapped = mapping(kind, table)
    if mapped is not None:
        document = json.loads(mapped.model_dump_json(exclude_defaults=True))
        del document["columns"]["disease"]
        mapped = StudyMapping.model_validate_json(json.dumps(document))
    found = require_clean(
        source(kind, table, folder), schema, "patient_id", mapped, ignore=("disease",)
    )
    return in_order_of_ids(found)


def in_order_of_ids(found: EncodedTable) -> EncodedTable:
    """The same records by patient id, for sources that have another order."""
    order = sorted(range(len(found.patient_ids)), key=found.patient_ids.__getitem__)
    ids = [found.patient_ids[place] for place in order]
    return EncodedTable(found.made_of[np.array(order)], found.labels[order], ids)


def change(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Apply ``edit`` to every resource of an NDJSON file."""
    resources = [json.loads(line) for line in path.read_text().splitlines()]
    for resource in resources:
        edit(resource)
    path.write_text("".join(json.dumps(resource) + "\n" for resource in resources))


def _fhir() -> dict[str, Any]:
    columns: dict[str, Any] = {
        "disease": {"field": f"condition:{samples.SNOMED}|{samples.DISEASE[0]}"},
        "age": {"field": "patient:age"},
        "sex": {"field": "patient:gender", "codes": {"male": "Male", "female": "Female"}},
    }
    for one in samples.OBSERVED:
        columns[one.column] = {"field": f"observation:{one.system}|{one.code}"}
    return columns


def _omop(table: pd.DataFrame) -> dict[str, Any]:
    columns: dict[str, Any] = {
        "disease": {"field": f"condition:{samples.DISEASE[2]}"},
        "age": {"field": "person:age"},
        "sex": {"field": "person:gender", "codes": {"8507": "Male", "8532": "Female"}},
    }
    codes = samples.code_concepts(table)
    for one in samples.OBSERVED:
        columns[one.column] = {"field": f"measurement:{one.concept}"}
        own = {str(n): code for (name, code), n in codes.items() if name == one.column}
        if own:
            columns[one.column]["codes"] = own
    columns["ca"] |= {"unit": "none", "multiply": 1}  # a count, of which OMOP keeps no unit
    return columns
