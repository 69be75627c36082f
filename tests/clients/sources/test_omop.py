"""An OMOP database is read by cohort and concept; the last value before a record's day counts."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import sqlalchemy as sa

from flo.clients.sources.config import OmopPlace
from flo.clients.sources.mapping import StudyMapping
from flo.clients.sources.omop import OmopDatabase
from flo.datasets import sample_sources as samples
from flo.errors import DataError, UsageError
from tests.builders import small_study

SCHEMA = small_study().data
CHOL = "measurement:3027114"


class Database:
    """The sample's tables with the first two patients' rows only, and rows of a test's own."""

    def __init__(self, folder: Path) -> None:
        table = pd.DataFrame([_row("p1", 50), _row("p2", 60)])
        self.path = samples.write_omop(table, folder, "two")
        self.run("DELETE FROM measurement")

    def run(self, statement: str, *values: Any) -> None:
        with closing(sqlite3.connect(self.path)) as connection, connection:
            connection.execute(statement, values)

    def measured(
        self,
        person: int,
        day: str,
        number: float | None,
        concept: int | None = None,
        *,
        unit: int | None = 8840,
        key: int = 0,
        moment: str | None = None,
        operator: int | None = None,
    ) -> None:
        self.run(
            "INSERT INTO measurement (measurement_concept_id, unit_concept_id, person_id, "
            "measurement_date, value_as_number, value_as_concept_id, measurement_id, "
            "measurement_datetime, operator_concept_id) VALUES (3027114, ?, ?, ?, ?, ?, ?, ?, ?)",
            *(unit, person, day, number, concept, key, moment, operator),
        )

    def enters(self, person: int, day: str, cohort: int = 2) -> None:
        self.run("INSERT INTO cohort VALUES (?, ?, ?, ?)", cohort, person, day, day)

    def died(self, person: int, day: str) -> None:
        self.run("INSERT INTO death VALUES (?, ?)", person, day)

    @property
    def source(self) -> OmopDatabase:
        return OmopDatabase(f"sqlite:///{self.path}", None, "person_source_value")

    def cells(self, field: Any, cohort: int = 2, **mapped: Any) -> list[Any]:
        return [cell for batch in self.read(field, cohort, **mapped) for cell in batch]

    def read(self, field: Any, cohort: int, **mapped: Any) -> Iterator[list[Any]]:
        document = {"columns": {"x": {"field": field, **mapped}}, "cohort": cohort}
        for batch in self.source.read(StudyMapping.model_validate(document), SCHEMA):
            yield batch.columns["x"].to_pylist()


def _row(name: str, age: int) -> dict[str, Any]:
    values: dict[str, Any] = dict.fromkeys(one.column for one in samples.OBSERVED)
    return {**values, "patient_id": name, "age": age, "sex": "Male", "disease": 0}


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database(tmp_path)


def test_a_record_is_an_entry_of_the_cohort_with_its_own_day(database: Database) -> None:
    database.enters(1, "2020-01-01")
    database.enters(1, "2022-01-01")
    database.enters(2, "2021-01-01", cohort=3)
    database.measured(1, "2019-05-01", 200)
    database.measured(1, "2021-05-01", 300)
    assert database.cells(CHOL) == [200, 300]
    assert database.cells(CHOL, cohort=3) == [None]
    assert database.cells("person:age") == [2020 - 1938 - 1, 2022 - 1938 - 1]


def test_when_chooses_the_event(database: Database) -> None:
    database.enters(1, "2020-06-01")
    for day, number in (
        ("2020-05-01", 1.0),
        ("2020-06-01", 2.0),
        ("2020-07-01", 3.0),
        ("2021-01-01", 4.0),
    ):
        database.measured(1, day, number)
    assert database.cells(CHOL) == [2.0]
    assert database.cells(CHOL, when="after") == [3.0]
    assert database.cells(CHOL, when="any") == [4.0]


def test_death_after_entry_is_a_label(database: Database) -> None:
    database.enters(1, "2020-06-01")
    database.enters(2, "2020-06-01")
    database.died(1, "2020-08-01")
    assert database.cells("death", when="after") == [1, 0]
    assert database.cells("death") == [0, 0]


