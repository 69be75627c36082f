"""A table of patients with a table of dated events beside it: a row for each event.

The events' table has the columns patient, day and code, and may have value and unit. A study's
sequence is mapped to ``value:CODE``, the last value of a step, or to ``event:CODE``, which is 1 if
an event of this code happened in the step and else 0. Days are written as in FHIR: 2026-03-05, with
a time behind or not, or less exactly 2026-03 and 2026.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from flo.clients.sources.cells import as_ids, as_text
from flo.clients.sources.events import EMPTY, LOST, NO_UNIT, EventColumn, Span, as_array, looked_at
from flo.clients.sources.fhir_days import span
from flo.clients.sources.files import TableSource
from flo.clients.sources.mapping import MappedColumn, StudyMapping, channels, without
from flo.clients.sources.source import Batch, SourceField
from flo.clients.sources.steps import ChannelEvents, Steps
from flo.errors import DataError, UsageError
from flo.privacy.patients.split import normalise
from flo.study.columns import CategoryColumn, NumberColumn
from flo.study.schema import Schema

_KINDS = ("value", "event")
_MOST_CODES = 2000
_OTHERS = "events of patients who are not in the patients' table"
_DATE = re.compile(r"\d{4}(-\d{2}(-\d{2}([T ]\d{2}:.+)?)?)?")
_DAY = ""  # the name of a column that no study has: each record's day
_HINT = "value:CODE for the last value of a step, event:CODE for whether it happened"


@dataclass(frozen=True)
class EventColumns:
    """Names of the columns: of each event, and ``record_day`` in the table of patients."""

    patient: str
    day: str
    code: str
    value: str | None
    unit: str | None
    record_day: str | None


class TableWithEvents:
    """``DataSource`` of two tables, of which ``events`` has its own column of patient ids."""

    is_table = has_events = True

    def __init__(self, patients: TableSource, events: TableSource, columns: EventColumns) -> None:
        self.name = patients.name
        self._patients, self._events, self._columns = patients, events, columns

    def fields(self) -> list[SourceField]:
        """Return the columns of the patients' table, and the most frequent codes of events."""
        codes = Counter[str]()
        for batch in self._read_events():
            for one in pc.value_counts(as_text(batch.columns["code"]).drop_null()):
                codes[one["values"].as_py()] += one["counts"].as_py()
        most = [code for code, _ in codes.most_common(_MOST_CODES)]
        kinds = _KINDS if "value" in self._names() else _KINDS[1:]
        offered = [f"{kind}:{code}" for code in most for kind in kinds if "," not in code]
        own = [
            replace(one, of_events=one.field == self._columns.record_day)
            for one in self._patients.fields()
        ]
        return own + [SourceField(one, of_events=True) for one in offered]

    def settings(self) -> dict[str, Any]:
        """Leave the day of every record open, unless a column of the table has it."""
        return {} if self._columns.record_day else {"as_of": None}

    def words(self, cells: list[str]) -> dict[str, str]:
        """Return each cell as its own meaning: a table has no codebook."""
        return self._patients.words(cells)

    def ids(self) -> Iterator[pa.Array]:
        """Yield the ids of the patients' table."""
        yield from self._patients.ids()

    def read(self, mapping: StudyMapping, schema: Schema) -> Iterator[Batch]:
        """Yield the records of the patients' table, with the steps of their events.

        Raises:
            UsageError: the mapping names no events, or no day for the records.
            DataError: a table cannot be read, or a record has no day.
        """
        steps_mapping = channels(mapping, schema)
        if not steps_mapping:
            yield from self._patients.read(mapping, schema)
            return
        wanted = {name: _asked(name, mapped) for name, mapped in steps_mapping.items()}
        self._refuse_what_it_cannot_say(steps_mapping, schema)
        batches, days = self._records(without(mapping, steps_mapping), schema, mapping.as_of)
        ids = [name for batch in batches for name in as_ids(batch.ids).to_pylist()]
        steps = Steps(schema, mapping, days, _happens)
        names = [normalise(name) if name else "" for name in ids]
        asked = self._fill(steps.channels, wanted, names, days)
        columns = steps.columns()
        wrong, doubts, notes = looked_at(columns, schema)
        begin = 0
        for batch in batches:
            part = slice(begin, begin := begin + len(batch.ids))
            cells = {name: as_array(one.values[part]) for name, one in columns.items()}
            yield replace(
                batch,
                columns={**batch.columns, **cells},
                invalid={**batch.invalid, **{key: mask[part] for key, mask in wrong.items()}},
                to_accept={**batch.to_accept, **doubts, **asked},
                notes={**batch.notes, **notes},
            )

    def _records(
        self, mapping: StudyMapping, schema: Schema, as_of: date | None
    ) -> tuple[list[Batch], list[date]]:
        """Return the patients' table, and each record's day."""
        field = self._columns.record_day
        if field is None and as_of is None:
            raise UsageError(
                f"{self.name}: no day is given for the records, and events count up to it",
                hint="record_day under events in site.toml names a column with it; or write "
                'as_of = "YYYY-MM-DD" into the study\'s section of mapping.toml',
            )
        if field is not None and field not in {one.field for one in self._patients.fields()}:
            raise DataError(
                f"{self.name} has no column {field!r}, which record_day in site.toml names",
                hint="name the column with each record's day",
            )
        if as_of is not None:
            found = list(self._patients.read(mapping, schema))
            return found, [as_of] * sum(len(batch.ids) for batch in found)
        days = MappedColumn.model_construct(field=field)
        asked = mapping.model_copy(update={"columns": {**mapping.columns, _DAY: days}})
        batches, spans = [], []
        for batch in self._patients.read(asked, schema):
            cells = dict(batch.columns)
            spans += [_span(cell) for cell in as_text(cells.pop(_DAY)).to_pylist()]
            batches.append(replace(batch, columns=cells))
        exact = [one.last for one in spans if one is not None and one.first == one.last]
        if len(exact) < len(spans):
            raise DataError(
                f"{self.name}: {len(spans) - len(exact)} records have no exact day in the column "
                f"{field!r}",
                hint="write it as 2026-03-05; events count up to this day",
            )
        return batches, exact

    def _fill(
        self,
        columns: dict[str, ChannelEvents],
        wanted: dict[str, dict[str, set[str]]],
        ids: list[str],
        days: list[date],
    ) -> dict[tuple[str, str, str], int]:
        """Add the events of all patients, as the table yields them. Return doubts of its cells."""
        records: dict[str, list[int]] = {}
        for record, name in enumerate(ids):
            if name:  # an event without a patient belongs to no record
                records.setdefault(name, []).append(record)
        of_code: dict[str, list[ChannelEvents]] = {}
        for name, fields in wanted.items():
            for code in set[str]().union(*fields.values()):
                of_code.setdefault(code, []).append(columns[name])
        seen, doubts = set[str](), dict[tuple[str, str, str], int]()
        for batch in self._read_events():
            doubts |= batch.to_accept
            codes = as_text(batch.columns["code"])
            chosen = pc.fill_null(pc.is_in(codes, value_set=pa.array(sorted(of_code))), False)
            rows = {n: cells.filter(chosen) for n, cells in batch.columns.items() if n != "value"}
            cells = batch.columns.get("value", pa.nulls(len(codes))).filter(chosen)
            units = rows.get("unit", pa.nulls(len(cells)))
            for patient, code, day, value, known, unit in zip(
                as_ids(batch.ids.filter(chosen)).to_pylist(),
                codes.filter(chosen).to_pylist(),
                as_text(rows["day"]).to_pylist(),
                cells.to_pylist(),
                as_text(cells).to_pylist(),
                as_text(units).to_pylist(),
                strict=True,
            ):
                seen.add(code)
                when, own = _span(day), records.get(normalise(patient)) if patient else None
                for column in of_code[code]:
                    if not own:
                        column.events += 1
                        column.counts[_OTHERS] += 1
                    elif column.happened:
                        _add(column, own, days, when)
                    elif known is None:
                        column.counts[EMPTY] += 1
                    else:
                        said = (unit or NO_UNIT) if "unit" in rows else None
                        _add(column, own, days, when, value, said)
        for column in columns.values():
            if column.events and column.counts[_OTHERS] == column.events:  # ids differ in spelling
                column.counts[LOST] = column.counts.pop(_OTHERS)
        for name, fields in wanted.items():
            for field, codes_ in fields.items():
                columns[name].sought(field, len(codes_ - seen), len(codes_))
        return doubts

    def _refuse_what_it_cannot_say(self, mapped: dict[str, MappedColumn], schema: Schema) -> None:
        """Raise UsageError for a value where events have none, and for codes other than 0 and 1."""
        for name, one in mapped.items():
            column = next(c for c in schema.of_events if c.name == name)
            if not _happens(one) and "value" not in self._names():
                raise UsageError(
                    f"{name}: {self._events.name} has no column of values",
                    hint="name it as `value` under events in site.toml, or map event:CODE",
                )
            codes = column.codes if isinstance(column, CategoryColumn) else ("0", "1")
            if _happens(one) and not one.codes and not {"0", "1"} <= set(codes):
                raise UsageError(
                    f"{name}: that an event happened is 1 or 0, and its codes are "
                    f"{', '.join(codes[:6])}",
                    hint='map value:CODE; or give codes = { "1" = "...", "0" = "..." }',
                )

    def _names(self) -> dict[str, str]:
        """Return which column of the events' table is the day, code, value and unit."""
        own = self._columns
        names = {"day": own.day, "code": own.code}
        offered = {one.field for one in self._events.fields()}
        for name, said in (("value", own.value), ("unit", own.unit)):
            if said or name in offered:
                names[name] = said or name
        return names

    def _read_events(self) -> Iterator[Batch]:
        """Yield day, code, value and unit of the events; commas are decimal as in any table."""
        names, offered = self._names(), {one.field for one in self._events.fields()}
        if lacking := sorted({self._columns.patient, *names.values()} - offered):
            raise DataError(
                f"{self._events.name} has no column {lacking[0]!r}",
                hint="name its columns of patient, day, code, value and unit under events in "
                "site.toml",
            )
        mapped = {name: MappedColumn.model_construct(field=one) for name, one in names.items()}
        yield from self._events.read(StudyMapping.model_construct(columns=mapped), _EVENT)


