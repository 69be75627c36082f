"""From what happened to patients, and when, to one cell a record: for FHIR and for OMOP.

A record has a patient and a day. Of a column's events the mapping's ``when`` chooses one: the last
on or before the day, the first after it, or the last of all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa

from flo.clients.mapping import MappedColumn, same_unit
from flo.clients.quality.units import CONVERSIONS
from flo.clients.sources.source import BATCH, Batch
from flo.schema import NumberColumn, Schema

NO_UNIT = "none"  # what a mapping calls the unit of values that should have one and do not
_NAMED = {NO_UNIT, *(unit for one in CONVERSIONS for unit in (one.given, one.wanted))}
_NO_UNIT_HINT = f" (if they are in it: unit = {NO_UNIT!r}, multiply = 1 in mapping.toml)"


@dataclass
class Column:
    """One column's cells, (records,), filled event by event.

    ``happened``: whether what counts is that something happened: 1, and 0 where it did not.
    """

    mapped: MappedColumn
    values: list[Any]
    days: list[date | None]
    units: list[str | None]

    @classmethod
    def empty(cls, mapped: MappedColumn, count: int, *, happened: bool) -> Column:
        """Of records to which nothing happened yet: 0 with ``happened``, else missing."""
        start = 0 if happened else None
        return cls(mapped, [start] * count, [None] * count, [None] * count)

    def add(
        self, record: int, at: date, day: date | None, value: Any = 1, unit: str | None = None
    ) -> None:
        """An event of ``record``'s patient on ``day``; the record's own day is ``at``.

        Of two on one day the later given counts. Without a day it counts at ``any`` time only.
        """
        when, before = self.mapped.when, self.days[record]
        if day is None:
            if when == "any" and before is None:
                self.values[record], self.units[record] = value, unit
            return
        if (when == "until" and day > at) or (when == "after" and day <= at):
            return
        if before is not None and (day > before if when == "after" else day < before):
            return
        self.values[record], self.days[record], self.units[record] = value, day, unit

    def wrong_units(self, wanted: str) -> dict[str, np.ndarray]:
        """Rule -> values whose unit is not the one that the mapping says they have."""
        expected = self.mapped.unit or wanted
        found: dict[str, np.ndarray] = {}
        wrong = [u for u in self.units if u is not None and not same_unit(u, expected)]
        # A unit is text of the source, which may hold anything; known ones are named.
        named = {unit: unit if unit in _NAMED else "another" for unit in set(wrong)}
        shown = np.array([named.get(unit or "", "") for unit in self.units])
        for given in sorted(set(named.values())):
            if (mask := shown == given).any():
                has, hint = f"the unit {given!r}" if given != "another" else "another unit", ""
                if given == NO_UNIT:
                    has, hint = "no unit", _NO_UNIT_HINT
                found[f"has {has} where {expected!r} is expected{hint}"] = mask
        return found


def in_batches(
    ids: Sequence[str],
    columns: Mapping[str, Column],
    schema: Schema,
    notes: Mapping[str, int] | None = None,
) -> Iterator[Batch]:
    """The records, once all events are in."""
    wrong = {
        (one.name, rule): mask
        for one in schema.columns
        if isinstance(one, NumberColumn) and one.name in columns
        for rule, mask in columns[one.name].wrong_units(one.unit).items()
    }
    for begin in range(0, len(ids), BATCH):
        part = slice(begin, begin + BATCH)
        yield Batch(
            pa.array(ids[part], pa.string()),
            {name: as_array(column.values[part]) for name, column in columns.items()},
            {key: mask[part] for key, mask in wrong.items()},
            notes=dict(notes or {}),
        )


def as_array(cells: list[Any]) -> pa.Array:
    """Cells of one kind as that kind; else as text."""
    try:
        return pa.array(cells)
    except (pa.ArrowException, OverflowError):
        return pa.array([None if cell is None else str(cell) for cell in cells])


def years_between(born: date, at: date) -> int:
    """Whole years of age."""
    return at.year - born.year - ((at.month, at.day) < (born.month, born.day))
