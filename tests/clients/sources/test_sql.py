"""A database is only read; its address, which holds a password, is never told."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from flo.clients.sources.config import SqlPlace
from flo.clients.sources.database import engine
from flo.clients.sources.mapping import by_name
from flo.clients.sources.sql import SqlTable
from flo.documents.document import parse
from flo.errors import DataError, FloError, UsageError
from tests.builders import small_study

SCHEMA = small_study().data


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "db.sqlite"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE patients (id TEXT, age REAL, ward TEXT)")
        connection.execute("CREATE VIEW adults AS SELECT * FROM patients WHERE age >= 18")
        rows = [("b", 40, "x"), ("a", 17.5, None), ("c", None, "z")]
        connection.executemany("INSERT INTO patients VALUES (?, ?, ?)", rows)
    return path


def table(file: Path, name: str = "patients") -> SqlTable:
    return SqlTable(f"sqlite:///{file}", name, None, "id")


def test_rows_come_in_the_order_of_the_ids(file: Path) -> None:
    (batch,) = table(file).read(by_name(["age", "ward"]), SCHEMA)
    assert batch.ids.to_pylist() == ["a", "b", "c"]
    assert batch.columns["age"].to_pylist() == [17.5, 40.0, None]
    assert batch.columns["ward"].to_pylist() == [None, "x", "z"]


def test_a_view_is_as_good_as_a_table(file: Path) -> None:
    (batch,) = table(file, "adults").read(by_name(["age"]), SCHEMA)
    assert batch.ids.to_pylist() == ["b"]


def test_a_table_that_is_not_there_is_refused(file: Path) -> None:
    with pytest.raises(DataError, match="no table or view 'nurses'"):
        table(file, "nurses").fields()


def test_nothing_is_made_or_written(file: Path, tmp_path: Path) -> None:
    before = file.read_bytes()
    list(table(file).read(by_name(["age"]), SCHEMA))
    assert file.read_bytes() == before
    with pytest.raises(DataError, match="does not exist"):
        SqlTable(f"sqlite:///{tmp_path}/none.sqlite", "patients", None, "id")
    assert not (tmp_path / "none.sqlite").exists()


@pytest.mark.parametrize(
    "address",
    [
        "postgresql+psycopg://reader:hunter2@127.0.0.1:1/db",
        "nonsense://reader:hunter2@host/db",
        "postgresql+psycopg://reader:p@ss:hunter2@db/cdm",
        "postgresql://db:hunter2/cdm",
        "hunter2",
        "",
    ],
)
def test_an_address_that_leads_nowhere_is_never_shown(address: str) -> None:
    with pytest.raises(FloError) as refused:
        SqlTable(address, "patients", None, "id").fields()
    assert "hunter2" not in f"{refused.value}{refused.value.hint}"


def test_the_address_stands_in_the_environment(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = SqlPlace(kind="sql", address="HOSPITAL_DB", table="patients")
    monkeypatch.delenv("HOSPITAL_DB", raising=False)
    with pytest.raises(UsageError, match="HOSPITAL_DB is not set"):
        place.open("id")
    monkeypatch.setitem(os.environ, "HOSPITAL_DB", f"sqlite:///{file}")
    assert [offer.field for offer in place.open("id").fields()] == ["id", "age", "ward"]


def test_a_statement_that_would_write_is_refused_by_the_connection(file: Path) -> None:
    from flo.clients.sources.database import reading

    with (
        pytest.raises(DataError, match="cannot be read"),
        reading(engine(f"sqlite:///{file}"), "x") as c,
    ):
        c.exec_driver_sql("DELETE FROM patients")


def test_a_materialised_view_is_found(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite has none, so a view stands for one, as PostgreSQL lists it."""
    look = sa.engine.reflection.Inspector
    monkeypatch.setattr(look, "get_view_names", lambda *_: [])
    with pytest.raises(DataError, match="no table or view 'adults'"):
        table(file, "adults").fields()
    monkeypatch.setattr(look, "get_materialized_view_names", lambda *_: ["adults"])
    assert [offer.field for offer in table(file, "adults").fields()] == ["id", "age", "ward"]


def test_a_name_with_other_letters_is_refused_with_a_way_out() -> None:
    document = {"kind": "sql", "address": "DB", "table": "Patienten-Liste"}
    with pytest.raises(UsageError, match=r"table: a name has at most 63 letters .* create a view"):
        parse(SqlPlace, document, "site.toml")
