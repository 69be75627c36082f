"""Patients of a FHIR export: their ids, references to them, and links between two of them.

A reference (https://hl7.org/fhir/R4/references.html) names a patient by the resource's id, as
``Patient/ID`` with or without an address, or as ``urn:uuid:ID``; or by an identifier, in its own
element or as ``Patient?identifier=SYSTEM|VALUE``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import date
from functools import cached_property
from typing import Any
from urllib.parse import parse_qs

from flo.clients.sources.events import EventColumn, years_between
from flo.clients.sources.fhir_days import span
from flo.clients.sources.fhir_files import BulkFiles, Resource, listed
from flo.errors import DataError

_ID = re.compile(r"(?:(?:^|.*/)Patient/|urn:(?:uuid|oid):)?([^/#?|]+)(?:[/#?].*)?")
_KEPT = ("birthDate", "gender", "deceasedBoolean", "deceasedDateTime", "_deceasedDateTime")


class FhirPatients:
    """All patients of an export, by their position in it, from 0.

    ``names``: their ids here. ``merged``: patients whose own resource states a link with another
    patient. ``named``: patients that such a link names, and that state none. ``inactive``: number
    of patients that are marked as no longer in use.

    One patient's resource never changes another patient's records: a link removes the patient that
    states it, and an event by an identifier that several patients have counts for each of them.
    """

    def __init__(self, files: BulkFiles, id_column: str) -> None:
        """Raises DataError if the export holds two states of a patient."""
        self._files = files
        self.names = list[str]()
        self.merged, self.inactive = set[int](), 0
        self._known, self._places = list[Resource](), dict[str, int]()
        links = list[tuple[int, Any]]()
        for place, patient in enumerate(_different(files)):
            if key := str(patient.get("id") or ""):
                self._places[key] = place
            self.names.append(name_of(patient, id_column))
            self._known.append({name: patient[name] for name in _KEPT if name in patient})
            self.inactive += patient.get("active") is False
            links += [(place, one.get("other")) for one in listed(patient, "link")]
        stated = [(place, other) for place, other in links if not _is_relative(other)]
        self.merged |= {place for place, _ in stated}
        self.named = {one for _, other in stated for one in self.meant(other)} - self.merged

    def born(self, place: int) -> Any:
        """Return the date of birth, as it is written."""
        return self._known[place].get("birthDate")

    def died(self, place: int) -> date | None:
        """Return the first day on which the patient may have died; None if no day is stated."""
        found = span(self._known[place].get("deceasedDateTime"))
        return None if found is None else found.first

    def tell(self, column: EventColumn, record: int, place: int, at: date) -> None:
        """Fill one cell of a column with a field of the patient."""
        tell(column, record, self._known[place], at)

    def meant(self, reference: Any) -> list[int]:
        """Return all patients that a reference means: for an identifier, each one that has it."""
        if not isinstance(reference, dict):
            return []
        text = reference.get("reference")
        if isinstance(text, str):
            found = _ID.fullmatch(text)
            if found and found[1] in self._places:
                return [self._places[found[1]]]
            for token in parse_qs(text.partition("?")[2]).get("identifier", ()):
                system, _, value = token.rpartition("|")
                if places := self._by_identifier.get((system, value)):
                    return places
        identifier = reference.get("identifier")
        if not isinstance(identifier, dict):
            return []
        return self._by_identifier.get(_pair(identifier), [])

    @cached_property
    def _by_identifier(self) -> dict[tuple[str, str], list[int]]:
        """Patients by identifier; read only if a reference needs them, because there are many."""
        found: dict[tuple[str, str], list[int]] = {}
        for place, patient in enumerate(_different(self._files)):
            for pair in {_pair(one) for one in listed(patient, "identifier")}:
                found.setdefault(pair, []).append(place)
        return found


def tell(column: EventColumn, record: int, patient: Resource, at: date) -> None:
    """Fill one cell of a column with a field of this patient; the record's day is ``at``."""
    if column.mapped.field == "patient:gender":
        column.values[record] = patient.get("gender")
    elif column.mapped.field == "patient:age":
        born = span(patient.get("birthDate"))
        column.values[record] = None if born is None else years_between(born.first, at)
    elif (died := span(patient.get("deceasedDateTime"))) is not None:
        column.add(record, at, died)
    elif patient.get("deceasedBoolean") is True:  # on an unknown day
        column.values[record] = 1 if column.mapped.when == "any" else None
    elif {"deceasedDateTime", "_deceasedDateTime"} & patient.keys():  # not a valid day
        column.values[record] = None


def names(files: BulkFiles, id_column: str) -> Iterator[str]:
    """Return the id of each patient here."""
    return (name_of(patient, id_column) for patient in files.resources("Patient"))


def name_of(patient: Resource, id_column: str) -> str:
    """Return the id, or the value of the identifier with the system ``id_column``; "" for none.

    Several values also give "", because it is not known which one to charge; the gate refuses it.
    """
    if id_column == "id":
        return str(patient.get("id") or "")
    own = {
        str(one.get("value") or "")
        for one in listed(patient, "identifier")
        if one.get("system") == id_column and one.get("use") != "old"
    }
    return own.pop() if len(own) == 1 else ""


def _different(files: BulkFiles) -> Iterator[Resource]:
    """Yield each patient once: servers may give the same one in several files."""
    known: dict[str, int] = {}
    for patient in files.resources("Patient"):
        key = str(patient.get("id") or "")
        state = state_of(patient)
        if key not in known or not key:
            known[key] = state
            yield patient
        elif known[key] != state:
            raise in_two_states("Patient")


def state_of(resource: Resource) -> int:
    """Return a number that is the same for the same resource, within this process."""
    return hash(json.dumps(resource, sort_keys=True))


def in_two_states(kind: str) -> DataError:
    """Return the error for two resources of one id that differ: it is unknown which one is true."""
    return DataError(
        f"the export holds two different versions of a resource of type {kind}",
        hint="export everything again, into an empty folder",
    )


def _pair(identifier: Resource) -> tuple[str, str]:
    return str(identifier.get("system") or ""), str(identifier.get("value") or "")


def _is_relative(reference: Any) -> bool:
    """Return whether a link names a RelatedPerson, which is no second patient id.

    For example, a mother may be linked with herself as her child's relative.
    """
    if not isinstance(reference, dict):
        return False
    text = str(reference.get("reference") or "")
    return reference.get("type") == "RelatedPerson" or "RelatedPerson/" in text
