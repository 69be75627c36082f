"""One patient more at the hospital's source changes no other patient by a single bit.

"Add or remove one patient" is about the hospital's data, so a connector has to be a map from one
patient's raw records to that patient's rows. A hostile patient is added at the source itself: a
row, a resource, a record of the database; with cells of other kinds, another's identifier, a link
to another, days far off. Everybody else has to have the same id, the same rows to the bit, in the
same order, and be on the same side of the split. That the hospital still approves is not promised:
the gate may ask about the newcomer, or refuse what they are called.
"""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pydicom
import pytest
from pandas.api.types import is_numeric_dtype
from pydicom.uid import generate_uid

from flo.clients.quality.check import encode, inspect_table
from flo.clients.sources.dicom import DicomFolder
from flo.clients.sources.mapping import StudyMapping
from flo.clients.sources.source import DataSource
from flo.datasets import heart
from flo.errors import DataError
from flo.privacy.patients.split import is_held_out
from tests.clients.sources import images
from tests.clients.sources.hospital import HEART, mapping, opened, written

Rows = dict[str, list[tuple[bytes, bool]]]
Hostile = Callable[[Path, random.Random, pd.DataFrame], None]
_SPLIT = b"s" * 32


def whole_table() -> pd.DataFrame:
    """Forty real patients, known by whole numbers."""
    table = heart.load()["hungary"].head(40).reset_index(drop=True)
    return table.assign(patient_id=[1000 + 7 * n for n in range(len(table))])


# -- a newcomer at each kind of source -------------------------------------------------------------


def _row(drawn: random.Random, table: pd.DataFrame) -> dict[str, Any]:
    """Another patient's cells under a strange id, some of them written in another way."""
    row: dict[str, Any] = json.loads(table.iloc[drawn.randrange(len(table))].to_json())
    for name, value in row.items():
        if type(value) in (int, float) and drawn.random() < 0.3:
            row[name] = drawn.choice([f" {value}", f"{float(value)}", str(value)])
    row["patient_id"] = drawn.choice(
        ["x-1", "1000.5", "é1000", "0001001", " 999999 ", "1e9", "0x3e8", str(10**17 + 1), "-7"]
    )
    return row


def _into_csv(path: Path, drawn: random.Random, table: pd.DataFrame) -> None:
    row = _row(drawn, table)
    lines = path.read_text().splitlines(keepends=True)
    cells = ["" if row[name] is None else str(row[name]) for name in table.columns]
    lines.insert(drawn.randrange(1, len(lines) + 1), ",".join(cells) + "\n")
    path.write_text("".join(lines))


def _into_parquet(path: Path, drawn: random.Random, table: pd.DataFrame) -> None:
    """The column of ids becomes one of text, as it has to when one id is."""
    row = _row(drawn, table)
    text = table.astype({"patient_id": str})
    row = {name: _as(value, text[name]) for name, value in row.items()}
    place = drawn.randrange(len(table) + 1)
    parts = [text[:place], pd.DataFrame([row], columns=table.columns), text[place:]]
    pd.concat(parts, ignore_index=True).to_parquet(path)


def _as(value: Any, like: pd.Series) -> Any:
    return float(value) if value is not None and is_numeric_dtype(like) else value


def _into_sql(path: Path, drawn: random.Random, table: pd.DataFrame) -> None:
    """SQLite keeps what it is given: text among numbers."""
    row = _row(drawn, table)
    names = ", ".join(f'"{name}"' for name in table.columns)
    marks = ", ".join("?" for _ in table.columns)
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(
            f"INSERT INTO patients ({names}) VALUES ({marks})",
            [row[name] for name in table.columns],
        )


def _into_fhir(path: Path, drawn: random.Random, table: pd.DataFrame) -> None:
    """A copy of somebody under another id: with their identifier, a link to them, or a late day."""
    patients = [json.loads(line) for line in (path / "Patient.ndjson").read_text().splitlines()]
    victim = drawn.choice(patients)
    who = f"newcomer-{drawn.randrange(10**6)}"
    newcomer = dict(victim) | {"id": who}
    if drawn.random() < 0.5:
        shared = {"system": "urn:shared", "value": "7"}
        newcomer["identifier"] = [*victim.get("identifier", []), shared]
    if drawn.random() < 0.5:
        other = drawn.choice(
            [
                {"reference": f"Patient/{victim['id']}"},
                {"identifier": drawn.choice(victim.get("identifier", [{"value": "none"}]))},
            ]
        )
        newcomer["link"] = [{"other": other, "type": drawn.choice(["replaces", "seealso"])}]
    with (path / "Patient.ndjson").open("a") as file:
        file.write(json.dumps(newcomer) + "\n")
    for name in ("Condition", "Observation"):
        lines = (path / f"{name}.ndjson").read_text().splitlines()
        own = [json.loads(line) for line in lines if f'Patient/{victim["id"]}"' in line]
        with (path / f"{name}.ndjson").open("a") as file:
            for number, event in enumerate(own):
                event |= {
                    "id": f"{who}-{name}-{number}",
                    "subject": {"reference": f"Patient/{who}"},
                }
                if name == "Observation" and drawn.random() < 0.3:
                    event["effectiveDateTime"] = drawn.choice(["1900-01-01", "2099-12-31", "2001"])
                file.write(json.dumps(event) + "\n")


