"""Reduce the dated events of patients to one cell per record, for FHIR and for OMOP.

A record has a patient and a day. The mapping's ``when`` chooses one of a column's events: the last
on or before the day, the first after it, or the last of all. Events that could not be used are
counted and reported: to be accepted where they may be a fault of the source, else as a note.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from flo.arrays import Mask
from flo.clients.sources.cells import as_text
from flo.clients.sources.mapping import MappedColumn, same_unit
from flo.clients.sources.source import BATCH, Batch
from flo.clients.sources.unit_conversions import CONVERSIONS
from flo.study.columns import NumberColumn
from flo.study.schema import Schema

NO_UNIT = "none"  # in a mapping, the unit of values that should have one and do not
_NAMED = {NO_UNIT, *(unit for one in CONVERSIONS for unit in (one.given, one.wanted))}
_NO_UNIT_HINT = f" (if they are in it: unit = {NO_UNIT!r}, multiply = 1 in mapping.toml)"

LOST = "events of a patient who is not in the export"
UNDATED = "events without a day, which do not count"
UNCLEAR = "events that may lie on either side of the record's day, and do not count"
UNFIT = "events that are preliminary, refuted or entered in error, and do not count"
EMPTY = "events without a value"
HAD_BEFORE = "patients who had it by the record's day, and count as free of it from then on"
SHARED = "events under an identifier that several patients have, which count for each of them"
_KINDS = {LOST: "lost events", UNDATED: "no day", UNCLEAR: "unclear day"}
_SHARE = 0.01  # share of a column's events; fewer are a note
_LONGEST = 80  # characters of a field in a report


@dataclass(frozen=True)
class Span:
    """Range of days in which an event happened, from ``first`` to ``last``.

    A day is the local one. ``begin`` and ``end`` order events of one day; they are in UTC where the
    source knows a zone.
    """

    first: date
    last: date
    begin: datetime = datetime.min  # noqa: DTZ901 - compared with each other only
    end: datetime = datetime.max  # noqa: DTZ901


@dataclass(eq=False)
class EventColumn:
    """Cells of one column, (records,), filled event by event.

    ``happened``: whether a cell is 1 if an event happened and else 0. ``counts``: what to report ->
    number of events. ``nowhere``: fields without any event.
    """

    mapped: MappedColumn
    happened: bool
    values: list[Any]
    days: list[tuple[date, datetime, str] | None]
    units: list[str | None]
    events: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    nowhere: list[str] = field(default_factory=list)

    @classmethod
    def empty(cls, mapped: MappedColumn, count: int, *, happened: bool) -> EventColumn:
        """Create a column without events: 0 with ``happened``, else missing."""
        start = 0 if happened else None
        return cls(mapped, happened, [start] * count, [None] * count, [None] * count)

    def add(
        self,
        record: int,
        at: date,
        span: Span | None,
        value: Any = 1,
        unit: str | None = None,
        among_equals: str = "",
    ) -> None:
        """Add an event of ``record``'s patient; the record's own day is ``at``.

        A span counts at its end, with ``after`` at its beginning, so that it cannot move across the
        record's day. Of events at the same time the one with the greatest ``among_equals`` counts,
        and of those the one added later, with ``after`` the least and the one added earlier. An
        event without a day counts only at ``any`` time, and only if no event has a day.
        """
        when, before = self.mapped.when, self.days[record]
        self.events += 1
        if span is None:
            if when != "any":
                self.counts[UNDATED] += 1
            elif before is None:
                self.values[record], self.units[record] = value, unit
            return
        if when != "any" and span.first <= at < span.last:
            self.counts[UNCLEAR] += 1
            return
        moment = (span.first, span.begin) if when == "after" else (span.last, span.end)
        own = (*moment, among_equals)
        if (when == "until" and own[0] > at) or (when == "after" and own[0] <= at):
            return
        if before is not None and (own >= before if when == "after" else own < before):
            return
        self.values[record], self.days[record], self.units[record] = value, own, unit

    def lose(self) -> None:
        """Count an event whose patient is not in the export."""
        self.events += 1
        self.counts[LOST] += 1

    def sought(self, name: str, missed: int, of: int) -> None:
        """Record that ``missed`` of the ``of`` codes of the field ``name`` were not found."""
        if missed == of:
            self.nowhere.append(name)
        elif missed:
            self.counts[f"codes without any event, of {of} in {_short(name)}"] += missed

    def told(self, name: str) -> tuple[dict[tuple[str, str, str], int], dict[str, int]]:
        """Return doubts and notes of this column, which is called ``name``.

        A field without any event is a note in a column of values, where missing cells show it. In a
        column of 0 and 1 it is a doubt, because a 0 looks like a fact.
        """
        doubts: dict[tuple[str, str, str], int] = {}
        notes = dict[str, int]()
        for rule, count in self.counts.items():
            if rule in _KINDS and count >= _SHARE * self.events:
                doubts[_KINDS[rule], name, rule] = count
            elif rule == HAD_BEFORE:
                doubts["had before", name, rule] = count
            elif rule == UNFIT and self.happened and not self.events:
                doubts["nothing counts", name, rule] = count
            else:
                notes[f"{name}: {rule}"] = count
        for one in self.nowhere:
            rule = f"events found for {_short(one)}"
            if self.happened:
                doubts["nothing found", name, rule] = 0
            else:
                notes[f"{name}: {rule}"] = 0
        return doubts, notes

    def wrong_units(self, wanted: str) -> dict[str, np.ndarray]:
        """Return rule -> mask of the values whose unit is not the expected one.

        Values that the mapping declares missing have no unit to check.
        """
        expected = self.mapped.unit or wanted
        found: dict[str, np.ndarray] = {}
        units = self.units
        if self.mapped.missing:
            cells = zip(self.values, units, strict=True)
            units = [None if self.mapped.means_missing(value) else unit for value, unit in cells]
        wrong = {u for u in set(units) if u is not None and not same_unit(u, expected)}
        rules = {unit: unit_rule(unit, expected) for unit in wrong}
        broken = np.array([rules.get(unit or "", "") for unit in units])
        for rule in sorted(set(rules.values())):
            if (mask := broken == rule).any():
                found[rule] = mask
        return found


def unit_rule(given: str, expected: str) -> str:
    """Return the rule that a value with another unit breaks.

    A unit is free text of the source, so only known ones are shown.
    """
    has, hint = f"the unit {given!r}" if given in _NAMED else "another unit", ""
    if given == NO_UNIT:
        has, hint = "no unit", _NO_UNIT_HINT
    return f"has {has} where {expected!r} is expected{hint}"


def in_batches(
    ids: Sequence[str],
    columns: Mapping[str, EventColumn],
    schema: Schema,
    notes: Mapping[str, int] | None = None,
    doubts: Mapping[tuple[str, str, str], int] | None = None,
) -> Iterator[Batch]:
    """Yield the records after all events were added. ``notes``, ``doubts``: of the whole source."""
    wrong, doubted, noted = looked_at(columns, schema)
    for begin in range(0, len(ids), BATCH):
        part = slice(begin, begin + BATCH)
        yield Batch(
            pa.array(ids[part], pa.string()),
            {name: as_array(column.values[part]) for name, column in columns.items()},
            {key: mask[part] for key, mask in wrong.items()},
            to_accept={**(doubts or {}), **doubted},
            notes={**(notes or {}), **noted},
        )


def looked_at(
    columns: Mapping[str, EventColumn], schema: Schema
) -> tuple[dict[tuple[str, str], Mask], dict[tuple[str, str, str], int], dict[str, int]]:
    """Return what a batch of these columns has besides cells: invalid ones, doubts and notes."""
    wrong = {
        (one.name, rule): mask
        for one in (*schema.columns, schema.value_column)
        if isinstance(one, NumberColumn) and one.name in columns
        for rule, mask in columns[one.name].wrong_units(one.unit).items()
    }
    told = [column.told(name) for name, column in columns.items()]
    doubts = {key: count for found, _ in told for key, count in found.items()}
    return wrong, doubts, {rule: count for _, found in told for rule, count in found.items()}


def bound(sign: str, number: Any) -> str:
    """Return text such as ``< 5``: a value that is only known to be below 5 is not a number."""
    with suppress(ValueError, TypeError):
        number = f"{float(number):.15g}"
    return f"{sign} {number}"


def as_array(cells: list[Any]) -> pa.Array:
    """Return cells of one type as that type; else as text, each as it is spelt in its own type.

    One cell of another type must not change how the others are spelt: 1000 stays 1000.
    """
    try:
        return pa.array(cells)
    except (pa.ArrowException, OverflowError):
        return pa.array([_text(cell) for cell in cells], pa.string())


def _text(cell: Any) -> str | None:
    if cell is None or isinstance(cell, str):
        return cell
    try:
        text: str | None = as_text(pa.array([cell]))[0].as_py()
    except (pa.ArrowException, OverflowError, TypeError):
        return str(cell)
    return text


def years_between(born: date, at: date) -> int:
    """Return the age in whole years."""
    return at.year - born.year - ((at.month, at.day) < (born.month, born.day))


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[:_LONGEST]}…"
