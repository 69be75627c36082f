"""Put dated events into the steps of a study's sequence, for FHIR, OMOP and tables of events.

A column of the sequence is mapped once, for all its steps. Its events are added to a
``ChannelEvents`` like those of any column; ``Steps.columns`` then has the cells of each
step. An event after the record's day counts nowhere, and one before the first step neither.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import partial
from typing import Any

from flo.clients.sources.events import UNCLEAR, UNDATED, EventColumn, Span
from flo.clients.sources.mapping import MappedColumn, StudyMapping, channels
from flo.errors import UsageError
from flo.study import sequence
from flo.study.schema import Schema
from flo.study.sequence import DAYS_AGO, at


@dataclass(eq=False)
class StepColumn(EventColumn):
    """Cells of one step. The first reports what was counted for the whole channel."""

    channel: ChannelEvents | None = None

    def told(self, name: str) -> tuple[dict[tuple[str, str, str], int], dict[str, int]]:
        """Return doubts and notes of the channel; nothing for all steps but one."""
        return self.channel.told(self.channel.name) if self.channel else ({}, {})


@dataclass(eq=False)
class ChannelEvents(EventColumn):
    """All events of one column of the sequence, by record and step.

    ``cells``: of each record, its steps' order in time, value and unit. A visit is known by how
    many days ago it was until all are there.
    """

    name: str = ""
    place: Callable[[date, date], int | None] = field(default=lambda at, day: None)
    cells: list[dict[int, tuple[Any, Any, str | None]]] = field(default_factory=list)

    def add(
        self,
        record: int,
        at: date,
        span: Span | None,
        value: Any = 1,
        unit: str | None = None,
        among_equals: str = "",
    ) -> None:
        """Add an event, as to any column; one that may lie in two steps counts in none."""
        self.events += 1
        if span is None:
            self.counts[UNDATED] += 1
            return
        step = self.place(at, span.last)
        if self.place(at, span.first) != step:
            self.counts[UNCLEAR] += 1
        elif step is not None:
            own = (span.last, span.end, among_equals)
            known = self.cells[record].get(step)
            if known is None or own >= known[0]:
                self.cells[record][step] = own, value, unit

    def step(self, steps: Sequence[int | None], *, told: bool) -> StepColumn:
        """Return the cells of one step, of which ``steps`` says where each record has it."""
        none = (None, 0 if self.happened else None, None)
        cells = [
            none if step is None else own.get(step, none)
            for own, step in zip(self.cells, steps, strict=True)
        ]
        values, units = [cell[1] for cell in cells], [cell[2] for cell in cells]
        channel = self if told else None
        return StepColumn(self.mapped, self.happened, values, [], units, channel=channel)


class Steps:
    """The steps of all records, filled event by event; without a sequence there are none.

    ``days``: of each record. ``happens``: whether a mapped column says only that something
    happened. ``undated``: fields without a day. Raises UsageError: a column is mapped to such one.
    """

    def __init__(
        self,
        schema: Schema,
        mapping: StudyMapping,
        days: Sequence[date],
        happens: Callable[[MappedColumn], bool],
        undated: Collection[str] = (),
    ) -> None:
        self._sequence, self._records = schema.sequence, len(days)
        self.channels: dict[str, ChannelEvents] = {}
        if schema.sequence is None:
            return
        for name, one in channels(mapping, schema).items():
            if found := set(one.fields) & set(undated):
                raise UsageError(
                    f"{name}: {found.pop()!r} has no days, and a sequence consists of dated events",
                    hint="map it to events; what does not change belongs among [[data.columns]]",
                )
            place = partial(_place, schema.sequence)
            self.channels[name] = ChannelEvents(
                one, happens(one), [], [], [], name=name, place=place, cells=[{} for _ in days]
            )

    def in_place_of_channels(self, columns: Mapping[str, EventColumn]) -> dict[str, EventColumn]:
        """Return the columns with those of each step in place of the sequence's."""
        found = {name: one for name, one in columns.items() if name not in self.channels}
        return found | self.columns()

    def columns(self) -> dict[str, EventColumn]:
        """Return the column of each step by its name, with everything that was added so far."""
        found = dict[str, EventColumn]()
        if (of := self._sequence) is None or not self.channels:
            return found
        by_record = [self._steps(of, record) for record in range(self._records)]
        for step in range(1, of.steps + 1):
            steps = [own[step - 1] for own in by_record]
            for name, channel in self.channels.items():
                found[at(name, step)] = channel.step(steps, told=step == 1)
            if of.step == "visit":
                ago = MappedColumn.model_construct(field=DAYS_AGO)
                found[at(DAYS_AGO, step)] = StepColumn(ago, False, steps, [], [None] * len(steps))
        return found

    def _steps(self, of: sequence.Sequence, record: int) -> list[int | None]:
        """Return which of a record's cells belong to step 1, 2, …; None where it has no more."""
        if of.step == "period":
            return list(range(1, of.steps + 1))
        days = {ago for channel in self.channels.values() for ago in channel.cells[record]}
        latest = sorted(days)[: of.steps]
        return [*latest, *[None] * (of.steps - len(latest))]


def _place(of: sequence.Sequence, at: date, day: date) -> int | None:
    """Return the period of a day, or how many days ago a visit was; None if it counts nowhere."""
    ago = (at - day).days
    if of.step == "period":
        return of.step_of(ago)
    return ago if 0 <= ago < of.days else None
