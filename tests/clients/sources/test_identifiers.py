"""What tells who a patient is, planted in every connector's sample, is refused before approval.

Nothing is frozen or reserved, and no error shows a planted cell.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from flo.clients.quality.check import inspect_table, require_clean
from flo.clients.quality.findings import DataFinding
from flo.clients.quality.identifiers import identifiers, kind_of_identifier
from flo.clients.sources.dicom import DicomFolder
from flo.clients.sources.mapping import StudyMapping
from flo.clients.sources.source import DataSource
from flo.datasets import heart
from flo.datasets import sample_sources as samples
from flo.errors import DataError, FloError
from flo.study.columns import Column
from flo.study.schema import Schema
from tests.clients.sources import images
from tests.clients.sources.hospital import HEART, change, mapping, source

TABLE = heart.load()["switzerland"]

IDENTIFIERS: dict[str, tuple[str, Callable[[int], str]]] = {
    "names": (
        "names",
        lambda n: f"{['Ada', 'Rosa', 'Mary', 'Jean'][n % 4]} {['Byron', 'King', 'Hall'][n % 3]}",
    ),
    "record numbers": ("record or insurance numbers", lambda n: f"MRN {7_000_000 + 13 * n}"),
    "e-mail": ("e-mail addresses", lambda n: f"patient.{n}@north.example"),
    "telephone": ("telephone numbers", lambda n: f"+41 44 555 {n:02d} {n * 7 % 100:02d}"),
    "birth": ("dates, such as of birth", lambda n: f"19{20 + n % 70}-0{1 + n % 9}-1{n % 10}"),
    "free text": ("free text", lambda n: f"seen on the ward today and in good spirits, bed {n}"),
}
planted = pytest.mark.parametrize("what", IDENTIFIERS)


def cells(what: str) -> list[str]:
    return [IDENTIFIERS[what][1](n) for n in range(len(TABLE))]


def refused(
    source: DataSource, what: str, by: StudyMapping | None = None, schema: Schema = HEART
) -> str:
    with pytest.raises(FloError) as error:
        require_clean(source, schema, "patient_id", by)
    said = f"{error.value}\n{error.value.hint}"
    assert not [cell for cell in cells(what) if cell in said]
    return said


@pytest.mark.parametrize("kind", ["csv", "parquet", "sql"])
@planted
def test_in_a_column_of_the_study(what: str, kind: str, tmp_path: Path) -> None:
    table = TABLE.assign(cp=cells(what))
    said = refused(source(kind, table, tmp_path), what)
    assert f"column 'cp': holds what looks like {IDENTIFIERS[what][0]}" in said


@pytest.mark.parametrize("kind", ["csv", "parquet", "sql"])
@planted
def test_in_a_column_beside_those_of_the_study(what: str, kind: str, tmp_path: Path) -> None:
    table = TABLE.assign(note=cells(what))
    said = refused(source(kind, table, tmp_path), what)
    assert f"column 'note': looks like {IDENTIFIERS[what][0]}: no study may have them" in said


@planted
def test_in_a_fhir_export(what: str, tmp_path: Path) -> None:
    by = mapping("fhir", TABLE)
    found = source("fhir", TABLE, tmp_path)
    numbers = iter(range(10_000))

    def plant(resource: dict[str, Any]) -> None:
        if resource["code"]["coding"][0]["code"] == "cp":
            del resource["valueCodeableConcept"]
            resource["valueString"] = IDENTIFIERS[what][1](next(numbers))

    change(tmp_path / "heart-fhir" / "Observation.ndjson", plant)
    said = refused(found, what, by)
    assert f"column 'cp': holds what looks like {IDENTIFIERS[what][0]}" in said


@planted
def test_in_an_omop_database(what: str, tmp_path: Path) -> None:
    by = mapping("omop", TABLE)
    assert by is not None
    found = source("omop", TABLE, tmp_path)
    with closing(sqlite3.connect(tmp_path / "heart-omop.sqlite")) as connection, connection:
        for number, cell in enumerate(cells(what), start=1):
            connection.execute(
                "INSERT INTO observation (person_id, observation_concept_id, observation_date, "
                "value_as_string) VALUES (?, 99, ?, ?)",
                (number, samples.DAY, cell),
            )
    columns = by.model_dump()["columns"] | {"cp": {"field": "observation:99"}}
    said = refused(found, what, StudyMapping(columns=columns, cohort=samples.COHORT))
    assert f"column 'cp': holds what looks like {IDENTIFIERS[what][0]}" in said


@planted
def test_in_a_dicom_folder(what: str, tmp_path: Path) -> None:
    """In the labels; of the images' own tags only harmless kinds are fields (test_dicom)."""
    coded = Schema.model_validate(
        {
            **images.SCHEMA.model_dump(),
            "columns": [{"kind": "category", "name": "reader", "codes": ["a", "b"]}],
        }
    )
    folder = images.write(
        tmp_path,
        patients=8,
        heading="SOPInstanceUID,malignant,reader",
        more=lambda n: f',"{IDENTIFIERS[what][1](n)}"',
    )
    by = StudyMapping.model_validate(
        {"columns": {"reader": {"field": "reader"}, "ill": {"field": "malignant"}}}
    )
    said = refused(DicomFolder(*folder, "PatientID"), what, by, coded)
    assert f"column 'reader': holds what looks like {IDENTIFIERS[what][0]}" in said


