"""Database with the OMOP common data model: a cohort, and features by concept.

There is one record for each entry of the mapping's ``cohort``, on its ``cohort_start_date``.
Fields:

    person:age  person:gender  death
    observation_period  until:DAY   the time to an event (``flo.clients.sources.follow_up``)
    condition:CONCEPT  drug:CONCEPT  procedure:CONCEPT      1 if it happened, else 0
    measurement:CONCEPT  observation:CONCEPT                its value: a number or a concept

Several concepts are separated by commas; concepts of several tables need a list of fields.
``201826+`` is a concept with its descendants in OMOP's table ``concept_ancestor``; without the plus
sign they are not included. A preliminary diagnosis does not count.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import sqlalchemy as sa

from flo.clients.sources.events import (
    EMPTY,
    NO_UNIT,
    UNFIT,
    EventColumn,
    Span,
    bound,
    in_batches,
    years_between,
)
from flo.clients.sources.follow_up import (
    EARLIER,
    PERIOD,
    earlier_of,
    ended,
    followed,
    last_day,
    mapped_time,
)
from flo.clients.sources.mapping import MappedColumn, StudyMapping
from flo.clients.sources.omop_tables import PERSON_FIELDS, TABLES, Asked, Database, Events, asked
from flo.clients.sources.source import BATCH, Batch, SourceField
from flo.clients.sources.steps import Steps
from flo.errors import DataError, UsageError
from flo.study.schema import Schema

_MOST_CONCEPTS = 2000  # shown per table
_IDS = ("person_id", "person_source_value")
_PRELIMINARY = 32899  # status of a preliminary diagnosis
_OPERATORS = {4171756: "<", 4171754: "<=", 4172704: ">", 4171755: ">="}
TEXT_ONLY = "text only"
_EQUALS = 4172703


class OmopDatabase:
    """``DataSource`` of one database, which reads the model's standard tables and never writes."""

    is_table, has_events = False, True
    name = Database.name

    def __init__(
        self,
        address: str,
        schema: str | None,
        id_column: str,
        *,
        vocabulary: str | None = None,
        cohorts: str | None = None,
    ) -> None:
        """``id_column``: a column of ``person``: person_id, or person_source_value.

        ``vocabulary``, ``cohorts``: the schemas of the concepts and of the cohorts, if they are not
        in ``schema`` with the other tables.
        """
        if id_column not in _IDS:
            raise UsageError(
                f"id_column {id_column!r} is not an id of OMOP's table person",
                hint=f"set it to {' or '.join(_IDS)}",
            )
        self._database, self._id = Database(address, schema, vocabulary, cohorts), id_column

    def fields(self) -> list[SourceField]:
        """Return fields of persons, and the 2000 most frequent concepts of each table."""
        found = [SourceField(field) for field in PERSON_FIELDS]
        found.append(SourceField(PERIOD, "time to an event: followed until its end", "days"))
        concept = self._database.table("concept", "concept_id", "concept_name", "concept_code")
        with self._database.reading() as connection:
            for kind, events in TABLES.items():
                table = self._database.table(events.table, events.concept)
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
                units = {} if events.happened else self._units(connection, events)
                for number, name in connection.execute(query):
                    text = units.get(number, "")
                    found.append(SourceField(f"{kind}:{number}", str(name or ""), text))
        return found

    def settings(self) -> dict[str, Any]:
        """Suggest the cohort if there is only one."""
        cohort = self._cohort()
        query = sa.select(cohort.c.cohort_definition_id).distinct()
        with self._database.reading() as connection:
            numbers = sorted(row[0] for row in connection.execute(query))
        return {"cohort": numbers[0]} if len(numbers) == 1 else {}

    def words(self, cells: list[str]) -> dict[str, str]:
        """Return concept names for the cells that are concept ids."""
        concept = self._database.table("concept", "concept_id", "concept_name")
        numbers = [int(cell) for cell in cells if cell.isdecimal()]
        query = sa.select(concept).where(concept.c.concept_id.in_(numbers))
        with self._database.reading() as connection:
            known = {str(number): str(name) for number, name in connection.execute(query)}
        return {cell: known.get(cell, cell) for cell in cells}

    def ids(self) -> Iterator[pa.Array]:
        """Yield one id for each row of ``person``: all persons, not only those of a cohort."""
        person = self._database.table("person", self._id)
        with self._database.reading() as connection:
            for rows in connection.execute(sa.select(person.c[self._id])).partitions(BATCH):
                yield pa.array([_text(row[0]) for row in rows], pa.string())

    def read(self, mapping: StudyMapping, schema: Schema) -> Iterator[Batch]:
        """Yield a record for each entry of the mapping's cohort.

        Raises:
            UsageError: the mapping names no cohort, or a field that does not exist.
            DataError: the database cannot be read, or entries of the cohort have no day.
        """
        if mapping.cohort is None:
            raise UsageError(
                "the mapping names no cohort",
                hint="write cohort = COHORT_DEFINITION_ID into its section of mapping.toml",
            )
        time = mapped_time(mapping, schema, PERIOD, _happens)
        own = {name: one for name, one in mapping.columns.items() if one is not time}
        if time is not None:
            own[EARLIER] = earlier_of(own[schema.label])
        wanted = {name: asked(mapped) for name, mapped in own.items()}
        columns = dict[str, EventColumn]()
        with self._database.reading() as connection:
            records, strangers = self._records(connection, mapping.cohort)
            days = [record.at for record in records]
            steps = Steps(schema, mapping, days, _happens, PERSON_FIELDS)
            for name, fields in wanted.items():
                column = steps.channels.get(name) or EventColumn.empty(
                    own[name], len(records), happened=fields[0].happened
                )
                for field in fields:
                    if field.kind == "death":
                        self._fill_deaths(connection, column, records)
                    elif (events := TABLES.get(field.kind)) is not None:
                        self._fill(connection, column, events, field, mapping.cohort, records)
                    else:
                        column.values = [getattr(record, field.kind) for record in records]
                columns[name] = column
            if time is not None and schema.times is not None:
                day = last_day(time)
                ends = [day] * len(records) if day else self._ends(connection, records)
                ends = ended(ends, self._deaths(connection, records))
                starts = [record.at for record in records]
                label, earlier = columns[schema.label], columns.pop(EARLIER)
                columns[schema.times.time] = followed(label, earlier, time, starts, ends)
        columns = steps.in_place_of_channels(columns)
        rule = "entries of the cohort whose subject is not in the table person"
        notes = {rule: strangers} if strangers else {}
        yield from in_batches([record.name for record in records], columns, schema, notes)

    def _records(self, connection: sa.Connection, number: int) -> tuple[list[_Record], int]:
        """Return the cohort's entries, and the number of entries without a person."""
        cohort = self._cohort()
        births = ("year_of_birth", "month_of_birth", "day_of_birth")
        names = ("person_id", self._id, "gender_concept_id", *births)
        person = self._database.table("person", *dict.fromkeys(names))
        query = (
            sa.select(
                cohort.c.subject_id, cohort.c.cohort_start_date, *(person.c[name] for name in names)
            )
            .select_from(cohort.outerjoin(person, cohort.c.subject_id == person.c.person_id))
            .where(cohort.c.cohort_definition_id == number)
            .order_by(cohort.c.subject_id, cohort.c.cohort_start_date)
        )
        found, strangers, undated = list[_Record](), 0, 0
        for subject, start, someone, name, gender, year, month, day in connection.execute(query):
            if someone is None:
                strangers += 1
            elif (at := _day(start)) is None:
                undated += 1
            else:
                born = _born(year, month or 1, day or 1)
                found.append(_Record(subject, at, _text(name) or "", _text(gender), born))
        if undated:
            raise DataError(
                f"{self.name}: {undated} entries of the cohort have no day",
                hint="every entry needs its cohort_start_date: generate the cohort again",
            )
        return found, strangers

    def _fill(
        self,
        connection: sa.Connection,
        column: EventColumn,
        events: Events,
        field: Asked,
        cohort_number: int,
        records: list[_Record],
    ) -> None:
        """Add the events of the cohort's persons to a column, in the order of their keys."""
        names = ("person_id", events.concept, events.day, events.moment, *events.more)
        table = self._database.table(events.table, *names, events.id)
        cohort = self._cohort()
        ours = sa.select(cohort.c.subject_id).where(cohort.c.cohort_definition_id == cohort_number)
        wanted: list[sa.ColumnElement[Any]] = [table.c[name] for name in names]
        joined: Any = table
        if not events.happened:
            unit = self._database.table("concept", "concept_id", "concept_code")
            joined = table.join(unit, table.c.unit_concept_id == unit.c.concept_id, isouter=True)
            wanted.append(unit.c.concept_code)
        query = (
            sa.select(*wanted)
            .select_from(joined)
            .where(
                self._database.among(table.c[events.concept], field.concepts),
                table.c.person_id.in_(ours),
            )
            .order_by(table.c[events.id])
        )
        places, seen = _places(records), set[int]()
        for person, concept, day, moment, *more in connection.execute(query):
            seen.add(concept)
            value, unit_code = (1, None) if events.happened else _valued(events, *more)
            if events.happened and _PRELIMINARY in more:
                column.counts[UNFIT] += 1
            elif value is None:
                column.counts[EMPTY] += 1
            else:
                for place in places.get(person, ()):
                    column.add(place, records[place].at, _span(day, moment), value, unit_code)
        # Any concept that was found may be a descendant of one with a plus.
        missed = {one.number for one in field.concepts if not (seen and one.descendants)} - seen
        column.sought(field.field, len(missed), len({one.number for one in field.concepts}))

    def _fill_deaths(
        self, connection: sa.Connection, column: EventColumn, records: list[_Record]
    ) -> None:
        death = self._database.table("death", "person_id", "death_date")
        places = _places(records)
        for person, day in connection.execute(sa.select(death.c.person_id, death.c.death_date)):
            for place in places.get(person, ()):
                column.add(place, records[place].at, _span(day))

    def _ends(
        self, connection: sa.Connection, records: list[_Record]
    ) -> list[datetime.date | None]:
        """Return the end of the observation period that holds each record's day; None without."""
        names = ("person_id", "observation_period_start_date", "observation_period_end_date")
        period, places = self._database.table(PERIOD, *names), _places(records)
        found: list[datetime.date | None] = [None] * len(records)
        for person, start, end in connection.execute(sa.select(*(period.c[one] for one in names))):
            first, last = _day(start), _day(end)
            for place in places.get(person, ()):
                if first and last and first <= records[place].at <= last:
                    found[place] = last
        return found

    def _deaths(
        self, connection: sa.Connection, records: list[_Record]
    ) -> list[datetime.date | None]:
        """Return the day of each record's patient's death; None without."""
        told = EventColumn.empty(
            MappedColumn(field="death", when="any"), len(records), happened=True
        )
        self._fill_deaths(connection, told, records)
        return [None if day is None else day[0] for day in told.days]

    def _units(self, connection: sa.Connection, events: Events) -> dict[int, str]:
        """Return the most frequent unit of each concept's values."""
        table = self._database.table(events.table, events.concept, "unit_concept_id")
        unit = self._database.table("concept", "concept_id", "concept_code")
        count = sa.func.count()
        query = (
            sa.select(table.c[events.concept], unit.c.concept_code)
            .select_from(table.join(unit, table.c.unit_concept_id == unit.c.concept_id))
            .where(table.c.unit_concept_id != 0)
            .group_by(table.c[events.concept], unit.c.concept_code)
            .order_by(count)
        )
        return {number: str(code) for number, code in connection.execute(query)}

    def _cohort(self) -> sa.TableClause:
        names = ("cohort_definition_id", "subject_id", "cohort_start_date")
        return self._database.table("cohort", *names)


