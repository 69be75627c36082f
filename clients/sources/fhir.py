"""A FHIR R4 bulk export (NDJSON): patients, conditions and observations, by code.

One record for each patient, on the mapping's day ``as_of``. Fields:

    patient:age  patient:gender  patient:deceased
    condition:SYSTEM|CODE           1 if the patient has it, else 0
    observation:SYSTEM|CODE         its value, or that of the component with this code

Several codes of one system are separated by commas. What was entered in error, is preliminary or
refuted does not count (http://hl7.org/fhir/R4/observation.html, .../condition.html). Patients who
were merged are left out, all that were involved: they had two ids, and may have opted out, or paid,
under the other one. Nothing else of a resource is looked at.
"""

from __future__ import annotations

import calendar
import json
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa

from flo.clients.mapping import MappedColumn, StudyMapping
from flo.clients.sources.events import NO_UNIT, Column, in_batches, years_between
from flo.clients.sources.source import Batch, Offer
from flo.errors import DataError, UsageError
from flo.schema import Schema

_LONGEST_LINE = 16 << 20
_COUNTING_OBSERVATIONS = ("final", "amended", "corrected")
_NO_CONDITION = ("entered-in-error", "refuted")
_PATIENT_FIELDS = ("patient:age", "patient:gender", "patient:deceased")
_PARTIAL = re.compile(r"(\d{4})(?:-(\d{2})(?:-(\d{2}))?)?")
_LINES_SAMPLED = 200_000  # of each kind of resource, to see which codes there are
Resource = dict[str, Any]