def test_a_value_may_be_a_concept_but_not_no_matching_concept(database: Database) -> None:
    database.enters(1, "2021-01-01")
    database.enters(2, "2021-01-01")
    database.measured(1, "2020-01-01", None, concept=4181412)
    database.measured(2, "2020-01-01", None, concept=0)
    assert database.cells(CHOL) == ["4181412", None]


def test_several_concepts_are_one_column(database: Database) -> None:
    database.enters(1, "2021-01-01")
    database.measured(1, "2020-01-01", 5)
    assert database.cells("measurement:1,3027114") == [5.0]


def test_a_concept_with_a_plus_brings_its_descendants_along(database: Database) -> None:
    database.run(
        "CREATE TABLE concept_ancestor (ancestor_concept_id INT, descendant_concept_id INT)"
    )
    database.run("INSERT INTO concept_ancestor VALUES (1, 3027114), (2, 4), (3027114, 3027114)")
    database.enters(1, "2021-01-01")
    database.measured(1, "2020-01-01", 5)
    assert database.cells("measurement:1+") == [5.0]
    assert database.cells("measurement:2+,3027114") == [5.0]
    assert database.cells("measurement:1") == [None]
    assert database.cells("measurement:2+") == [None]


def test_without_the_table_of_descendants_they_are_not_taken_for_none(database: Database) -> None:
    database.enters(1, "2021-01-01")
    with pytest.raises(DataError, match="has no table concept_ancestor"):
        database.cells("measurement:1+")


@pytest.mark.parametrize(
    "field",
    [
        "measurement:1++",
        "measurement:+",
        "person:name",
        "measurement:chol",
        "note:1",
        "visit:2",
        "measurement:",
    ],
)
def test_what_is_no_field_is_refused(database: Database, field: str) -> None:
    database.enters(1, "2021-01-01")
    with pytest.raises(UsageError, match="not a field of an OMOP database"):
        database.cells(field)


def test_a_mapping_without_a_cohort_is_refused(database: Database) -> None:
    mapping = StudyMapping.model_validate({"columns": {"x": {"field": CHOL}}})
    with pytest.raises(UsageError, match="names no cohort"):
        list(database.source.read(mapping, SCHEMA))


def test_the_only_cohort_is_suggested_and_fields_have_names_and_units(database: Database) -> None:
    database.measured(1, "2020-01-01", 5)
    assert database.source.settings() == {"cohort": samples.COHORT}
    (chol,) = [offer for offer in database.source.fields() if offer.field == CHOL]
    assert (chol.text, chol.unit) == ("Cholesterol [Mass/volume] in Serum or Plasma", "mg/dL")
    database.enters(1, "2021-01-01")
    assert database.source.settings() == {}


@pytest.mark.parametrize(
    "born", [(1950, 13, 1), (1950, 2, 31), (0, 1, 1), ("Müller", 1, 1), (10**12, 1, 1)]
)
def test_a_birthday_that_is_none_is_missing(database: Database, born: tuple[Any, int, int]) -> None:
    database.enters(1, "2020-06-01")
    database.run("UPDATE person SET year_of_birth = ?, month_of_birth = ?, day_of_birth = ?", *born)
    assert database.cells("person:age") == [None]


def test_a_day_that_is_none_is_never_before_or_after(database: Database) -> None:
    database.enters(1, "2020-06-01")
    database.measured(1, "Müller, Ha", 5)
    assert database.cells(CHOL) == [None]


def test_an_id_column_that_omop_does_not_have_is_refused(database: Database) -> None:
    with pytest.raises(UsageError, match="not an id of OMOP's table person"):
        OmopDatabase(f"sqlite:///{database.path}", None, "patient_id")


def test_a_database_with_other_tables_is_refused_without_its_address(tmp_path: Path) -> None:
    path = tmp_path / "secret-name.sqlite"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE x (y)")
    with pytest.raises(
        DataError, match="the OMOP database has no table concept, table condition_occ"
    ) as refused:
        OmopDatabase(f"sqlite:///{path}", None, "person_id").fields()
    assert "secret-name" not in f"{refused.value}{refused.value.hint}"


