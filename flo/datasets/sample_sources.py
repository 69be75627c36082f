"""The heart data in the formats of hospital systems, to test connectors: Parquet, SQL, FHIR, OMOP.

The patients are real, but they were never stored in such a system. Codes are LOINC, SNOMED CT and
OMOP concepts where the source states the measurement clearly enough, and otherwise codes of our own
system. The source has no dates, so every event is on one day, and birthdays are invented to match
the ages.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import sqlalchemy as sa

from flo.errors import UsageError

DAY = "1988-07-01"  # the year in which the archive received the data
LOINC, SNOMED, UCUM = "http://loinc.org", "http://snomed.info/sct", "http://unitsofmeasure.org"
OWN = "https://archive.ics.uci.edu/dataset/45/heart+disease"
DISEASE = ("53741008", "Coronary arteriosclerosis (disorder)", 317576)
COHORT = 1
_GENDERS = {"Male": ("male", 8507), "Female": ("female", 8532)}
_OWN_CONCEPTS = 2_000_000_000  # OMOP's range for local concepts begins here


@dataclass(frozen=True)
class Observed:
    """An observed column: code, words, unit (UCUM), and OMOP's concepts for code and unit."""

    column: str
    system: str
    code: str
    words: str
    concept: int
    unit: str | None = None
    unit_concept: int = 0


OBSERVED = (
    Observed("cp", OWN, "cp", "Chest pain type", 2_000_000_001),
    Observed("trestbps", LOINC, "8480-6", "Systolic blood pressure", 3004249, "mm[Hg]", 8876),
    Observed(
        *("chol", LOINC, "2093-3", "Cholesterol [Mass/volume] in Serum or Plasma"),
        *(3027114, "mg/dL", 8840),
    ),
    Observed("fbs", OWN, "fbs", "Fasting blood sugar above 120 mg/dl", 2_000_000_002),
    Observed("restecg", OWN, "restecg", "Resting electrocardiogram", 2_000_000_003),
    Observed("thalch", OWN, "thalch", "Maximum heart rate achieved", 2_000_000_004, "/min", 8483),
    Observed("exang", OWN, "exang", "Exercise induced angina", 2_000_000_005),
    Observed("oldpeak", OWN, "oldpeak", "ST depression by exercise", 2_000_000_006, "mm", 8588),
    Observed("slope", OWN, "slope", "Slope of the peak exercise ST segment", 2_000_000_007),
    Observed("ca", OWN, "ca", "Major vessels coloured by fluoroscopy", 2_000_000_008),
    Observed("thal", OWN, "thal", "Thallium scan", 2_000_000_009),
)


def write_parquet(table: pd.DataFrame, folder: Path, hospital: str) -> Path:
    """Write one hospital's table as ``{hospital}.parquet`` and return its path."""
    path = folder / f"{hospital}.parquet"
    # Two columns mix booleans and missing values, for which pandas has no single type.
    table.astype({"fbs": "string", "exang": "string"}).to_parquet(path, index=False)
    return path


def write_sql(table: pd.DataFrame, folder: Path, hospital: str) -> Path:
    """Write an SQLite file with the table ``patients``."""
    path = folder / f"{hospital}.sqlite"
    path.unlink(missing_ok=True)
    with closing(_engine(path)) as connection:
        table.astype({"fbs": "string", "exang": "string"}).to_sql(
            "patients", connection, index=False
        )
        connection.commit()
    return path


