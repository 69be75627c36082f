"""A database with the OMOP common data model: a cohort, and features by concept.

One record for each entry of the mapping's ``cohort``, on its ``cohort_start_date``. Fields:

    person:age  person:gender  death
    condition:CONCEPT  drug:CONCEPT  procedure:CONCEPT      1 if it happened, else 0
    measurement:CONCEPT  observation:CONCEPT                its value: a number or a concept

Several concepts are separated by commas. ``201826+`` is a concept with its descendants, as OMOP's
table ``concept_ancestor`` has them; without the sign it does not bring them along. Tables and
columns: https://ohdsi.github.io/CommonDataModel/cdm54.html.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import sqlalchemy as sa

from flo.clients.mapping import StudyMapping
from flo.clients.sources.database import engine, reading
from flo.clients.sources.events import NO_UNIT, Column, in_batches, years_between
from flo.clients.sources.source import BATCH, Batch, Offer
from flo.errors import UsageError
from flo.schema import Schema

_MOST_CONCEPTS = 2000  # shown, of each table


@dataclass(frozen=True)
class _Events:
    """A table of events: its name, and the prefix of its columns."""

    table: str
    prefix: str
    day: str
    values: bool = False

    @property
    def concept(self) -> str:
        return f"{self.prefix}_concept_id"


_TABLES = {
    "condition": _Events("condition_occurrence", "condition", "condition_start_date"),
    "drug": _Events("drug_exposure", "drug", "drug_exposure_start_date"),
    "procedure": _Events("procedure_occurrence", "procedure", "procedure_date"),
    "measurement": _Events("measurement", "measurement", "measurement_date", values=True),
    "observation": _Events("observation", "observation", "observation_date", values=True),
}
_IDS = ("person_id", "person_source_value")
_PERSON_FIELDS = ("person:age", "person:gender", "death")
_CONCEPT = re.compile(r"(\d{1,18})(\+?)", re.ASCII)


class OmopDatabase:
    """A ``Source`` of one database, read through its tables' standard names and never written."""

    is_table = False
    name = "the OMOP database"

    def __init__(self, address: str, schema: str | None, id_column: str) -> None:
        """``id_column``: a column of ``person``: person_id, or person_source_value."""
        if id_column not in _IDS:
            raise UsageError(
                f"id_column {id_column!r} is no id of OMOP's table person",
                hint=f"set it to {' or '.join(_IDS)}",
            )
        self._engine, self._schema, self._id = engine(address), schema, id_column

    def offers(self) -> list[Offer]:
        """Fields of persons, and of each table the 2000 most frequent concepts."""
        found = [Offer(field) for field in _PERSON_FIELDS]
        concept = self._table("concept", "concept_id", "concept_name", "concept_code")
        with reading(self._engine, self.name) as connection:
            for kind, events in _TABLES.items():
                table = self._table(events.table, events.concept, "unit_concept_id")
                count = sa.func.count()
                query = (
                    sa.select(table.c[events.concept], sa.func.max(concept.c.concept_name))
                    .select_from(
                        table.join(
                            concept, table.c[events.concept] == concept.c.concept_id, isouter=True
                        )
                    )
                    .group_by(table.c[events.concept])
                    .order_by(count.desc())
                    .limit(_MOST_CONCEPTS)
                )
                units = self._units(connection, events) if events.values else {}
                for number, name in connection.execute(query):
                    text = units.get(number, "")
                    found.append(Offer(f"{kind}:{number}", str(name or ""), text))
        return found

    def settings(self) -> dict[str, Any]:
        """The only cohort there is, if it is."""
        cohort = self._cohort()
        query = sa.select(cohort.c.cohort_definition_id).distinct()
        with reading(self._engine, self.name) as connection:
            numbers = sorted(row[0] for row in connection.execute(query))
        return {"cohort": numbers[0]} if len(numbers) == 1 else {}

    def words(self, cells: list[str]) -> dict[str, str]:
        """The names of concepts, of those cells that are concept ids."""
        concept = self._table("concept", "concept_id", "concept_name")
        numbers = [int(cell) for cell in cells if cell.isdecimal()]
        query = sa.select(concept).where(concept.c.concept_id.in_(numbers))
        with reading(self._engine, self.name) as connection:
            known = {str(number): str(name) for number, name in connection.execute(query)}
        return {cell: known.get(cell, cell) for cell in cells}

    def ids(self) -> Iterator[pa.Array]:
        """One id for each row of ``person``, of everybody and not of a cohort only."""
        person = self._table("person", self._id)
        with reading(self._engine, self.name) as connection:
            for rows in connection.execute(sa.select(person.c[self._id])).partitions(BATCH):
                yield pa.array([_text(row[0]) for row in rows], pa.string())

    def read(self, mapping: StudyMapping, schema: Schema) -> Iterator[Batch]:
        """A record for each entry of the mapping's cohort. Raises UsageError if it names none."""
        if mapping.cohort is None:
            raise UsageError(
                "the mapping names no cohort",
                hint="write cohort = COHORT_DEFINITION_ID into its section of mapping.toml",
            )
        with reading(self._engine, self.name) as connection:
            records = self._records(connection, mapping.cohort)
            columns = {}
            for name, mapped in mapping.columns.items():
                kind, concepts = _parsed(mapped.field)
                events = _TABLES.get(kind)
                column = Column.empty(
                    mapped,
                    len(records),
                    happened=kind == "death" or not (events is None or events.values),
                )
                if events is not None:
                    self._fill(connection, column, events, concepts, mapping.cohort, records)
                elif kind == "death":
                    self._fill_deaths(connection, column, records)
                else:
                    column.values = [getattr(record, kind) for record in records]
                columns[name] = column
        yield from in_batches([record.name for record in records], columns, schema)

    def _records(self, connection: sa.Connection, number: int) -> list[_Record]:
        cohort = self._cohort()
        person = self._table(
            "person",
            *dict.fromkeys(
                ("person_id", self._id, "gender_concept_id", "year_of_birth", "month_of_birth")
            ),
            "day_of_birth",
        )
        query = (
            sa.select(
                cohort.c.subject_id,
                cohort.c.cohort_start_date,
                person.c[self._id],
                person.c.gender_concept_id,
                person.c.year_of_birth,
                person.c.month_of_birth,
                person.c.day_of_birth,
            )
            .select_from(cohort.join(person, cohort.c.subject_id == person.c.person_id))
            .where(cohort.c.cohort_definition_id == number)
            .order_by(cohort.c.subject_id, cohort.c.cohort_start_date)
        )
        return [
            _Record(
                person_id=row[0],
                at=_day(row[1]) or datetime.date.max,
                name=_text(row[2]) or "",
                gender=_text(row[3]),
                born=_born(row[4], row[5] or 1, row[6] or 1),
            )
            for row in connection.execute(query)
        ]

    def _fill(
        self,
        connection: sa.Connection,
        column: Column,
        events: _Events,
        concepts: list[_Concept],
        cohort_number: int,
        records: list[_Record],
    ) -> None:
        values = ("value_as_number", "value_as_concept_id", "unit_concept_id")
        text = ("value_as_string",) if events.table == "observation" else ()
        table = self._table(
            events.table,
            *("person_id", events.concept, events.day),
            *((*values, *text) if events.values else ()),
        )
        cohort = self._cohort()
        ours = sa.select(cohort.c.subject_id).where(cohort.c.cohort_definition_id == cohort_number)
        wanted = [table.c.person_id, table.c[events.day]]
        joined: Any = table
        if events.values:
            unit = self._table("concept", "concept_id", "concept_code")
            joined = table.join(unit, table.c.unit_concept_id == unit.c.concept_id, isouter=True)
            wanted += [unit.c.concept_code, *(table.c[name] for name in (values[:2] + text))]
        query = (
            sa.select(*wanted)
            .select_from(joined)
            .where(self._among(table.c[events.concept], concepts), table.c.person_id.in_(ours))
            .order_by(*wanted)
        )
        places = _places(records)
        for row in connection.execute(query):
            value: Any = 1
            unit_code = None
            if events.values:
                unit_code, number, concept, *texts = row[2:]
                unit_code = unit_code or NO_UNIT
                value = next(
                    (v for v in (number, _concept(concept), *texts) if v is not None), None
                )
                if value is None:
                    continue
            for place in places.get(row[0], ()):
                column.add(place, records[place].at, _day(row[1]), value, unit_code)

    def _fill_deaths(
        self, connection: sa.Connection, column: Column, records: list[_Record]
    ) -> None:
        death = self._table("death", "person_id", "death_date")
        places = _places(records)
        for person, day in connection.execute(sa.select(death.c.person_id, death.c.death_date)):
            for place in places.get(person, ()):
                column.add(place, records[place].at, _day(day))

    def _among(
        self, column: sa.ColumnElement[int], concepts: list[_Concept]
    ) -> sa.ColumnElement[bool]:
        """Whether it is one of the concepts, or a descendant of one that brings them along."""
        named = column.in_([concept.number for concept in concepts])
        ancestors = [concept.number for concept in concepts if concept.descendants]
        if not ancestors:
            return named
        table = self._table("concept_ancestor", "ancestor_concept_id", "descendant_concept_id")
        below = sa.select(table.c.descendant_concept_id)
        return sa.or_(named, column.in_(below.where(table.c.ancestor_concept_id.in_(ancestors))))

    def _units(self, connection: sa.Connection, events: _Events) -> dict[int, str]:
        """The unit that a concept's values have most often."""
        table = self._table(events.table, events.concept, "unit_concept_id")
        unit = self._table("concept", "concept_id", "concept_code")
        count = sa.func.count()
        query = (
            sa.select(table.c[events.concept], unit.c.concept_code)
            .select_from(table.join(unit, table.c.unit_concept_id == unit.c.concept_id))
            .group_by(table.c[events.concept], unit.c.concept_code)
            .order_by(count)
        )
        return {number: str(code) for number, code in connection.execute(query)}

    def _cohort(self) -> sa.TableClause:
        return self._table("cohort", "cohort_definition_id", "subject_id", "cohort_start_date")

    def _table(self, name: str, *columns: str) -> sa.TableClause:
        return sa.table(name, *(sa.column(column) for column in columns), schema=self._schema)