# -- what counts, and what is told -----------------------------------------------------------------


def told(database: Database, field: Any, **mapped: Any) -> tuple[list[Any], Any, dict[str, int]]:
    """Cells, the names of doubts, and notes."""
    document = {"columns": {"x": {"field": field, **mapped}}, "cohort": 2}
    (batch,) = database.source.read(StudyMapping.model_validate(document), SCHEMA)
    doubts = {(kind, column): n for (kind, column, _), n in batch.to_accept.items()}
    return batch.columns["x"].to_pylist(), doubts, batch.notes


def diagnosed(database: Database, concept: int, status: int | None = None) -> None:
    database.run(
        "INSERT INTO condition_occurrence (condition_occurrence_id, person_id, "
        "condition_concept_id, condition_start_date, condition_status_concept_id) "
        "VALUES (9, 1, ?, '2020-01-01', ?)",
        *(concept, status),
    )


@pytest.mark.parametrize(
    ("operator", "cell"),
    [(4171756, "< 5"), (4171754, "<= 5"), (4172704, "> 5"), (4171755, ">= 5"), (9, "? 5"),
     (4172703, 5), (0, 5), (None, 5)],
)  # fmt: skip
def test_what_is_only_a_bound_is_no_number(database: Database, operator: Any, cell: Any) -> None:
    database.enters(1, "2021-01-01")
    database.measured(1, "2020-01-01", 5.0, operator=operator)
    assert database.cells(CHOL) == [cell]


def test_a_unit_of_no_concept_is_none_and_an_unknown_one_is_another(database: Database) -> None:
    database.run("INSERT INTO concept VALUES (0, 'No matching concept', 'None', 'No matching')")
    database.enters(1, "2021-01-01")
    mapping = {"columns": {"age": {"field": CHOL}}, "cohort": 2}
    for day, unit, rule in (
        ("2020-01-01", 0, "no unit"),
        ("2020-01-02", None, "no unit"),
        ("2020-01-03", 99, "another unit"),
    ):
        database.measured(1, day, 5, unit=unit)
        (batch,) = database.source.read(StudyMapping.model_validate(mapping), SCHEMA)
        assert [found.split(" where")[0] for _, found in batch.invalid] == [f"has {rule}"]
    declared = {"columns": {"age": {"field": CHOL, "missing": ["5"]}}, "cohort": 2}
    (batch,) = database.source.read(StudyMapping.model_validate(declared), SCHEMA)
    assert not batch.invalid


def test_of_two_on_one_day_time_and_then_key_decide_and_never_the_value(
    database: Database,
) -> None:
    database.enters(1, "2020-06-01")
    database.enters(2, "2020-06-01")
    for year in (2020, 2021):
        database.measured(1, f"{year}-01-01", 300, key=2, moment=f"{year}-01-01 08:00:00")
        database.measured(1, f"{year}-01-01", 180, key=1, moment=f"{year}-01-01 18:00:00")
        database.measured(2, f"{year}-01-01", 300, key=3)
        database.measured(2, f"{year}-01-01", 180, key=4)
    assert database.cells(CHOL) == [180, 180]
    assert database.cells(CHOL, when="after") == [300, 300]


def test_a_preliminary_diagnosis_does_not_count(database: Database) -> None:
    database.enters(1, "2021-01-01")
    diagnosed(database, 7, status=32899)
    cells, doubts, notes = told(database, "condition:7")
    assert (cells, doubts, notes) == ([0], {("nothing counts", "x"): 1}, {})
    diagnosed(database, 7, status=32903)  # final diagnosis
    assert database.cells("condition:7") == [1]


def test_a_result_that_is_only_text_lets_no_older_one_stand_in(database: Database) -> None:
    database.enters(1, "2021-01-01")
    database.measured(1, "2019-01-01", None, concept=4181412)
    database.run(
        "INSERT INTO measurement (measurement_concept_id, person_id, measurement_date, "
        "value_source_value) VALUES (3027114, 1, '2020-01-01', 'Positive')"
    )
    assert database.cells(CHOL) == ["text only"]
    database.run("UPDATE measurement SET value_source_value = ' ' WHERE value_source_value > ''")
    assert database.cells(CHOL) == ["4181412"]