class FhirExport:
    """A ``Source`` of one export; its files are read line by line, however large."""

    is_table = False

    def __init__(self, folder: Path, id_column: str) -> None:
        """``id_column``: ``id``, or the system of the identifier that patients are known by."""
        self.name, self._folder, self._id = folder.name, folder, id_column
        if not folder.is_dir():
            raise DataError(f"folder {folder} does not exist", hint="set `folder` in site.toml")
        if id_column != "id" and ":" not in id_column:
            raise UsageError(
                f"id_column {id_column!r} is nothing that FHIR patients are known by",
                hint="id, or the system of their identifier, such as urn:oid:2.16.756.5.30",
            )
        if not any(folder.glob("*.ndjson")):
            raise DataError(
                f"{folder} holds no *.ndjson file",
                hint="it is what a bulk export ($export) of the FHIR server writes",
            )

    def offers(self) -> list[Offer]:
        """Fields of patients, and codes, frequent ones first, of 200,000 resources of a kind."""
        codes: Counter[str] = Counter()
        seen: dict[str, Offer] = {}
        for kind in ("Condition", "Observation"):
            for number, resource in enumerate(self._resources(kind)):
                if number == _LINES_SAMPLED:
                    break
                for part in (resource, *_list(resource, "component")):
                    for system, code, display in _codings(part.get("code")):
                        field = f"{kind.lower()}:{system}|{code}"
                        codes[field] += 1
                        if not seen.get(field, Offer(field)).unit:
                            seen[field] = Offer(field, display, _unit(part) or "")
        return [Offer(field) for field in _PATIENT_FIELDS] + [
            seen[field] for field, _ in codes.most_common()
        ]

    def settings(self) -> dict[str, Any]:
        """The day after which nothing happened, of what there is."""
        days = [_observed(event) for event in self._resources("Observation")]
        known = [day for day in days if day is not None]
        return {"as_of": max(known, default=date.today())}  # noqa: DTZ011 - a hospital's own day

    def words(self, cells: list[str]) -> dict[str, str]:
        """Each cell as its own meaning: the export names values by code or text as they are."""
        return dict(zip(cells, cells, strict=True))

    def ids(self) -> Iterator[pa.Array]:
        """One id for each patient of the export, merged ones included."""
        yield pa.array([name for name, _ in self._patients()], pa.string())

    def read(self, mapping: StudyMapping, schema: Schema) -> Iterator[Batch]:
        """A record for each patient who was never merged, as of the mapping's day.

        Raises:
            UsageError: the mapping names no day ``as_of``.
        """
        if mapping.as_of is None:
            raise UsageError(
                "the mapping names no day for the records",
                hint='write as_of = "YYYY-MM-DD" into its section of mapping.toml',
            )
        at = mapping.as_of
        ids, numbers, merged = list[str](), dict[str, int](), self._merged()
        known = list[Resource]()
        for name, patient in self._patients():
            key = str(patient.get("id"))
            if key in merged:
                continue
            numbers[key] = len(ids)
            ids.append(name)
            known.append(patient)
        columns = {name: _column(mapped, len(ids)) for name, mapped in mapping.columns.items()}
        for column in columns.values():
            if column.mapped.field in _PATIENT_FIELDS:
                column.values = [_of_patient(column.mapped, patient, at) for patient in known]
        del known
        for kind in ("Condition", "Observation"):
            wanted = {
                code: [c for c in columns.values() if code in _codes(c.mapped.field, kind)]
                for column in columns.values()
                for code in _codes(column.mapped.field, kind)
            }
            marks = [json.dumps(code, ensure_ascii=False).encode() for _, code in wanted]
            for event in self._resources(kind, marks) if wanted else ():
                record = numbers.get(_id_of(event.get("subject")))
                if record is None or not _counts(kind, event):
                    continue
                for part in (event, *_list(event, "component")):
                    for system, code, _ in _codings(part.get("code")):
                        for column in wanted.get((system, code), ()):
                            if kind == "Condition":
                                column.add(record, at, _began(event))
                            elif (value := _value(part)) is not None:
                                column.add(record, at, _observed(event), value, _unit(part))
        notes = {"patients who were merged, and are left out": len(merged)} if merged else {}
        yield from in_batches(ids, columns, schema, notes)

    def _patients(self) -> Iterator[tuple[str, Resource]]:
        for patient in self._resources("Patient"):
            if self._id == "id":
                yield str(patient.get("id") or ""), patient
            else:
                own = {
                    str(i.get("value") or "")
                    for i in _list(patient, "identifier")
                    if i.get("system") == self._id and i.get("use") != "old"
                }
                # Of two nobody could say which one is charged: none, and the gate refuses it.
                yield (own.pop() if len(own) == 1 else ""), patient

    def _merged(self) -> set[str]:
        """Every patient who replaces or is replaced by another."""
        found = set[str]()
        for _, patient in self._patients():
            for link in _list(patient, "link"):
                if link.get("type") in ("replaced-by", "replaces"):
                    found |= {str(patient.get("id")), _id_of(link.get("other"))}
        return found - {""}

    def _resources(self, kind: str, marks: list[bytes] | None = None) -> Iterator[Resource]:
        """Resources of one type; with ``marks``, those whose line holds one of them."""
        for path in sorted(self._folder.glob("*.ndjson")):
            with path.open("rb") as file:
                number, seen = 0, False
                while line := file.readline(_LONGEST_LINE + 1):
                    number += 1
                    if len(line) > _LONGEST_LINE:
                        raise DataError(
                            f"{path.name}, line {number}: more than {_LONGEST_LINE >> 20} MiB"
                        )
                    if number > 1 and marks and not _may_hold(line, marks):
                        continue
                    if not line.strip():
                        continue
                    resource = _parsed(line, path.name, number)
                    found = resource.get("resourceType")
                    if found == "OperationOutcome" or (seen and found != kind):
                        raise DataError(
                            f"{path.name}, line {number}: holds another kind of resource",
                            hint="a bulk file holds one type; if the export reports errors, "
                            "export again",
                        )
                    if found != kind:
                        break
                    seen = True
                    yield resource


def _may_hold(line: bytes, marks: list[bytes]) -> bool:
    """A backslash may spell anything, so such a line is always parsed."""
    return b"\\" in line or any(mark in line for mark in marks)


def _parsed(line: bytes, name: str, number: int) -> Resource:
    try:
        resource = json.loads(line)
    except (ValueError, RecursionError):
        raise DataError(f"{name}, line {number}: is not JSON") from None
    if not isinstance(resource, dict):
        raise DataError(f"{name}, line {number}: is not a resource")
    return resource