@dataclass(frozen=True)
class _Record:
    """An entry of the cohort. ``gender``: a concept."""

    person_id: int
    at: datetime.date
    name: str
    gender: str | None
    born: datetime.date | None

    @property
    def age(self) -> int | None:
        return None if self.born is None else years_between(self.born, self.at)


@dataclass(frozen=True)
class _Concept:
    """A concept that a mapping names; ``descendants``: and all below it."""

    number: int
    descendants: bool


def _places(records: list[_Record]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for place, record in enumerate(records):
        found.setdefault(record.person_id, []).append(place)
    return found


def _parsed(field: str) -> tuple[str, list[_Concept]]:
    """What a field is, and of which concepts. Raises UsageError."""
    if field == "death":
        return "death", []
    if field in _PERSON_FIELDS:
        return field.removeprefix("person:"), []
    kind, _, concepts = field.partition(":")
    named = [_CONCEPT.fullmatch(one) for one in concepts.split(",")]
    if kind not in _TABLES or not all(named):
        raise UsageError(
            f"{field!r} is no field of an OMOP database",
            hint="person:age, person:gender, death, or condition, drug, procedure, measurement or "
            "observation with concepts, such as measurement:3027114 or condition:201826+",
        )
    return kind, [_Concept(int(one[1]), bool(one[2])) for one in named if one]


def _concept(number: int | None) -> str | None:
    """0 is OMOP's "no matching concept"."""
    return str(number) if number else None


def _day(value: Any) -> datetime.date | None:
    if isinstance(value, datetime.datetime):
        return value.date()
    if isinstance(value, datetime.date) or value is None:
        return value
    with suppress(ValueError):
        return datetime.date.fromisoformat(str(value)[:10])  # SQLite has no dates
    return None


def _born(year: Any, month: Any, day: Any) -> datetime.date | None:
    with suppress(ValueError, TypeError, OverflowError):
        return datetime.date(year, month, day)
    return None


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
