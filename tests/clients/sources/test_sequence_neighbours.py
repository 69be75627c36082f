"""One patient more, with whatever events, changes no step of another patient by a single bit.

The newcomer is a copy of somebody. Their events have no day, strange days, another unit, values of
another kind or of 1e38, and come a thousand at a time; some are of nobody at all.
"""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from flo.clients.quality.check import encode, inspect_table
from flo.datasets import sample_sources as samples
from flo.study.schema import Schema
from tests.clients.sources.histories import (
    FALL,
    PRESSURE,
    WARD,
    events,
    patients,
    place_in,
    schema,
    source_of,
    source_there,
)

KINDS = ("csv", "parquet", "sql", "fhir", "omop")
Told = tuple[str, str | None, str, Any, str | None]  # patient, day, column, value, unit


def hostile(drawn: random.Random) -> list[Told]:
    """Events of the newcomer, most of them within the steps."""
    days = ["1988-06-30", "1988-07-01", "1988-04-02T10:00:00Z", "1988-05", "1988", "2099-01-01"]
    days += ["1900-01-01", "yesterday", "1988-02-31"]
    found = list[Told]()
    for _ in range(drawn.choice([1, 30, 1000])):
        column = drawn.choice(["pressure", "ward", "fell"])
        value = drawn.choice([120, 1e38, -5, "high", "red", "1,5", "  90 ", "<60"])
        who = drawn.choice(["newcomer", "newcomer", "nobody"])
        day = drawn.choice([*days, None])
        found.append((who, day, column, value, drawn.choice(["mm[Hg]", "kPa", None])))
    return found


def _into_tables(kind: str, folder: Path, told: list[Told]) -> None:
    rows = [
        (who, day, column[0], None if value is None else str(value), unit)
        for who, day, column, value, unit in told
    ]
    if kind == "sql":
        with closing(sqlite3.connect(folder / "heart.sqlite")) as database, database:
            names = [row[1] for row in database.execute("PRAGMA table_info(patients)")]
            others = ", ".join(f'"{name}"' for name in names if name != "patient_id")
            database.execute(
                f'INSERT INTO patients ("patient_id", {others}) '
                f"SELECT 'newcomer', {others} FROM patients LIMIT 1"
            )
            mixed = [(*row[:3], told[n][3], row[4]) for n, row in enumerate(rows)]
            database.executemany("INSERT INTO events VALUES (?, ?, ?, ?, ?)", mixed)
        return
    write = f"to_{kind}"
    table = _table(folder / f"heart.{kind}")
    copied = table.iloc[[0]].assign(patient_id="newcomer")
    getattr(pd.concat([copied, table]), write)(folder / f"heart.{kind}", index=False)
    happened = _table(folder / f"events.{kind}")
    if kind == "parquet":
        happened["day"] = happened["day"].astype(str)
    more = pd.DataFrame(rows, columns=list(happened.columns))
    getattr(pd.concat([more, happened]), write)(folder / f"events.{kind}", index=False)


def _table(path: Path) -> pd.DataFrame:
    if path.suffix == ".csv":
        return pd.read_csv(path, dtype=str, keep_default_na=False)
    return pd.read_parquet(path)


def _into_fhir(folder: Path, told: list[Told]) -> None:
    first = json.loads((folder / "Patient.ndjson").read_text().splitlines()[0])
    with (folder / "Patient.ndjson").open("a") as file:
        file.write(json.dumps(first | {"id": "newcomer"}) + "\n")
    for number, (who, day, column, value, unit) in enumerate(told):
        one: dict[str, Any] = {
            "resourceType": "Condition" if column == "fell" else "Observation",
            "id": f"hostile-{number}",
            "subject": {"reference": f"Patient/{who}"},
            "code": {"coding": [{"system": samples.OWN, "code": column[0]}]},
        }
        if day:
            one["onsetDateTime" if column == "fell" else "effectiveDateTime"] = day
        if column != "fell":
            quantity = {"value": value} | ({"code": unit} if unit else {})
            text = isinstance(value, str)
            one |= {"status": "final"} | (
                {"valueString": value} if text else {"valueQuantity": quantity}
            )
        with (folder / f"{one['resourceType']}.ndjson").open("a") as file:
            file.write(json.dumps(one) + "\n")


def _into_omop(path: Path, told: list[Told]) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        for name, key in (("person", "person_id"), ("cohort", "subject_id")):
            columns = [row[1] for row in database.execute(f"PRAGMA table_info({name})")]
            row = dict(
                zip(
                    columns,
                    database.execute(f"SELECT * FROM {name} LIMIT 1").fetchone(),
                    strict=True,
                )
            )
            row[key] = 10**6
            if name == "person":
                row["person_source_value"] = "newcomer"
            marks = ", ".join("?" * len(columns))
            database.execute(f"INSERT INTO {name} VALUES ({marks})", list(row.values()))
        for number, (who, day, column, value, unit) in enumerate(told, start=10**7):
            person = 10**6 if who == "newcomer" else 10**6 + 1
            text = isinstance(value, str)
            if column == "pressure":
                made: dict[str, Any] = {"measurement_concept_id": PRESSURE}
                made |= {"value_as_number": None if text else value, "measurement_date": day}
                made |= {"unit_concept_id": 8876 if unit else None, "measurement_id": number}
                table = "measurement"
            elif column == "ward":
                made = {"observation_concept_id": WARD, "observation_date": day}
                made |= {"value_as_string": str(value), "observation_id": number}
                table = "observation"
            else:
                made = {"condition_concept_id": FALL, "condition_start_date": day}
                made |= {"condition_occurrence_id": number}
                table = "condition_occurrence"
            made["person_id"] = person
            marks = ", ".join("?" * len(made))
            database.execute(
                f"INSERT INTO {table} ({', '.join(made)}) VALUES ({marks})", list(made.values())
            )


def others_changed(kind: str, step: str, folder: Path, seed: int) -> list[str]:
    """Whom a newcomer of this seed changed."""
    drawn, table, of = random.Random(seed), patients(), schema(step)
    before, after = folder / kind, folder / "after"
    before.mkdir(parents=True)
    _, mapped = source_of(kind, table, events(table), before, of)
    shutil.copytree(before, after)
    told = hostile(drawn)
    match kind:
        case "fhir":
            _into_fhir(place_in(after), told)
        case "omop":
            _into_omop(place_in(after), told)
        case _:
            _into_tables(kind, after, told)
    alone, together = (_rows(kind, place, mapped, of) for place in (before, after))
    assert len(together) == len(alone) + 1
    if [name for name in together if name in alone] != list(alone):
        return ["the order"]
    return [name for name, row in alone.items() if together[name] != row]


def _rows(kind: str, folder: Path, mapped: Any, of: Schema) -> dict[str, bytes]:
    looked = inspect_table(source_there(kind, folder), of, "patient_id", mapped)
    found = encode(looked.table, of)
    return {name: row.tobytes() for name, row in zip(found.patient_ids, found.inputs, strict=True)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("step", ["period", "visit"])
@pytest.mark.parametrize("seed", range(3))
def test_a_hostile_patient_changes_nobody_elses_steps(
    kind: str, step: str, seed: int, tmp_path: Path
) -> None:
    assert others_changed(kind, step, tmp_path, seed) == []