@dataclass(frozen=True)
class _Record:
    """Entry of the cohort. ``gender``: a concept."""

    person_id: int
    at: datetime.date
    name: str
    gender: str | None
    born: datetime.date | None

    @property
    def age(self) -> int | None:
        return None if self.born is None else years_between(self.born, self.at)


def _happens(mapped: MappedColumn) -> bool:
    return asked(mapped)[0].happened


def _places(records: list[_Record]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for place, record in enumerate(records):
        found.setdefault(record.person_id, []).append(place)
    return found


def _valued(
    events: Events, number: Any, concept: int | None, unit: int | None, *own: Any
) -> tuple[Any, str]:
    """Return a value and its unit.

    ``own``: for a measurement its operator and source text, for an observation its text; then the
    unit's code.

    Concept 0 is OMOP's "no matching concept". A unit that is not in the vocabulary is given by its
    concept's number. A measurement whose only value is its source text is given as ``text only``,
    which no study accepts: an older value must not replace it.
    """
    code, written = own[-1], own[-2]
    unit_code = (code or f"concept {unit}") if unit else NO_UNIT
    words = written or None
    if events.prefix == "measurement":
        if number is not None and own[0] and own[0] != _EQUALS:
            number = bound(_OPERATORS.get(own[0], "?"), number)
        words = TEXT_ONLY if str(written or "").strip() else None
    value = next(
        (v for v in (number, str(concept) if concept else None, words) if v is not None), None
    )
    return value, unit_code


def _span(day: Any, moment: Any = None) -> Span | None:
    found = _day(day)
    if found is None:
        return None
    if isinstance(moment, str):  # SQLite stores times as text
        with suppress(ValueError):
            moment = datetime.datetime.fromisoformat(moment)
    if not isinstance(moment, datetime.datetime):
        return Span(found, found)
    if moment.tzinfo:
        moment = moment.astimezone(datetime.UTC).replace(tzinfo=None)
    return Span(found, found, moment, moment)


def _day(value: Any) -> datetime.date | None:
    if isinstance(value, datetime.datetime):
        return value.date()
    if isinstance(value, datetime.date) or value is None:
        return value
    with suppress(ValueError):
        return datetime.date.fromisoformat(str(value)[:10])  # SQLite stores dates as text
    return None


def _born(year: Any, month: Any, day: Any) -> datetime.date | None:
    with suppress(ValueError, TypeError, OverflowError):
        return datetime.date(year, month, day)
    return None


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
