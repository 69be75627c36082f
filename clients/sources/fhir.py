"""FHIR R4 bulk export (NDJSON): patients, conditions and observations, by code.

There is one record for each patient, on the mapping's day ``as_of``. Fields:

    patient:age  patient:gender  patient:deceased (by the mapping's ``when``)
    patient:last-seen  until:DAY    the time to an event (``flo.clients.sources.follow_up``)
    condition:SYSTEM|CODE           1 if the patient has it, else 0
    observation:SYSTEM|CODE         its value, or that of the component with this code

Several codes of one system are separated by commas; codes of several systems need a list of fields.
Observations that are not final and conditions that are not confirmed do not count
(http://hl7.org/fhir/R4/observation.html, .../condition.html). A patient whose resource states a
link with another one is left out: of two ids of one patient at most one takes part. The patient
that the link names is included, because one patient's resource must not change another's records;
an opt-out counts for the id that it was given for. An event that names an identifier of several
patients counts for each of them. No other part of a resource is used.
"""

from __future__ import annotations

import json
from array import array
from collections import Counter
from collections.abc import Iterator
from datetime import date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from flo.clients.sources.events import EMPTY, SHARED, UNFIT, EventColumn, in_batches
from flo.clients.sources.fhir_days import began, observed
from flo.clients.sources.fhir_events import (
    PATIENT_FIELDS,
    FhirCode,
    asked,
    codings,
    counts,
    unit,
    value,
)
from flo.clients.sources.fhir_files import BESIDE, BulkFiles, Resource, listed
from flo.clients.sources.fhir_patients import FhirPatients, in_two_states, names, state_of
from flo.clients.sources.follow_up import (
    EARLIER,
    LAST_SEEN,
    earlier_of,
    ended,
    followed,
    last_day,
    mapped_time,
)
from flo.clients.sources.mapping import MappedColumn, StudyMapping
from flo.clients.sources.source import Batch, SourceField
from flo.clients.sources.steps import Steps
from flo.errors import UsageError
from flo.study.schema import Schema

_RESOURCES_SAMPLED = 200_000  # of each type, to list its codes
STAY = "patients whom another patient's link names; they take part unless this id opted out"


