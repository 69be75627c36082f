"""The time to an event from dated events, for FHIR and for OMOP.

The label's mapping names what happened: a death, a condition, a drug or a procedure; the first one
``after`` the record's day counts. The time's mapping says until when a patient was followed who did
not have it:

    until:YYYY-MM-DD        all were followed until this day, as by a registry
    patient:last-seen       FHIR: the last day of any observation or condition, or the event itself
    observation_period      OMOP: the end of the period that holds the record's day

A death ends every follow-up. The time is in days from the record's day: until the event if it came
while the patient was followed, else until the end, with the label 0. A mapping may convert days
into the study's unit. A patient who died by the record's day has no time, and the gate refuses the
record; so it does if the day of the death is not known well enough. Another event by the record's
day does not end the follow-up: the steward is told how many patients had one, and decides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import date

from flo.clients.sources.events import HAD_BEFORE, EventColumn
from flo.clients.sources.mapping import MappedColumn, StudyMapping
from flo.errors import UsageError
from flo.study.schema import Schema

LAST_SEEN, PERIOD = "patient:last-seen", "observation_period"
DEATHS = ("patient:deceased", "death")
EARLIER = ""  # the name of a column, which no study has: of the label's events by the record's day
_UNTIL, _DAYS = "until:", "days"


def mapped_time(
    mapping: StudyMapping, schema: Schema, ends: str, happens: Callable[[MappedColumn], bool]
) -> MappedColumn | None:
    """Return how a study's time is mapped; None if it has none.

    ``ends``: the source's own field, beside ``until:``. ``happens``: whether a mapped column says
    that something happened. Raises UsageError: another field, or a label that is a value, or whose
    mapping does not count what happens after the record's day.
    """
    if schema.times is None:
        return None
    mapped, label = mapping.columns[schema.times.time], mapping.columns[schema.label]
    if mapped.field != ends and last_day(mapped) is None:
        raise UsageError(
            f"{schema.times.time}: {mapped.field!r} does not say until when patients were followed",
            hint=f'write field = "{ends}", or "until:YYYY-MM-DD" if all were followed until a day',
        )
    if not happens(label) or label.codes:
        raise UsageError(
            f"{schema.label}: a time to an event needs something that happened, not a value",
            hint="map it to a death, a condition, a drug or a procedure, without codes",
        )
    if label.when != "after":
        raise UsageError(
            f"{schema.label}: its mapping counts events up to the record's day",
            hint='write when = "after": the time runs from that day on',
        )
    return mapped


def earlier_of(label: MappedColumn) -> MappedColumn:
    """Return a mapping of the label's events by the record's day; of a death at any time."""
    when = "any" if set(label.fields) <= set(DEATHS) else "until"
    return label.model_copy(update={"when": when})


def last_day(mapped: MappedColumn) -> date | None:
    """Return the day until which all were followed; None if the mapping names none."""
    field = mapped.field
    if isinstance(field, str) and field.startswith(_UNTIL):
        with suppress(ValueError):
            return date.fromisoformat(field.removeprefix(_UNTIL))
    return None


def followed(
    label: EventColumn,
    earlier: EventColumn,
    mapped: MappedColumn,
    starts: Sequence[date],
    ends: Sequence[date | None],
) -> EventColumn:
    """Return the column of times (records,), and take events after the end out of ``label``.

    ``earlier``: of ``earlier_of``. ``starts``, ``ends``: each record's day, and the last day on
    which its patient was followed; None if it is not known, so that the time is missing.
    """
    column = EventColumn.empty(mapped, len(starts), happened=False)
    dies = earlier.mapped.when == "any"
    for record, (start, end) in enumerate(zip(starts, ends, strict=True)):
        event = label.days[record] if label.values[record] == 1 else None
        if earlier.values[record] == 1:
            if dies and event is None:
                continue
            label.counts[HAD_BEFORE] += not dies
        if event is not None and (end is None or event[0] > end):
            label.values[record], event = 0, None
        last = end if event is None else event[0]
        if last is not None:
            column.values[record], column.units[record] = (last - start).days, _DAYS
            column.events += 1
    return column


def ended(ends: Sequence[date | None], deaths: Sequence[date | None]) -> list[date | None]:
    """Return the last days of follow-up, each no later than the patient's death."""
    return [
        end if death is None or end is None else min(end, death)
        for end, death in zip(ends, deaths, strict=True)
    ]
