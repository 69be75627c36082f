"""From what happened to patients, and when, to one cell a record: for FHIR and for OMOP.

A record has a patient and a day. Of a column's events the mapping's ``when`` chooses one: the last
on or before the day, the first after it, or the last of all. What of a column's events could not
be used is counted, and told: to be accepted where it may be a fault of the source, else as a note.
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

from flo.clients.sources.cells import as_text
from flo.clients.sources.mapping import MappedColumn, same_unit
from flo.clients.sources.source import BATCH, Batch
from flo.clients.sources.unit_conversions import CONVERSIONS
from flo.study.schema import NumberColumn, Schema

NO_UNIT = "none"  # what a mapping calls the unit of values that should have one and do not
_NAMED = {NO_UNIT, *(unit for one in CONVERSIONS for unit in (one.given, one.wanted))}
_NO_UNIT_HINT = f" (if they are in it: unit = {NO_UNIT!r}, multiply = 1 in mapping.toml)"

LOST = "events of nobody who is in the export"
UNDATED = "events without a day, which do not count"
UNCLEAR = "events that may lie on either side of the record's day, and do not count"
UNFIT = "events that are preliminary, refuted or entered in error, and do not count"
EMPTY = "events without a value"
SHARED = "events of an identifier that several patients have, which count for each of them"
_KINDS = {LOST: "lost events", UNDATED: "no day", UNCLEAR: "unclear day"}
_SHARE = 0.01  # of a column's events; fewer are a note
_LONGEST = 80  # characters of a field, in what is told of it


@dataclass(frozen=True)
class Span:
    """When something happened, as far as it is known: from its ``first`` day to its ``last`` one.

    A day is the local one; ``begin`` and ``end``, which order what is of one day, are in UTC where
    the source knows a zone.
    """

    first: date
    last: date
    begin: datetime = datetime.min  # noqa: DTZ901 - compared with each other only
    end: datetime = datetime.max  # noqa: DTZ901


@dataclass(eq=False)
class EventColumn:
    """One column's cells, (records,), filled event by event.

    ``happened``: whether what counts is that something happened: 1, and 0 where it did not.
    ``counts``: what is told -> of how many events. ``nowhere``: fields in which nothing was found.
    """

    mapped: MappedColumn
    happened: bool
    values: list[Any]
    days: list[tuple[date, datetime] | None]
    units: list[str | None]
    events: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    nowhere: list[str] = field(default_factory=list)

    @classmethod
    def empty(cls, mapped: MappedColumn, count: int, *, happened: bool) -> EventColumn:
        """Of records to which nothing happened yet: 0 with ``happened``, else missing."""
        start = 0 if happened else None
        return cls(mapped, happened, [start] * count, [None] * count, [None] * count)

    def add(
        self, record: int, at: date, span: Span | None, value: Any = 1, unit: str | None = None
    ) -> None:
        """An event of ``record``'s patient; the record's own day is ``at``.

        Of a span the end counts, and with ``after`` its beginning, so that nothing slips over the
        record's day. Of what is equal the later given counts, with ``after`` the earlier. Without
        a day it counts at ``any`` time only, and if nothing has one.
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
        own = (span.first, span.begin) if when == "after" else (span.last, span.end)
        if (when == "until" and own[0] > at) or (when == "after" and own[0] <= at):
            return
        if before is not None and (own >= before if when == "after" else own < before):
            return
        self.values[record], self.days[record], self.units[record] = value, own, unit

    def lose(self) -> None:
        """An event of somebody who is not there."""
        self.events += 1
        self.counts[LOST] += 1

    def sought(self, name: str, missed: int, of: int) -> None:
        """In the field ``name``, ``missed`` of its ``of`` codes were found nowhere."""
        if missed == of:
            self.nowhere.append(name)
        elif missed:
            self.counts[f"codes found nowhere, of {of} in {_short(name)}"] += missed

    def told(self, name: str) -> tuple[dict[tuple[str, str, str], int], dict[str, int]]:
        """Doubts and notes of this column, which is called ``name``.

        A column of values in which nothing was found is missing throughout, which everybody sees;
        that nothing ever happened looks like a fact.
        """
        doubts: dict[tuple[str, str, str], int] = {}
        notes = dict[str, int]()
        for rule, count in self.counts.items():
            if rule in _KINDS and count >= _SHARE * self.events:
                doubts[_KINDS[rule], name, rule] = count
            elif rule == UNFIT and self.happened and not self.events:
                doubts["nothing counts", name, rule] = count
            else:
                notes[f"{name}: {rule}"] = count
        for one in self.nowhere:
            rule = f"events of {_short(one)}, which is found nowhere"
            if self.happened:
                doubts["nothing found", name, rule] = 0
            else:
                notes[f"{name}: {rule}"] = 0
        return doubts, notes

    def wrong_units(self, wanted: str) -> dict[str, np.ndarray]:
        """Rule -> values whose unit is not the one that the mapping says they have.

        What the mapping declares missing has no unit to be wrong in.
        """
        expected = self.mapped.unit or wanted
        found: dict[str, np.ndarray] = {}
        units = self.units
        if self.mapped.missing:
            cells = zip(self.values, units, strict=True)
            units = [None if self.mapped.means_missing(value) else unit for value, unit in cells]
        wrong = {u for u in set(units) if u is not None and not same_unit(u, expected)}
        # A unit is text of the source, which may hold anything; known ones are named.
        named = {unit: unit if unit in _NAMED else "another" for unit in wrong}
        shown = np.array([named.get(unit or "", "") for unit in units])
        for given in sorted(set(named.values())):
            if (mask := shown == given).any():
                has, hint = f"the unit {given!r}" if given != "another" else "another unit", ""
                if given == NO_UNIT:
                    has, hint = "no unit", _NO_UNIT_HINT
                found[f"has {has} where {expected!r} is expected{hint}"] = mask
        return found


def in_batches(
    ids: Sequence[str],
    columns: Mapping[str, EventColumn],
    schema: Schema,
    notes: Mapping[str, int] | None = None,
    doubts: Mapping[tuple[str, str, str], int] | None = None,
) -> Iterator[Batch]:
    """The records, once all events are in. ``notes`` and ``doubts``: of the source as a whole."""
    wrong = {
        (one.name, rule): mask
        for one in schema.columns
        if isinstance(one, NumberColumn) and one.name in columns
        for rule, mask in columns[one.name].wrong_units(one.unit).items()
    }
    told = [column.told(name) for name, column in columns.items()]
    doubted = dict(doubts or {})
    doubted |= {key: count for found, _ in told for key, count in found.items()}
    noted = {rule: count for _, found in told for rule, count in found.items()}
    for begin in range(0, len(ids), BATCH):
        part = slice(begin, begin + BATCH)
        yield Batch(
            pa.array(ids[part], pa.string()),
            {name: as_array(column.values[part]) for name, column in columns.items()},
            {key: mask[part] for key, mask in wrong.items()},
            to_accept=doubted,
            notes={**(notes or {}), **noted},
        )


def bound(sign: str, number: Any) -> str:
    """``< 5``: a result that is only known to lie below 5 is no number to reckon with."""
    with suppress(ValueError, TypeError):
        number = f"{float(number):.15g}"
    return f"{sign} {number}"


def as_array(cells: list[Any]) -> pa.Array:
    """Cells of one kind as that kind; else as text, each as it would be among its own kind.

    One cell of another kind must not change how the others are spelt: 1000 stays 1000.
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
    """Whole years of age."""
    return at.year - born.year - ((at.month, at.day) < (born.month, born.day))


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[:_LONGEST]}…"