def test_an_entry_of_nobody_and_a_value_that_is_none_are_noted(database: Database) -> None:
    database.enters(1, "2021-01-01")
    database.enters(99, "2021-01-01")
    database.measured(1, "2019-01-01", 5)
    database.measured(1, "2020-01-01", None, concept=0)
    assert told(database, CHOL) == (
        [5],
        {},
        {
            "entries of the cohort whose subject is not in the table person": 1,
            "x: events without a value": 1,
        },
    )


def test_an_entry_without_a_day_is_refused(database: Database) -> None:
    """It would have every event before it."""
    database.enters(1, "soon")
    with pytest.raises(DataError, match="1 entries of the cohort have no day"):
        database.cells(CHOL)


def test_a_condition_that_nobody_of_the_cohort_has_is_a_doubt(database: Database) -> None:
    database.enters(1, "2021-01-01")
    diagnosed(database, 7)
    assert told(database, "condition:7")[1:] == ({}, {})
    assert told(database, "condition:70")[1] == {("nothing found", "x"): 0}
    assert told(database, ["condition:7", "drug:8"])[:2] == ([1], {("nothing found", "x"): 0})
    assert list(told(database, "condition:7,70")[2].values()) == [1]


def test_a_list_of_fields_is_one_column_of_what_happened(database: Database) -> None:
    for person in (1, 2):
        database.enters(person, "2021-01-01")
    diagnosed(database, 7)
    database.died(2, "2020-05-01")
    assert database.cells(["condition:7", "death"]) == [1, 1]
    for mixed in (["death", CHOL], ["person:age", CHOL]):
        with pytest.raises(UsageError, match="are of different kinds"):
            database.cells(mixed)


def test_vocabulary_and_cohorts_may_be_in_schemas_of_their_own(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite's schemas are the databases that a connection has attached."""
    others = {"vocab": "concept", "results": "cohort"}
    attach = [f"ATTACH '{tmp_path / name}.sqlite' AS {name}" for name in others]
    database.enters(1, "2021-01-01")
    database.measured(1, "2020-01-01", 5)
    with closing(sqlite3.connect(database.path)) as connection, connection:
        connection.executescript(";".join(attach))
        for name, table in others.items():
            connection.execute(f"CREATE TABLE {name}.{table} AS SELECT * FROM main.{table}")
            connection.execute(f"DROP TABLE main.{table}")

    def attached(address: str) -> sa.Engine:
        made = sa.create_engine(address)
        sa.event.listen(made, "connect", lambda raw, _: raw.executescript(";".join(attach)))
        return made

    monkeypatch.setattr("flo.clients.sources.omop_tables.engine", attached)
    monkeypatch.setenv("DB", f"sqlite:///{database.path}")
    usual: dict[str, Any] = {"kind": "omop", "address": "DB", "schema_name": "main"}
    mapping = StudyMapping.model_validate({"columns": {"x": {"field": CHOL}}, "cohort": 2})
    with pytest.raises(DataError, match="has no table cohort"):
        list(OmopPlace(**usual).open("person_id").read(mapping, SCHEMA))
    place = OmopPlace(**usual, vocabulary_schema="vocab", cohort_schema="results")
    (batch,) = place.open("person_id").read(mapping, SCHEMA)
    assert batch.columns["x"].to_pylist() == [5]
    assert CHOL in [offer.field for offer in place.open("person_id").fields()]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ("DROP TABLE measurement", "table measurement"),
        ("ALTER TABLE measurement DROP COLUMN operator_concept_id", "column measurement.operator"),
        ("DROP TABLE cohort", "table cohort"),
    ],
)
def test_what_the_database_lacks_is_named(database: Database, change: str, what: str) -> None:
    database.enters(1, "2021-01-01")
    database.run(change)
    with pytest.raises(DataError, match=f"has no {what}") as refused:
        database.cells(CHOL)
    assert "vocabulary_schema, cohort_schema" in str(refused.value.hint)