class FhirExport:
    """``DataSource`` of one export."""

    is_table, has_events = False, True

    def __init__(self, folder: Path, id_column: str) -> None:
        """``id_column``: ``id``, or the system of the identifier that serves as the patient id."""
        self.name, self._id = folder.name, id_column
        self._files = BulkFiles(folder)
        if id_column != "id" and ":" not in id_column:
            raise UsageError(
                f"id_column {id_column!r} is neither id nor the system of a FHIR identifier",
                hint="set it to id, or to a system such as urn:oid:2.16.756.5.30",
            )

    def fields(self) -> list[SourceField]:
        """Return fields of patients, and codes by frequency in 200,000 resources of each type."""
        codes: Counter[str] = Counter()
        seen: dict[str, SourceField] = {}
        for kind in ("Condition", "Observation"):
            for number, resource in enumerate(self._files.resources(kind)):
                if number == _RESOURCES_SAMPLED:
                    break
                for part in parts_of(resource):
                    for system, code, display in codings(part.get("code")):
                        if "|" in system + code or "," in code:  # no field can name it
                            continue
                        field = f"{kind.lower()}:{system}|{code}"
                        codes[field] += 1
                        if not seen.get(field, SourceField(field)).unit:
                            seen[field] = SourceField(field, display, unit(part) or "")
        last_seen = SourceField(LAST_SEEN, "time to an event: followed until last seen", "days")
        return [*(SourceField(field) for field in PATIENT_FIELDS), last_seen] + [
            seen[field] for field, _ in codes.most_common()
        ]

    def settings(self) -> dict[str, Any]:
        """Leave the day of every record open, for a person to choose.

        The last day in the data is one patient's last visit: as a suggestion, it would let that
        patient change the age and history of all others.
        """
        return {"as_of": None}

    def words(self, cells: list[str]) -> dict[str, str]:
        """Return each cell as its own meaning: values are codes or texts of the export itself."""
        return dict(zip(cells, cells, strict=True))

    def ids(self) -> Iterator[pa.Array]:
        """Yield the id of each patient resource, including those that state a link."""
        yield pa.array(list(names(self._files, self._id)), pa.string())

    def read(self, mapping: StudyMapping, schema: Schema) -> Iterator[Batch]:
        """Yield a record for each patient whose resource states no link, as of the mapping's day.

        Raises:
            UsageError: the mapping names no day ``as_of``, or a field that does not exist.
            DataError: a file is incomplete, or the export holds two states of a resource.
        """
        if (at := mapping.as_of) is None:
            raise UsageError(
                "the mapping names no day for the records",
                hint='write as_of = "YYYY-MM-DD" into its section of mapping.toml',
            )
        time = mapped_time(mapping, schema, LAST_SEEN, happens)
        own = {name: one for name, one in mapping.columns.items() if one is not time}
        if time is not None:
            own[EARLIER] = earlier_of(own[schema.label])
        wanted = {name: asked(mapped) for name, mapped in own.items()}
        patients = FhirPatients(self._files, self._id)
        places = [place for place in range(len(patients.names)) if place not in patients.merged]
        steps = Steps(schema, mapping, [at] * len(places), happens, PATIENT_FIELDS)
        columns = {
            name: EventColumn.empty(mapped, len(places), happened=happens(mapped))
            for name, mapped in own.items()
        } | steps.channels
        for name, column in columns.items():
            for record, place in enumerate(places if wanted[name][0] == "Patient" else ()):
                patients.tell(column, record, place, at)
        records = {place: record for record, place in enumerate(places)}
        for kind in ("Condition", "Observation"):
            of_kind = [(columns[name], codes) for name, (k, codes) in wanted.items() if k == kind]
            if of_kind:
                self._fill(kind, of_kind, patients, records, at)
        if time is not None and schema.times is not None:
            label, earlier = columns[schema.label], columns.pop(EARLIER)
            ends = self._ends(time, label, patients, records, at)
            ends = ended(ends, [patients.died(place) for place in places])
            starts = [at] * len(places)
            columns[schema.times.time] = followed(label, earlier, time, starts, ends)
        columns = steps.in_place_of_channels(columns)
        notes = {
            "patients who state a link with another, and are left out": len(patients.merged),
            STAY: len(patients.named),
            "patients who are marked as not active": patients.inactive,
        }
        shown = {note: count for note, count in notes.items() if count}
        doubts = {("unread files", "", BESIDE): self._files.beside} if self._files.beside else {}
        yield from in_batches([patients.names[p] for p in places], columns, schema, shown, doubts)

    def _ends(
        self,
        time: MappedColumn,
        label: EventColumn,
        patients: FhirPatients,
        records: dict[int, int],
        at: date,
    ) -> list[date | None]:
        """Return the last day on which each record's patient was followed, from ``at`` on."""
        if (day := last_day(time)) is not None:
            return [day] * len(records)
        ends = [max(at, event[0]) if event else at for event in label.days]
        today = datetime.now().astimezone().date()  # what is planned for later was no contact
        for kind in ("Condition", "Observation"):
            for event in self._files.resources(kind):
                for place in patients.meant(event.get("subject")) if counts(event) else ():
                    if (record := records.get(place)) is None:
                        continue
                    condition = kind == "Condition"
                    seen = began(event, patients.born(place)) if condition else observed(event)
                    if seen is not None and seen.first <= today:
                        ends[record] = max(ends[record], seen.first)
        return list(ends)

    def _fill(
        self,
        kind: str,
        columns: list[tuple[EventColumn, dict[str, set[FhirCode]]]],
        patients: FhirPatients,
        records: dict[int, int],
        at: date,
    ) -> None:
        """Add all resources of a type to the columns that map some of their codes."""
        wanted: dict[FhirCode, list[EventColumn]] = {}
        for column, fields in columns:
            for code in set[FhirCode]().union(*fields.values()):
                wanted.setdefault(code, []).append(column)
        marks = [json.dumps(code, ensure_ascii=False).encode() for _, code in wanted]
        seen, ids, states = set[FhirCode](), array("q"), array("q")
        for event in self._files.resources(kind, marks):
            parts = [
                (part, found)
                for part in parts_of(event)
                if (found := {c[:2] for c in codings(part.get("code"))} & wanted.keys())
            ]
            if not parts:
                continue
            seen |= set[FhirCode]().union(*(found for _, found in parts))
            if event.get("id"):
                ids.append(hash(str(event["id"])))  # millions of ids as text would fill the memory
                states.append(state_of(event))
            places, fit = patients.meant(event.get("subject")), counts(event)
            for part, found in parts:
                for column in {one for code in found for one in wanted[code]}:
                    if not fit:
                        column.counts[UNFIT] += 1
                    elif not places:
                        column.lose()
                    elif len(places) > 1:
                        column.counts[SHARED] += 1
                    for place in places if fit else ():
                        if (record := records.get(place)) is not None:
                            add(column, record, at, event, part, patients.born(place))
        both = np.stack([np.frombuffer(one, dtype=np.int64) for one in (ids, states)], axis=1)
        if len(np.unique(both[:, 0])) < len(np.unique(both, axis=0)):
            raise in_two_states(kind)
        for column, fields in columns:
            for field, codes in fields.items():
                column.sought(field, len(codes - seen), len(codes))


def add(
    column: EventColumn, record: int, at: date, event: Resource, part: Resource, born: Any
) -> None:
    """Add a resource, or its component ``part``, to a column's cell of its patient.

    Of two at the same time, the one that was issued later counts, in whatever order a server gives
    them.
    """
    if column.happened:
        column.add(record, at, began(event, born))
    elif (found := value(part, column.mapped.codes)) is not None:
        later = f"{event.get('issued') or ''} {event.get('id') or ''}"
        column.add(record, at, observed(event), found, unit(part), later)
    else:
        column.counts[EMPTY] += 1


def parts_of(event: Resource) -> list[Resource]:
    """Return a resource and its components, which have codes and values of their own."""
    return [event, *listed(event, "component")]


def happens(mapped: MappedColumn) -> bool:
    """Return whether a column's cell says only that something happened: 1, else 0."""
    return mapped.field == "patient:deceased" or mapped.fields[0].startswith("condition:")