def test_what_a_fhir_patient_is_called_is_never_read(tmp_path: Path) -> None:
    """Names, addresses and record numbers of the resource itself reach nothing."""
    found = source("fhir", TABLE, tmp_path)

    def plant(resource: dict[str, Any]) -> None:
        resource["name"] = [{"family": "Secretname"}]
        resource["telecom"] = [{"system": "phone", "value": "Secretname"}]
        resource["identifier"] = [{"system": "urn:mrn", "value": "Secretname"}]
        resource["text"] = {"status": "generated", "div": "<div>Secretname</div>"}

    change(tmp_path / "heart-fhir" / "Patient.ndjson", plant)
    by = mapping("fhir", TABLE)
    assert by is not None
    batches = list(found.read(by, HEART))
    assert "Secretname" not in repr([(b.ids.to_pylist(), b.columns) for b in batches])
    assert len(require_clean(found, HEART, "id", by).labels) == len(TABLE)


SPELLINGS = {
    "names": [
        *("Dr. med. Hans Meier", "von der Heide, Anna", "Charles de Gaulle", "J. Müller"),
        *("María José García López", "Müller, J.", "Hans-Peter Müller-Lüdenscheidt"),
    ],
    "telephone numbers": ["(555) 123-4567", "555-123-4567", "+49 (0)30 1234567", "030/1234567"],
    "record or insurance numbers": ["123-45-6789", "943 476 5919", "12345/2020", "MRN 0012345"],
    "dates, such as of birth": ["2. April 1958", "02-Apr-1958", "3.4.1958", "1958-04-03T00:00"],
    "e-mail addresses": ["a.b@north.example"],
}


@pytest.mark.parametrize("what", SPELLINGS)
def test_usual_spellings_are_known(what: str) -> None:
    for cell in SPELLINGS[what]:
        assert kind_of_identifier(pa.array([cell])) == what, cell


def test_one_in_five_is_enough() -> None:
    cells = ["a", "b", "c", "d"] * 5 + ["Ada Byron", "Jean King"] * 3
    assert kind_of_identifier(pa.array(cells)) == "names"


NUMBERS: dict[str, tuple[str | None, Callable[[int], float]]] = {
    "days of birth": ("dates", lambda n: 19_200_101 + 10_000 * (n % 70) + n % 28),
    "days of birth the other way": (
        "dates",
        lambda n: 99_999_999 if n == 50 else 1_000_000 * (1 + n % 28) + 41_920 + n % 70,
    ),
    "American days of birth": ("dates", lambda n: 1_011_920 + 10_000 * (n % 28) + n % 70),
    "short days of birth": (
        "dates",
        lambda n: 10_000 * (1 + n % 28) + 100 * (1 + n % 12) + 20 + n % 70,
    ),
    "months of birth": ("dates", lambda n: 192_001 + 100 * (n % 70) + n % 12),
    "days of half of them": ("dates", lambda n: 19_200_101 + n % 28 if n % 2 else 50 + n % 9),
    "days of fewer": (None, lambda n: 19_200_101 + n % 28 if n % 9 > 4 else 50 + n % 9),
    "nine days": (None, lambda n: 19_200_101 + n % 9),
    "pressures": (None, lambda n: 100_100 + 20 * (n % 70)),
    "no days": (None, lambda n: 400_000 + 1000 * (n % 60)),
    "years of birth": ("years", lambda n: 1920 + n % 70),
    "years of fewer": (None, lambda n: 1920 + n % 70 if n % 5 else 50),
    "nine years": (None, lambda n: 2000 + n % 9),
    "record numbers": ("record or telephone numbers", lambda n: 7_000_000 + 13 * n),
    "short record numbers": ("record or telephone numbers", lambda n: 40_000 + 13 * n),
    "shorter numbers": (None, lambda n: 4_000 + 13 * n),
    "numbers that many have": (None, lambda n: 40_000 + 13 * (n % 99)),
    "one in fifteen no number of a record": (
        "record or telephone numbers",
        lambda n: 7_000_000 + 13 * n if n % 15 else 0.5,
    ),
    "one in five none": (None, lambda n: 7_000_000 + 13 * n if n % 5 else 0.5),
    "their own ids": ("the patients' own ids", lambda n: n + 1),
    "the ids of others": (None, lambda n: n + 2),
}
WIDE = HEART.columns[0].model_copy(update={"maximum": 1e9, "minimum": 0})