def _column(mapped: MappedColumn, count: int) -> Column:
    known = mapped.field in _PATIENT_FIELDS or bool(
        _codes(mapped.field, "Condition") or _codes(mapped.field, "Observation")
    )
    if not known:
        raise UsageError(
            f"{mapped.field!r} is no field of a FHIR export",
            hint="patient:age, patient:gender, patient:deceased, condition:SYSTEM|CODE or "
            "observation:SYSTEM|CODE",
        )
    return Column.empty(mapped, count, happened=mapped.field.startswith("condition:"))


def _codes(field: str, kind: str) -> set[tuple[str, str]]:
    """(system, code) pairs of a field, if it is of that kind of resource."""
    prefix, _, rest = field.partition(":")
    system, bar, codes = rest.rpartition("|")
    if prefix != kind.lower() or not bar:
        return set()
    return {(system, code) for code in codes.split(",")}


def _of_patient(mapped: MappedColumn, patient: Resource, at: date) -> Any:
    if mapped.field == "patient:gender":
        return patient.get("gender")
    if mapped.field == "patient:age":
        born = _day(patient.get("birthDate"), first=True)
        return None if born is None else years_between(born, at)
    if isinstance(died := patient.get("deceasedBoolean"), bool):
        return int(died)
    return int(_day(patient.get("deceasedDateTime")) is not None)


def _counts(kind: str, event: Resource) -> bool:
    if kind == "Observation":
        return event.get("status") in _COUNTING_OBSERVATIONS
    return not {c for _, c, _ in _codings(event.get("verificationStatus"))} & set(_NO_CONDITION)


def _codings(concept: Any) -> list[tuple[str, str, str]]:
    """(system, code, display) of a CodeableConcept."""
    if not isinstance(concept, dict):
        return []
    return [
        (
            str(c.get("system") or ""),
            str(c["code"]),
            str(c.get("display") or concept.get("text") or ""),
        )
        for c in _list(concept, "coding")
        if isinstance(c.get("code"), str) and c["code"]
    ]


def _value(part: Resource) -> Any:
    """What was observed, as a number or text; None for nothing."""
    quantity = part.get("valueQuantity")
    if isinstance(quantity, dict):
        value = quantity.get("value")
        # "< 5" is no number that could be averaged with others
        return f"{quantity['comparator']} {value}" if quantity.get("comparator") else value
    if codings := _codings(part.get("valueCodeableConcept")):
        return codings[0][1]
    for name in ("valueInteger", "valueString"):
        if part.get(name) is not None:
            return part[name]
    value = part.get("valueBoolean")
    return None if value is None else str(value)


def _unit(part: Resource) -> str | None:
    """Of a quantity; a count or code has none to be wrong in."""
    quantity = part.get("valueQuantity")
    if not isinstance(quantity, dict):
        return None
    return str(quantity.get("code") or quantity.get("unit") or NO_UNIT)


def _observed(event: Resource) -> date | None:
    period = event.get("effectivePeriod")
    period = period if isinstance(period, dict) else {}
    for text in (
        event.get("effectiveDateTime"),
        event.get("effectiveInstant"),
        period.get("end") or period.get("start"),
        event.get("issued"),
    ):
        if (day := _day(text)) is not None:
            return day
    return None


def _began(event: Resource) -> date | None:
    period = event.get("onsetPeriod")
    for text in (
        event.get("onsetDateTime"),
        period.get("start") if isinstance(period, dict) else None,
        event.get("recordedDate"),
    ):
        if (day := _day(text)) is not None:
            return day
    return None


def _day(text: Any, *, first: bool = False) -> date | None:
    """A FHIR date; of one that is a month or a year its last day, or its first.

    The last, so that nothing slips in that may be from after the record's day.
    """
    found = _PARTIAL.match(text) if isinstance(text, str) else None
    if found is None:
        return None
    year, month, day = (int(part or 0) for part in found.groups())
    with suppress(ValueError, calendar.IllegalMonthError):
        month = month or (1 if first else 12)
        return date(year, month, day or (1 if first else calendar.monthrange(year, month)[1]))
    return None


def _id_of(reference: Any) -> str:
    text = reference.get("reference") if isinstance(reference, dict) else None
    return text.rpartition("Patient/")[2].split("/")[0] if isinstance(text, str) else ""


def _list(resource: Resource, name: str) -> list[Resource]:
    found = resource.get(name)
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []
