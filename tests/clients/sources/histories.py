"""Histories of real patients in each system that FLO reads, and their steps in another way.

The patients are heart's; what happened to them before their day is drawn: pressures with units,
wards with codes, and falls, several on a day, on the record's day and after it.
"""

from __future__ import annotations

import datetime
import json
import os
import random
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest import mock

import pandas as pd

from flo.clients.quality.check import EncodedTable, require_clean
from flo.clients.sources.config import EventTable, SqlPlace
from flo.clients.sources.mapping import StudyMapping
from flo.clients.sources.source import DataSource
from flo.datasets import heart
from flo.datasets import sample_sources as samples
from flo.study.schema import Schema
from tests.clients.sources.hospital import HEART, in_order_of_ids, mapping, opened, written

DAY = datetime.date.fromisoformat(samples.DAY)
PRESSURE, WARD, FALL = 2_000_000_101, 2_000_000_102, 2_000_000_103
COLUMNS = [
    {"kind": "number", "name": "pressure", "unit": "mm Hg", "minimum": 50, "maximum": 250}
    | {"missing": "indicator", "missing_value": 120},
    {"kind": "category", "name": "ward", "codes": ["red", "green", "blue"], "missing": "indicator"},
    {"kind": "category", "name": "fell", "codes": ["0", "1"], "missing": "indicator"},
]
Event = tuple[str, datetime.datetime, str, Any]  # patient, moment, column, value


def schema(step: str = "period", steps: int = 3, days: int = 90) -> Schema:
    """Heart's columns and a history."""
    sequence = {"steps": steps, "step": step, "days": days, "columns": COLUMNS}
    return Schema.model_validate_json(
        json.dumps(json.loads(HEART.model_dump_json()) | {"sequence": sequence})
    )


def patients(count: int = 60) -> pd.DataFrame:
    """Every fourth of one hospital's, of whom some have the disease and some have not."""
    return heart.load()["hungary"][::4].head(count).reset_index(drop=True)


def events(table: pd.DataFrame, seed: int = 0, longest: int = 400) -> list[Event]:
    """Each at a moment of its own, in no order; one patient has none."""
    drawn, found = random.Random(seed), list[Event]()
    for name in table["patient_id"][1:]:
        for _ in range(drawn.randrange(12)):
            ago = drawn.choice([drawn.randrange(-60, longest), 0, 89, 90, 91, 179, 180, 269, 270])
            moment = datetime.datetime.combine(DAY, datetime.time()) - datetime.timedelta(ago)
            moment += datetime.timedelta(minutes=drawn.randrange(1, 1400))
            column = drawn.choice(["pressure", "ward", "fell"])
            value: Any = {
                "pressure": drawn.randrange(90, 200),
                "ward": drawn.choice(["red", "green", "blue"]),
                "fell": 1,
            }[column]
            found.append((name, moment, column, value))
    drawn.shuffle(found)
    return found


def wide(table: pd.DataFrame, happened: list[Event], of: Schema) -> pd.DataFrame:
    """The steps as columns of the table, worked out in another way: by sorting and grouping."""
    sequence = of.sequence
    assert sequence is not None
    told = pd.DataFrame(happened, columns=["patient_id", "moment", "column", "value"])
    told["ago"] = [(DAY - one.date()).days for one in told["moment"]]
    told = told[told["ago"] >= 0].sort_values("moment")
    if sequence.step == "period":
        told["step"] = told["ago"] // sequence.days + 1
    else:
        told = told[told["ago"] < sequence.days]
        told["step"] = told.groupby("patient_id")["ago"].rank("dense").astype(int)
    told = told[told["step"] <= sequence.steps]
    last = told.groupby(["patient_id", "column", "step"])[["value", "ago"]].last()
    found, columns = table.copy(), dict[str, Any]()
    for step in range(1, sequence.steps + 1):
        for name in ("pressure", "ward", "fell"):
            none = 0 if name == "fell" else None
            keys = [(who, name, step) for who in table["patient_id"]]
            columns[f"{name}_{step}"] = [
                last["value"][key] if key in last.index else none for key in keys
            ]
        if sequence.step == "visit":
            of_step = told[told["step"] == step].groupby("patient_id")["ago"].first()
            columns[f"days ago_{step}"] = [of_step.get(who) for who in table["patient_id"]]
    return pd.concat([found, pd.DataFrame(columns)], axis=1)


def read(
    kind: str, table: pd.DataFrame, happened: list[Event], folder: Path, of: Schema
) -> EncodedTable:
    """These patients with their events in a system, through the gate; in the order of the ids."""
    folder.mkdir(parents=True, exist_ok=True)
    source, mapped = source_of(kind, table, happened, folder, of)
    return in_order_of_ids(require_clean(source, of, "patient_id", mapped))


def source_of(
    kind: str, table: pd.DataFrame, happened: list[Event], folder: Path, of: Schema
) -> tuple[DataSource, StudyMapping | None]:
    """A source of that kind, written and opened, and the mapping that a hospital would write."""
    if kind == "wide":
        return opened("csv", written("csv", wide(table, happened, of), folder)), None
    path = written(kind, table, folder)
    match kind:
        case "fhir":
            _into_fhir(path, happened)
        case "omop":
            _into_omop(path, happened)
        case _:
            _beside(path, happened)
    fields = {"fhir": _OF_FHIR, "omop": _OF_OMOP}.get(kind, _OF_TABLES)
    return source_there(kind, folder), _mapping(fields, kind, table)


def place_in(folder: Path) -> Path:
    """The file or folder with the patients."""
    (path,) = [one for one in folder.iterdir() if one.stem.startswith("heart")]
    return path


def source_there(kind: str, folder: Path) -> DataSource:
    """What was written into this folder, as a source."""
    path = place_in(folder)
    if kind in ("fhir", "omop"):
        return opened(kind, path)
    if kind != "sql":
        events_ = EventTable(file=folder / f"events.{kind}")
        return events_.beside(opened(kind, path), None, "patient_id")
    events_ = EventTable(table="events")
    with mock.patch.dict(os.environ, PLACE=f"sqlite:///{path}"):
        database = SqlPlace.model_construct(address="PLACE", schema_name=None)
        return events_.beside(opened(kind, path), database, "patient_id")


_OF_TABLES = {"pressure": "value:p", "ward": "value:w", "fell": "event:f"}
_OF_FHIR = {
    "pressure": f"observation:{samples.OWN}|p",
    "ward": f"observation:{samples.OWN}|w",
    "fell": f"condition:{samples.OWN}|f",
}
_OF_OMOP = {
    "pressure": f"measurement:{PRESSURE}",
    "ward": f"observation:{WARD}",
    "fell": f"condition:{FALL}",
}


def _mapping(fields: dict[str, str], kind: str, table: pd.DataFrame) -> StudyMapping:
    own = mapping(kind, table)
    if own is None:
        columns = {name: {"field": name} for name in table.columns if name != "patient_id"}
        document: dict[str, Any] = {"columns": columns, "as_of": samples.DAY}
    else:
        document = json.loads(own.model_dump_json(exclude_defaults=True))
    document["columns"] |= {name: {"field": field} for name, field in fields.items()}
    return StudyMapping.model_validate_json(json.dumps(document))


def _beside(place: Path, happened: list[Event]) -> None:
    """Write the events beside the patients' table; wards have no unit."""
    told = pd.DataFrame(
        [
            (who, moment.isoformat(" "), column[0], None if column == "fell" else str(value))
            for who, moment, column, value in happened
        ],
        columns=["patient_id", "day", "code", "value"],
    )
    told["unit"] = ["mm[Hg]" if code == "p" else None for code in told["code"]]
    match place.suffix:
        case ".sqlite":
            with closing(sqlite3.connect(place)) as database, database:
                told.to_sql("events", database, index=False)
        case ".csv":
            told.to_csv(place.parent / "events.csv", index=False)
        case _:
            told["day"] = pd.to_datetime(told["day"])
            told.to_parquet(place.parent / "events.parquet", index=False)


def _into_fhir(folder: Path, happened: list[Event]) -> None:
    observations, conditions = [], []
    for number, (who, moment, column, value) in enumerate(happened):
        one = {
            "id": f"told-{number}",
            "subject": {"reference": f"Patient/{who}"},
            "code": {"coding": [{"system": samples.OWN, "code": column[0]}]},
        }
        when = f"{moment.isoformat()}Z"
        if column == "fell":
            conditions.append(one | {"resourceType": "Condition", "onsetDateTime": when})
            continue
        said: dict[str, Any] = {"valueString": value}
        if column == "pressure":
            said = {"valueQuantity": {"value": value, "code": "mm[Hg]"}}
        one |= {"resourceType": "Observation", "status": "final", "effectiveDateTime": when}
        observations.append(one | said)
    for name, told in (("Observation", observations), ("Condition", conditions)):
        with (folder / f"{name}.ndjson").open("a") as file:
            file.writelines(json.dumps(one) + "\n" for one in told)


def _into_omop(path: Path, happened: list[Event]) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        people = dict(database.execute("SELECT person_source_value, person_id FROM person"))
        for number, (who, moment, column, value) in enumerate(happened, start=100_000):
            at = (moment.date().isoformat(), moment.isoformat(" "))
            row = {"person_id": people[who]}
            if column == "pressure":
                table = "measurement"
                row |= {"measurement_concept_id": PRESSURE, "value_as_number": value}
                row |= {"unit_concept_id": 8876}
            elif column == "ward":
                table = "observation"
                row |= {"observation_concept_id": WARD, "value_as_string": value}
            else:
                table = "condition_occurrence"
                row |= {"condition_concept_id": FALL}
            prefix = "condition_start" if column == "fell" else table
            row |= {f"{table}_id": number, f"{prefix}_date": at[0], f"{prefix}_datetime": at[1]}
            marks = ", ".join("?" * len(row))
            database.execute(
                f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks})", tuple(row.values())
            )
