"""One patient's record from the FHIR resources that a record system sends with a request.

The system sends what *prefetch templates* ask for (CDS Hooks 2.0, "Prefetch Template"): the
patient, and for each column the resources with its codes. ``PrefetchReader`` makes the same cells
of them as ``flo.clients.sources.fhir`` makes of a bulk export with the same resources; a property
test compares the two. It refuses more: resources of another patient, and answers that are
incomplete.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from itertools import pairwise
from typing import Any
from urllib.parse import quote

from flo.clients.sources.events import EventColumn, unit_rule
from flo.clients.sources.fhir import add, happens
from flo.clients.sources.fhir_days import observed
from flo.clients.sources.fhir_events import FhirCode, asked, codings, counts
from flo.clients.sources.fhir_files import Resource, listed
from flo.clients.sources.fhir_patients import tell
from flo.clients.sources.mapping import MappedColumn, StudyMapping, same_unit
from flo.errors import UsageError
from flo.study.columns import Column, NumberColumn
from flo.study.schema import Schema

NEWEST = 50  # observations of a column that are asked for
_MOST_RESOURCES = 5000  # in one answer
_ANOTHER, _NO_SUBJECT = "is about another patient", "has a resource that names no patient"
_PAGE = "is incomplete: the record system sent only the first page"
_ERROR = "is incomplete: the record system reports an error"
_NO_BUNDLE = "must be a Bundle of resources"
_TWO_STATES = "has two versions of one resource"
_MANY = f"has more than {_MOST_RESOURCES} resources"
_OTHERS = "has resources of another type"
_INCOMPLETE = ("incomplete", "timeout", "throttled", "too-costly")  # codes of an OperationOutcome
_MOST_IDENTIFIERS = 200
_LONGEST_UNITS = 100  # spellings of units that are remembered
Broken = list[tuple[str, str]]  # column, or ``patient``; and the rule that does not hold


@dataclass(frozen=True)
class _Column:
    name: str
    kind: str
    codes: frozenset[FhirCode]
    mapped: MappedColumn
    happened: bool
    unit: str | None  # None: no number, so that no unit can be wrong


class PrefetchReader:
    """Reads the records of a study's patients by a site's mapping.

    ``templates``: key -> FHIR query, as the discovery of a service states them. ``mapping``: the
    same mapping, for the encoder: each column's field has the column's name.

    Raises UsageError: the mapping is not of FHIR, or asks for what happens after the record's day.
    """

    def __init__(self, mapping: StudyMapping, schema: Schema) -> None:
        if schema.sequence:
            raise UsageError(
                "a request with prefetch has no history, and the study has a sequence",
                hint="send the columns of each step: POST /models/NAME/score (docs/serving.md)",
            )
        missing = [one.name for one in schema.columns if one.name not in mapping.columns]
        if missing:
            raise UsageError(f"{', '.join(missing)}: not mapped", hint="complete mapping.toml")
        self.mapping = {
            one.name: mapping.columns[one.name].model_copy(update={"field": one.name})
            for one in schema.columns
        }
        self._columns = [
            _column(one.name, mapping.columns[one.name], one) for one in schema.columns
        ]
        names = {one.name for one in schema.columns}
        self.patient_key = "patient" if "patient" not in names else "patient resource"
        self.templates = {self.patient_key: "Patient/{{context.patientId}}"}
        for column in self._columns:
            if column.kind != "Patient":
                self.templates[column.name] = _template(column)
        self._same = dict[tuple[str, str], bool]()

    def missing_keys(self, prefetch: Mapping[str, Any]) -> list[str]:
        """Return the keys that a request lacks; null is there: the system has no such data."""
        return [key for key in self.templates if key not in prefetch]

    def read(
        self, patient_id: str, prefetch: Mapping[str, Any], at: date, server: str = ""
    ) -> tuple[dict[str, Any], Broken]:
        """Return the record of a patient on the day ``at``, and every rule that is broken.

        ``server``: base address of the record system's FHIR; without it, no resource may name its
        patient by an address.
        """
        record, broken = dict[str, Any](), Broken()
        patient = prefetch[self.patient_key]
        wrong = _wrong_patient(patient, patient_id)
        if wrong:
            return record, [(self.patient_key, wrong)]
        about = _Patient(patient, server)
        for wanted in self._columns:
            column, wrong = EventColumn.empty(wanted.mapped, 1, happened=wanted.happened), ""
            if wanted.kind == "Patient":
                tell(column, 0, patient, at)
            else:
                wrong = _fill(column, wanted, prefetch[wanted.name], about, at)
            wrong = wrong or self._wrong_unit(column, wanted)
            if wrong:
                broken.append((wanted.name, wrong))
            record[wanted.name] = column.values[0]
        return record, broken

    def _wrong_unit(self, column: EventColumn, wanted: _Column) -> str:
        given, expected = column.units[0], wanted.unit
        if given is None or expected is None or wanted.mapped.means_missing(column.values[0]):
            return ""
        same = self._same.get((given, expected))
        if same is None:
            same = same_unit(given, expected)
            if len(self._same) < _LONGEST_UNITS and len(given) < _LONGEST_UNITS:
                self._same[given, expected] = same
        return "" if same else unit_rule(given, expected)


def _column(name: str, mapped: MappedColumn, column: Column) -> _Column:
    kind, fields = asked(mapped)
    if mapped.when == "after":
        raise UsageError(
            f"{name}: its mapping asks for the first event after the record's day, which has not "
            "happened when a patient is scored",
            hint='a column of a model that answers at the bedside needs when = "until" or "any"',
        )
    codes = frozenset(code for several in fields.values() for code in several)
    unit = mapped.unit or column.unit if isinstance(column, NumberColumn) else None
    return _Column(name, kind, codes, mapped, happens(mapped), unit)


def _template(column: _Column) -> str:
    """Return the query for a column's resources, in the part of FHIR that CDS Hooks recommends.

    ``combo-code`` finds a code in a component, too: systolic pressure is one.
    """
    codes = ",".join(
        f"{quote(system, safe=':/')}|{quote(code, safe='')}"
        for system, code in sorted(column.codes)
    )
    patient = "patient={{context.patientId}}"
    if column.kind == "Condition":
        return f"Condition?{patient}&code={codes}"
    newest = f"&_sort=-date&_count={NEWEST}"
    return f"Observation?{patient}&combo-code={codes}{newest}"


def _wrong_patient(patient: Any, patient_id: str) -> str:
    if not isinstance(patient, dict) or patient.get("resourceType") != "Patient":
        return "must be the patient's resource"
    if patient.get("id") != patient_id:
        return _ANOTHER
    if any(link.get("type") == "replaced-by" for link in listed(patient, "link")):
        return "was replaced by another record, which may have the patient's newer data"
    return ""


class _Patient:
    """The patient of a request, and who is meant by a reference."""

    def __init__(self, resource: Resource, server: str) -> None:
        self.resource, self.born = resource, resource.get("birthDate")
        name = f"Patient/{resource['id']}"
        self._names = {name, f"urn:uuid:{resource['id']}", f"urn:oid:{resource['id']}"}
        if server:
            self._names.add(f"{server.rstrip('/')}/{name}")
        self._identifiers = {
            (str(one.get("system") or ""), str(one.get("value") or ""))
            for one in listed(resource, "identifier")[:_MOST_IDENTIFIERS]
        }

    def wrong_subject(self, event: Resource) -> str:
        """Return why a resource is not this patient's; "" if it is."""
        subject = event.get("subject")
        if not isinstance(subject, dict):
            return _NO_SUBJECT
        reference = subject.get("reference")
        if isinstance(reference, str):
            return "" if reference.partition("/_history/")[0] in self._names else _ANOTHER
        identifier = subject.get("identifier")
        if not isinstance(identifier, dict) or not identifier.get("value"):
            return _NO_SUBJECT
        pair = str(identifier.get("system") or ""), str(identifier["value"])
        return "" if pair in self._identifiers else _ANOTHER


