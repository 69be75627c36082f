"""Tables of the OMOP common data model that are read, their schemas, and a field's meaning.

Tables and columns: https://ohdsi.github.io/CommonDataModel/cdm54.html; version 5.3 has the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.exc import NoSuchTableError

from flo.clients.sources.database import engine, reading
from flo.clients.sources.mapping import MappedColumn
from flo.errors import DataError, UsageError

PERSON_FIELDS = ("person:age", "person:gender", "death")
_VOCABULARY = ("concept", "concept_ancestor")
_CONCEPT = re.compile(r"(\d{1,18})(\+?)", re.ASCII)


@dataclass(frozen=True)
class Events:
    """Table of events, and the prefixes of its columns. ``happened``: its rows have no values."""

    table: str
    prefix: str
    start: str
    happened: bool = True

    @property
    def id(self) -> str:
        """Column of its own key."""
        return f"{self.table}_id"

    @property
    def concept(self) -> str:
        """Column of the concept."""
        return f"{self.prefix}_concept_id"

    @property
    def day(self) -> str:
        """Column of the local day, which every event has."""
        return f"{self.start}_date"

    @property
    def moment(self) -> str:
        """Column of the time on that day, which may be null."""
        return f"{self.start}_datetime"

    @property
    def more(self) -> tuple[str, ...]:
        """Other columns to read: the parts of a value, or whether a diagnosis is final."""
        if self.happened:
            return ("condition_status_concept_id",) if self.prefix == "condition" else ()
        own = {
            "measurement": ("operator_concept_id", "value_source_value"),
            "observation": ("value_as_string",),
        }[self.prefix]
        return ("value_as_number", "value_as_concept_id", "unit_concept_id", *own)


TABLES = {
    "condition": Events("condition_occurrence", "condition", "condition_start"),
    "drug": Events("drug_exposure", "drug", "drug_exposure_start"),
    "procedure": Events("procedure_occurrence", "procedure", "procedure"),
    "measurement": Events("measurement", "measurement", "measurement", happened=False),
    "observation": Events("observation", "observation", "observation", happened=False),
}


@dataclass(frozen=True)
class Concept:
    """Concept that a mapping names. ``descendants``: whether those below it are included."""

    number: int
    descendants: bool


@dataclass(frozen=True)
class Asked:
    """Field with its ``kind`` (age, gender, death, or one of ``TABLES``) and its concepts."""

    field: str
    kind: str
    concepts: tuple[Concept, ...] = ()

    @property
    def happened(self) -> bool:
        """Whether the field is 1 or 0, not a value."""
        return self.kind == "death" or (self.kind in TABLES and TABLES[self.kind].happened)


def asked(mapped: MappedColumn) -> list[Asked]:
    """Parse a column's fields. Raises UsageError."""
    found = [_parsed(field) for field in mapped.fields]
    if len(found) > 1 and (
        len({one.happened for one in found}) > 1 or {"age", "gender"} & {one.kind for one in found}
    ):
        raise UsageError(
            f"the fields of one column are of different kinds: {list(mapped.fields)}",
            hint="a column is 1 or 0 (death, condition, drug, procedure), or a value (measurement, "
            "observation); age and gender cannot be in a list",
        )
    return found


class Database:
    """OMOP database; its vocabulary and its cohorts may be in separate schemas."""

    name = "the OMOP database"

    def __init__(
        self, address: str, schema: str | None, vocabulary: str | None, cohorts: str | None
    ) -> None:
        self._engine, self._schema = engine(address), schema
        self._others = dict.fromkeys(_VOCABULARY, vocabulary) | {"cohort": cohorts}
        self._used: dict[str, set[str]] = {}

    def table(self, name: str, *columns: str) -> sa.TableClause:
        """Return a table with the columns that are needed."""
        self._used.setdefault(name, set()).update(columns)
        return sa.table(name, *(sa.column(c) for c in columns), schema=self._schema_of(name))

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """Open a connection like ``database.reading``; errors name missing tables and columns."""
        try:
            with reading(self._engine, self.name) as connection:
                yield connection
        except DataError:
            lacking: list[str] = []
            with suppress(DataError):
                lacking = self._lacking()
            if not lacking:
                raise
            raise DataError(
                f"{self.name} has no {', '.join(lacking)} that this user may see",
                hint="set schema_name (vocabulary_schema, cohort_schema) under `source` in "
                "site.toml; the tables and columns are those of OMOP CDM 5.3 and 5.4",
            ) from None

    def among(
        self, column: sa.ColumnElement[int], concepts: tuple[Concept, ...]
    ) -> sa.ColumnElement[bool]:
        """Return the condition that a column is one of the concepts, or an included descendant."""
        named = column.in_([concept.number for concept in concepts])
        ancestors = [concept.number for concept in concepts if concept.descendants]
        if not ancestors:
            return named
        table = self.table("concept_ancestor", "ancestor_concept_id", "descendant_concept_id")
        below = sa.select(table.c.descendant_concept_id)
        return sa.or_(named, column.in_(below.where(table.c.ancestor_concept_id.in_(ancestors))))

    def _schema_of(self, table: str) -> str | None:
        return self._others.get(table) or self._schema

    def _lacking(self) -> list[str]:
        """Return tables and columns that were requested and do not exist."""
        found = []
        with reading(self._engine, self.name) as connection:
            look = sa.inspect(connection)
            for table, columns in self._used.items():
                try:
                    known = {
                        str(c["name"]).lower()
                        for c in look.get_columns(table, self._schema_of(table))
                    }
                except NoSuchTableError:
                    found.append(f"table {table}")
                    continue
                found += [f"column {table}.{column}" for column in sorted(columns - known)]
        return found


def _parsed(field: str) -> Asked:
    if field in PERSON_FIELDS:
        return Asked(field, field.removeprefix("person:"))
    kind, _, concepts = field.partition(":")
    named = [_CONCEPT.fullmatch(one) for one in concepts.split(",")]
    if kind not in TABLES or not all(named):
        raise UsageError(
            f"{field!r} is not a field of an OMOP database",
            hint="person:age, person:gender, death, or condition, drug, procedure, measurement or "
            "observation with concepts, such as measurement:3027114 or condition:201826+; for "
            "several kinds, use a list of fields",
        )
    return Asked(field, kind, tuple(Concept(int(one[1]), bool(one[2])) for one in named if one))