def write_fhir(table: pd.DataFrame, folder: Path, hospital: str) -> Path:
    """Write a folder with the files of a FHIR R4 bulk export."""
    place = folder / f"{hospital}-fhir"
    place.mkdir(parents=True, exist_ok=True)
    patients, conditions, observations = [], [], []
    for number, row in enumerate(table.to_dict("records"), start=1):
        subject = {"reference": f"Patient/{row['patient_id']}"}
        patients.append(
            {
                "resourceType": "Patient",
                "id": row["patient_id"],
                "gender": _GENDERS[str(row["sex"])][0],
                "birthDate": f"{int(DAY[:4]) - int(row['age'])}-01-02",
            }
        )
        if row["disease"]:
            conditions.append(
                {
                    "resourceType": "Condition",
                    "id": f"c{number}",
                    "subject": subject,
                    "code": _concept(SNOMED, DISEASE[0], DISEASE[1]),
                    "verificationStatus": _concept(
                        "http://terminology.hl7.org/CodeSystem/condition-ver-status", "confirmed"
                    ),
                    "onsetDateTime": DAY,
                }
            )
        for one in OBSERVED:
            if pd.notna(row[one.column]):
                observations.append(
                    {
                        "resourceType": "Observation",
                        "id": f"o{number}-{one.column}",
                        "status": "final",
                        "subject": subject,
                        "code": _concept(one.system, one.code, one.words),
                        "effectiveDateTime": DAY,
                        **_value(one, row[one.column]),
                    }
                )
    for name, resources in (
        ("Patient", patients),
        ("Condition", conditions),
        ("Observation", observations),
    ):
        lines = "".join(json.dumps(resource) + "\n" for resource in resources)
        (place / f"{name}.ndjson").write_text(lines, encoding="utf-8")
    return place


def write_omop(table: pd.DataFrame, folder: Path, hospital: str) -> Path:
    """Write an SQLite file with OMOP CDM 5.4 tables for patients, events and one cohort."""
    path = folder / f"{hospital}-omop.sqlite"
    path.unlink(missing_ok=True)
    codes = code_concepts(table)
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in _OMOP}
    rows["concept"] = list(_concepts(codes))
    for person, row in enumerate(table.to_dict("records"), start=1):
        rows["person"].append(
            {
                "person_id": person,
                "gender_concept_id": _GENDERS[str(row["sex"])][1],
                "year_of_birth": int(DAY[:4]) - int(row["age"]),
                "month_of_birth": 1,
                "day_of_birth": 2,
                "race_concept_id": 0,
                "ethnicity_concept_id": 0,
                "person_source_value": row["patient_id"],
            }
        )
        rows["cohort"].append(
            {
                "cohort_definition_id": COHORT,
                "subject_id": person,
                "cohort_start_date": DAY,
                "cohort_end_date": DAY,
            }
        )
        if row["disease"]:
            rows["condition_occurrence"].append(
                {
                    "condition_occurrence_id": person,
                    "person_id": person,
                    "condition_concept_id": DISEASE[2],
                    "condition_start_date": DAY,
                    "condition_type_concept_id": 32817,
                }
            )
        for one in OBSERVED:
            value = row[one.column]
            if pd.isna(value):
                continue
            coded = codes.get((one.column, str(value)))
            rows["measurement"].append(
                {
                    "measurement_id": len(rows["measurement"]) + 1,
                    "person_id": person,
                    "measurement_concept_id": one.concept,
                    "measurement_date": DAY,
                    "measurement_type_concept_id": 32817,
                    "value_as_number": None if coded else float(value),
                    "value_as_concept_id": coded,
                    "unit_concept_id": None if coded else one.unit_concept,
                }
            )
    with closing(_engine(path)) as connection:
        for name, columns in _OMOP.items():
            connection.exec_driver_sql(f"CREATE TABLE {name} ({columns})")
            names = [column.split()[0] for column in columns.split(",")]
            marks = ", ".join(f":{column}" for column in names)
            filled = [{n: row.get(n) for n in names} for row in rows[name]]
            if filled:  # table and column names are our constants
                statement = f"INSERT INTO {name} ({', '.join(names)}) VALUES ({marks})"  # noqa: S608
                connection.execute(sa.text(statement), filled)
        connection.commit()
    return path


FORMS = {"parquet": write_parquet, "sql": write_sql, "fhir": write_fhir, "omop": write_omop}


def write_as(form: str, tables: dict[str, pd.DataFrame], folder: Path) -> list[Path]:
    """Write each hospital's patients in that form. Raises UsageError for an unknown form."""
    if form not in FORMS:
        raise UsageError(f"no format {form!r}", hint=f"known: csv, {', '.join(FORMS)}")
    folder.mkdir(parents=True, exist_ok=True)
    return [FORMS[form](table, folder, hospital) for hospital, table in tables.items()]