# How the events' table is read: its values are numbers or codes.
_EVENT = Schema(
    record="event",
    label="label",
    columns=(
        NumberColumn(kind="number", name="value", unit="any", minimum=-1e15, maximum=1e15),
        *(CategoryColumn(kind="category", name=n, codes=("0", "1")) for n in ("day", "code")),
    ),
)


def _asked(name: str, mapped: MappedColumn) -> dict[str, set[str]]:
    """Return field -> its codes. Raises UsageError."""
    found: dict[str, set[str]] = {}
    for field in mapped.fields:
        kind, _, codes = field.partition(":")
        if kind not in _KINDS or not all(code.strip() for code in codes.split(",")):
            raise UsageError(f"{name}: {field!r} is not a field of a table of events", hint=_HINT)
        found[field] = {code.strip() for code in codes.split(",")}
    if len({field.partition(":")[0] for field in found}) > 1:
        raise UsageError(f"{name}: some of its fields are values, and some events", hint=_HINT)
    return found


def _happens(mapped: MappedColumn) -> bool:
    return mapped.fields[0].startswith("event:")


def _span(cell: str | None) -> Span | None:
    """Return the span of a cell that is written as FHIR writes dates; None for any other."""
    if cell is None or not _DATE.fullmatch(cell):
        return None
    text = cell.replace(" ", "T", 1)
    if "T" in text:
        try:
            datetime.fromisoformat(text)
        except ValueError:
            return None
    return span(text)


def _add(column: EventColumn, records: list[int], days: list[date], *event: Any) -> None:
    for record in records:
        column.add(record, days[record], *event)
