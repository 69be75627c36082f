"""An OMOP database is read by cohort and concept; the last value before a record's day counts."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from flo import sample_sources as samples
from flo.clients.mapping import StudyMapping
from flo.clients.sources.omop import OmopDatabase
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
    ) -> None:
        self.run(
            "INSERT INTO measurement (measurement_concept_id, unit_concept_id, person_id, "
            "measurement_date, value_as_number, value_as_concept_id) "
            "VALUES (3027114, 8840, ?, ?, ?, ?)",
            *(person, day, number, concept),
        )

    def enters(self, person: int, day: str, cohort: int = 2) -> None:
        self.run("INSERT INTO cohort VALUES (?, ?, ?, ?)", cohort, person, day, day)

    def died(self, person: int, day: str) -> None:
        self.run("INSERT INTO death VALUES (?, ?)", person, day)

    @property
    def source(self) -> OmopDatabase:
        return OmopDatabase(f"sqlite:///{self.path}", None, "person_source_value")

    def cells(self, field: str, cohort: int = 2, **mapped: Any) -> list[Any]:
        return [cell for batch in self.read(field, cohort, **mapped) for cell in batch]

    def read(self, field: str, cohort: int, **mapped: Any) -> Iterator[list[Any]]:
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
    with pytest.raises(DataError, match="cannot be read"):
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
    with pytest.raises(UsageError, match="no field of an OMOP database"):
        database.cells(field)


def test_a_mapping_without_a_cohort_is_refused(database: Database) -> None:
    mapping = StudyMapping.model_validate({"columns": {"x": {"field": CHOL}}})
    with pytest.raises(UsageError, match="names no cohort"):
        list(database.source.read(mapping, SCHEMA))


def test_the_only_cohort_is_suggested_and_fields_have_names_and_units(database: Database) -> None:
    database.measured(1, "2020-01-01", 5)
    assert database.source.settings() == {"cohort": samples.COHORT}
    (chol,) = [offer for offer in database.source.offers() if offer.field == CHOL]
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
    with pytest.raises(UsageError, match="no id of OMOP's table person"):
        OmopDatabase(f"sqlite:///{database.path}", None, "patient_id")


def test_a_database_with_other_tables_is_refused_without_its_address(tmp_path: Path) -> None:
    path = tmp_path / "secret-name.sqlite"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE x (y)")
    with pytest.raises(DataError, match="the OMOP database cannot be read") as refused:
        OmopDatabase(f"sqlite:///{path}", None, "person_id").offers()
    assert "secret-name" not in f"{refused.value}{refused.value.hint}"