def _into_omop(path: Path, drawn: random.Random, table: pd.DataFrame) -> None:
    """A copy of somebody's records in every table, under a person of their own."""
    who = f"newcomer {drawn.randrange(10**6)}"
    with closing(sqlite3.connect(path)) as database, database:
        (victim,) = drawn.choice(database.execute("SELECT person_id FROM person").fetchall())
        for (name,) in database.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table'"
        ).fetchall():
            columns = [row[1] for row in database.execute(f"PRAGMA table_info({name})")]
            key = next((c for c in ("person_id", "subject_id") if c in columns), None)
            if key is None:
                continue
            rows = database.execute(
                f"SELECT * FROM {name} WHERE {key} = ?",
                (victim,),
            ).fetchall()
            for row in rows:
                cells = dict(zip(columns, row, strict=True)) | {key: 10**6}
                if "person_source_value" in cells:
                    cells["person_source_value"] = who
                for column in columns:
                    own_key = column == f"{name}_id" and column != key
                    if own_key and cells[column] is not None:
                        cells[column] = 10**8 + drawn.randrange(10**8)
                    if column.endswith("_date") and drawn.random() < 0.2:
                        cells[column] = drawn.choice(["1900-01-01", "2099-12-31"])
                marks = ", ".join("?" for _ in columns)
                database.execute(
                    f"INSERT INTO {name} VALUES ({marks})",
                    [cells[column] for column in columns],
                )


def _into_dicom(path: Path, drawn: random.Random, table: pd.DataFrame) -> None:
    """Somebody's image under another patient, read first or last, with a label of another kind."""
    image = pydicom.dcmread(path / f"{drawn.randrange(8)}.dcm")
    image.PatientID = drawn.choice(["newcomer", " P0 x", "0", "P00"])
    image.SOPInstanceUID = generate_uid(entropy_srcs=[str(drawn.random())])
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    if drawn.random() < 0.5:
        image.PixelData = np.full(image.pixel_array.shape, drawn.randrange(500), np.int16).tobytes()
    if drawn.random() < 0.5:
        image.RescaleIntercept = drawn.choice([-1024, 0, 300])
    image.save_as(path / f"{drawn.choice(['000', 'zzz'])}.dcm")
    lines = (path.parent / "labels.csv").read_text().splitlines()
    label = drawn.choice(["0", "1", " 1", "1.0"])
    lines.insert(drawn.randrange(1, len(lines) + 1), f"{image.SOPInstanceUID},{label}")
    (path.parent / "labels.csv").write_text("\n".join(lines) + "\n")


def _opened(kind: str, path: Path) -> DataSource:
    if kind == "dicom":
        return DicomFolder(path, path.parent / "labels.csv", "PatientID")
    return opened(kind, path)


def _written(kind: str, table: pd.DataFrame, folder: Path) -> Path:
    folder.mkdir()
    if kind == "dicom":
        return images.write(folder, patients=8)[0]
    if kind == "sql":  # as some tools write whole numbers
        table = table.astype({"patient_id": float})
    return written(kind, table, folder)


NEWCOMERS: dict[str, Hostile] = {
    "csv": _into_csv,
    "parquet": _into_parquet,
    "sql": _into_sql,
    "fhir": _into_fhir,
    "omop": _into_omop,
    "dicom": _into_dicom,
}


def rows_of(kind: str, path: Path, mapped: StudyMapping | None) -> Rows:
    """Patient -> inputs and label to the bit, and the side, of each of their records in order."""
    schema = images.SCHEMA if kind == "dicom" else HEART
    checked = encode(inspect_table(_opened(kind, path), schema, "patient_id", mapped).table, schema)
    found: Rows = {}
    for inputs, label, name in zip(
        checked.inputs, checked.labels, checked.patient_ids, strict=True
    ):
        side = is_held_out(_SPLIT, name, 0.3)
        found.setdefault(name, []).append((_bits(inputs, label), side))
    return found


def _bits(inputs: npt.NDArray[np.float64], label: float) -> bytes:
    return inputs.tobytes() + np.float64(label).tobytes()


def others_changed(kind: str, folder: Path, seed: int) -> list[str]:
    """Whom a newcomer of this seed changed. Of one who is refused nothing is read."""
    drawn, table = random.Random(seed), whole_table()
    before = _written(kind, table, folder / "before")
    after = Path(shutil.copytree(folder / "before", folder / "after")) / before.name
    NEWCOMERS[kind](after, drawn, table)
    mapped = images.MAPPING if kind == "dicom" else mapping(kind, table)
    alone = rows_of(kind, before, mapped)
    try:
        together = rows_of(kind, after, mapped)
    except DataError as refused:
        if "patient ids must be" not in str(refused):
            raise
        return []
    if len(together.keys() - alone.keys()) > 1:
        return ["more than one is new"]
    if [name for name in together if name in alone] != list(alone):
        return ["the order"]
    return [name for name, rows in alone.items() if together[name] != rows]


@pytest.mark.parametrize("kind", NEWCOMERS)
@pytest.mark.parametrize("seed", range(6))
def test_a_hostile_patient_changes_nobody_else(kind: str, seed: int, tmp_path: Path) -> None:
    assert others_changed(kind, tmp_path, seed) == []