def kind_of(values: list[float], column: Column = WIDE, ids: list[str] | None = None) -> str | None:
    """What a column of such numbers is asked about as."""
    schema = HEART.model_copy(update={"columns": (column,)})
    names = ids or [f"uci-{n + 1:04d}" for n in range(len(values))]
    found = identifiers(pd.DataFrame({column.name: np.array(values, dtype=float)}), names, schema)
    assert all(finding.level == "to accept" for finding in found)
    return found[0].rule if found else None


@pytest.mark.parametrize("what", NUMBERS)
def test_as_numbers_within_wide_bounds(what: str) -> None:
    kind, number = NUMBERS[what]
    rule = kind_of([number(n) for n in range(120)])
    assert (rule or "").startswith(f"holds what looks like {kind}" if kind else "")
    assert (rule is None) == (kind is None)


def test_years_within_bounds_for_years_are_what_the_study_asks_for() -> None:
    years = WIDE.model_copy(update={"minimum": 1900, "maximum": 2030})
    assert kind_of([1920 + n % 70 for n in range(120)], years) is None


@pytest.mark.parametrize(("cells", "told"), [(20, True), (19, False)])
def test_from_twenty_numbers_on(cells: int, told: bool) -> None:
    assert (kind_of([7_000_000 + 13 * n for n in range(cells)]) is not None) is told


def test_a_long_id_is_read_at_its_end() -> None:
    """As long as this one took hours, for one patient."""
    ids = [f"{'1' * 30_000}a{n + 1:03d}-" for n in range(25)]
    assert "own ids" in str(kind_of([n + 1 for n in range(25)], ids=ids))
    assert kind_of([n + 1 for n in range(25)], ids=["1" * 30_000 + "a"] * 25) is None


def test_numbers_that_tell_are_in_the_way(tmp_path: Path) -> None:
    schema = HEART.model_copy(update={"columns": (WIDE, *HEART.columns[1:])})
    table = TABLE.assign(age=[7_000_000 + 13 * n for n in range(len(TABLE))])
    with pytest.raises(DataError, match="'age': holds what looks like record"):
        require_clean(source("csv", table, tmp_path), schema, "patient_id", None)


def asked(codes: list[str], cells: list[str], ids: list[str] | None = None) -> list[DataFinding]:
    column = {"kind": "category", "name": "cp", "codes": codes}
    schema = Schema.model_validate({"record": "r", "label": "ill", "columns": [column]})
    names = ids or [f"p{n}" for n in range(len(cells))]
    return identifiers(pd.DataFrame({"cp": pd.Categorical(cells)}), names, schema)


@pytest.mark.parametrize("what", ["record numbers", "e-mail", "telephone", "birth"])
def test_a_codebook_that_invites_them_is_asked_about(what: str) -> None:
    (one,) = asked([*cells(what), "none of these"], ["none of these"])
    assert one.level == "to accept"
    assert one.rule == f"the study's codebook has what looks like {IDENTIFIERS[what][0]}"


@pytest.mark.parametrize(
    ("present", "shared", "told"), [(20, 4, True), (20, 5, False), (19, 0, False)]
)
def test_codes_of_one_patient_each_are_asked_about(present: int, shared: int, told: bool) -> None:
    """A name, whatever it looks like: of those present most are in exactly one patient."""
    codes = [f"{'ABCDEFGHIJ'[n % 10]}{'aeiou'[n // 10]}" for n in range(30)]
    held = [*codes[:present], *codes[:shared], *codes[:present]]
    ids = [f"p{n}" for n in range(present + shared)] + [f"p{n}" for n in range(present)]
    assert bool(asked(codes, held, ids)) is told


@pytest.mark.parametrize("what", ["names", "e-mail"])
def test_an_id_column_of_names_is_noted(what: str, tmp_path: Path) -> None:
    names = [f"Ada {chr(65 + n // 26)}{chr(97 + n % 26)}ron" for n in range(len(TABLE))]
    table = TABLE.assign(patient_id=names if what == "names" else cells(what))
    found = inspect_table(source("csv", table, tmp_path), HEART, "patient_id").found
    (one,) = [finding for finding in found if finding.column == "patient_id"]
    assert (one.level, one.rule.split(":")[0]) == (
        "note",
        f"holds what looks like {IDENTIFIERS[what][0]}",
    )


def test_a_finding_is_told_as_json_without_a_cell(tmp_path: Path) -> None:
    table = TABLE.assign(cp=cells("names"))
    looked = inspect_table(source("csv", table, tmp_path), HEART, "patient_id")
    told = json.dumps([str(finding) for finding in looked.found])
    assert not [cell for cell in cells("names") if cell in told]