# The columns of OMOP CDM 5.4 that the standard requires or that FLO reads.
_OMOP = {
    "person": """
        person_id INTEGER, gender_concept_id INTEGER, year_of_birth INTEGER,
        month_of_birth INTEGER, day_of_birth INTEGER, race_concept_id INTEGER,
        ethnicity_concept_id INTEGER, person_source_value VARCHAR(50)
    """,
    "cohort": """
        cohort_definition_id INTEGER, subject_id INTEGER, cohort_start_date DATE,
        cohort_end_date DATE
    """,
    "condition_occurrence": """
        condition_occurrence_id INTEGER, person_id INTEGER, condition_concept_id INTEGER,
        condition_start_date DATE, condition_start_datetime TIMESTAMP,
        condition_type_concept_id INTEGER, condition_status_concept_id INTEGER
    """,
    "measurement": """
        measurement_id INTEGER, person_id INTEGER, measurement_concept_id INTEGER,
        measurement_date DATE, measurement_datetime TIMESTAMP,
        measurement_type_concept_id INTEGER, operator_concept_id INTEGER,
        value_source_value VARCHAR(50), value_as_number NUMERIC, value_as_concept_id INTEGER,
        unit_concept_id INTEGER
    """,
    "observation": """
        observation_id INTEGER, person_id INTEGER, observation_concept_id INTEGER,
        observation_date DATE, observation_datetime TIMESTAMP,
        observation_type_concept_id INTEGER, value_as_number NUMERIC,
        value_as_string VARCHAR(60), value_as_concept_id INTEGER, unit_concept_id INTEGER
    """,
    "drug_exposure": """
        drug_exposure_id INTEGER, person_id INTEGER, drug_concept_id INTEGER,
        drug_exposure_start_date DATE, drug_exposure_start_datetime TIMESTAMP,
        drug_type_concept_id INTEGER
    """,
    "procedure_occurrence": """
        procedure_occurrence_id INTEGER, person_id INTEGER, procedure_concept_id INTEGER,
        procedure_date DATE, procedure_datetime TIMESTAMP, procedure_type_concept_id INTEGER
    """,
    "death": "person_id INTEGER, death_date DATE",
    "concept": """
        concept_id INTEGER, concept_name VARCHAR(255), vocabulary_id VARCHAR(20),
        concept_code VARCHAR(50)
    """,
}


def _engine(path: Path) -> sa.Connection:
    return sa.create_engine(f"sqlite:///{path}").connect()


def _concept(system: str, code: str, display: str = "") -> dict[str, Any]:
    coding = {"system": system, "code": code} | ({"display": display} if display else {})
    return {"coding": [coding]}


def _value(one: Observed, value: Any) -> dict[str, Any]:
    if isinstance(value, bool):
        return {"valueBoolean": value}
    if isinstance(value, str):
        return {"valueCodeableConcept": _concept(OWN, value)}
    if one.unit is None:
        return {"valueInteger": int(value)}
    quantity = {"value": float(value), "unit": one.unit, "system": UCUM, "code": one.unit}
    return {"valueQuantity": quantity}


def code_concepts(table: pd.DataFrame) -> dict[tuple[str, str], int]:
    """Return (column, code) -> one of our own concepts."""
    pairs = [
        (one.column, str(code))
        for one in OBSERVED
        for code in sorted(table[one.column].dropna().unique(), key=str)
        if not isinstance(code, int | float) or isinstance(code, bool)
    ]
    return {pair: _OWN_CONCEPTS + 100 + number for number, pair in enumerate(pairs)}


def _concepts(codes: dict[tuple[str, str], int]) -> Iterable[dict[str, Any]]:
    def concept(number: int, name: str, code: str, vocabulary: str) -> dict[str, Any]:
        return {
            "concept_id": number,
            "concept_name": name,
            "vocabulary_id": vocabulary,
            "concept_code": code,
        }

    yield concept(DISEASE[2], DISEASE[1], DISEASE[0], "SNOMED")
    for code, (word, number) in _GENDERS.items():
        yield concept(number, word.upper(), code[0], "Gender")
    for one in OBSERVED:
        yield concept(one.concept, one.words, one.code, "LOINC" if one.system == LOINC else "UCI")
        if one.unit:
            yield concept(one.unit_concept, one.unit, one.unit, "UCUM")
    for (column, code), number in codes.items():
        yield concept(number, code, f"{column}={code}", "UCI")