def _fill(column: EventColumn, wanted: _Column, sent: Any, patient: _Patient, at: date) -> str:
    """Add what the record system sent for a column; return what is wrong with it, or ""."""
    if sent is None:
        return ""
    if not isinstance(sent, dict):
        return _NO_BUNDLE
    if sent.get("resourceType") == wanted.kind:
        sent = {"resourceType": "Bundle", "entry": [{"resource": sent}]}
    if sent.get("resourceType") == "OperationOutcome":
        return _ERROR
    entries = sent.get("entry", [])
    if sent.get("resourceType") != "Bundle" or not isinstance(entries, list):
        return _NO_BUNDLE
    if len(entries) > _MOST_RESOURCES:
        return _MANY
    seen, matches = dict[str, Resource](), list[Resource]()
    for entry in entries:
        event = entry.get("resource") if isinstance(entry, dict) else None
        if not isinstance(event, dict):
            return "has an entry without a resource"
        if event.get("resourceType") != wanted.kind:
            if _reports_error(event):
                return _ERROR
            if not _is_beside(entry, event):
                return _OTHERS
            continue
        if wrong := patient.wrong_subject(event):
            return wrong
        matches.append(event)
        before = seen.setdefault(str(event["id"]), event) if event.get("id") else event
        if before is event:
            _add(column, wanted, event, patient, at)
        elif before != event:
            return _TWO_STATES
    total = sent.get("total")
    paged = "link" in sent and any(link.get("relation") == "next" for link in listed(sent, "link"))
    if paged or (isinstance(total, int) and total > len(matches)):
        return _wrong_page(column, wanted, matches)
    return ""


def _wrong_page(column: EventColumn, wanted: _Column, matches: list[Resource]) -> str:
    """Return why the first page of several is not enough; "" if it is.

    Observations come newest first, as they are asked for. An older page cannot change a value then.
    """
    if wanted.happened or column.values[0] is None:
        return _PAGE
    days = [span.last for event in matches if (span := observed(event)) is not None]
    newest_first = all(later >= earlier for later, earlier in pairwise(days))
    return "" if newest_first and len(days) == len(matches) else _PAGE


def _is_beside(entry: Any, resource: Resource) -> bool:
    """Return whether an entry is no match of the search, but was sent beside the matches."""
    search = entry.get("search")
    mode = search.get("mode") if isinstance(search, dict) else None
    return mode in ("include", "outcome") or resource.get("resourceType") == "OperationOutcome"


def _reports_error(resource: Resource) -> bool:
    return resource.get("resourceType") == "OperationOutcome" and any(
        issue.get("severity") in ("error", "fatal") or issue.get("code") in _INCOMPLETE
        for issue in listed(resource, "issue")
    )


def _add(
    column: EventColumn, wanted: _Column, event: Resource, patient: _Patient, at: date
) -> None:
    if _has_code(event, wanted) and counts(event):
        add(column, 0, at, event, event, patient.born)
    for part in listed(event, "component") if "component" in event else ():
        if _has_code(part, wanted) and counts(event):
            add(column, 0, at, event, part, patient.born)


def _has_code(part: Resource, wanted: _Column) -> bool:
    return any(code[:2] in wanted.codes for code in codings(part.get("code")))
