"""Of a FHIR export nothing vanishes: it is read, or told, or the export is refused."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from flo.clients.sources.fhir import FhirExport
from flo.errors import DataError, UsageError
from tests.clients.sources.exports import (
    CHOL,
    ILL,
    LOINC,
    cells,
    chol,
    code,
    ill,
    patient,
    read,
    write,
)

IDENTIFIED = [{"system": "urn:x", "value": "7"}]
OTHERS = [
    {"reference": "https://fhir.example.org/R4/Patient/b"},
    {"reference": "Patient/b/_history/2"},
    {"reference": "urn:uuid:b"},
    {"identifier": {"system": "urn:x", "value": "7"}},
    {"reference": "Patient?identifier=urn:x|7"},
    {"reference": "https://fhir.example.org/R4/Patient?identifier=urn:x%7C7"},
]


def told(source: FhirExport, field: Any, **mapped: Any) -> tuple[dict[Any, int], dict[str, int]]:
    """Doubts by their name, and notes."""
    (batch,) = read(source, field, **mapped)
    return {(kind, column): n for (kind, column, _), n in batch.to_accept.items()}, batch.notes


def lines(*resources: dict[str, Any]) -> str:
    return "".join(json.dumps(resource) + "\n" for resource in resources)


# -- whom a reference means -----------------------------------------------------------------------


@pytest.mark.parametrize("subject", OTHERS, ids=str)
def test_a_patient_is_found_by_every_kind_of_reference(
    tmp_path: Path, subject: dict[str, Any]
) -> None:
    source = write(
        tmp_path, patient("a"), patient("b", identifier=IDENTIFIED), ill(subject=subject)
    )
    assert cells(source, ILL) == [0, 1]


def test_an_event_by_an_identifier_of_several_patients_is_each_ones(tmp_path: Path) -> None:
    """So nobody who claims another's identifier takes their events away."""
    both = [patient("a", identifier=IDENTIFIED), patient("b", identifier=IDENTIFIED)]
    event = ill(subject={"identifier": IDENTIFIED[0]})
    source = write(tmp_path, *both, patient("c"), event)
    assert cells(source, ILL) == [1, 1, 0]
    _, notes = told(source, ILL)
    rule = "events under an identifier that several patients have, which count for each of them"
    assert notes == {f"x: {rule}": 1}


@pytest.mark.parametrize("kind", ["replaced-by", "replaces", "refer", "seealso"])
@pytest.mark.parametrize("other", OTHERS, ids=str)
def test_of_two_resources_of_a_patient_the_one_that_says_so_is_left_out(
    tmp_path: Path, kind: str, other: dict[str, Any]
) -> None:
    linked = patient("a", link=[{"other": other, "type": kind}])
    source = write(tmp_path, linked, patient("b", identifier=IDENTIFIED), patient("c"))
    (batch,) = read(source, "patient:age")
    assert batch.ids.to_pylist() == ["b", "c"]
    assert list(batch.notes.values()) == [1, 1]


def test_only_who_is_in_the_export_is_counted_as_left_out(tmp_path: Path) -> None:
    link = [{"other": {"reference": "Patient/gone"}, "type": "replaces"}]
    (batch,) = read(write(tmp_path, patient("a", link=link), patient("b")), "patient:age")
    assert list(batch.notes.values()) == [1]


def test_a_mother_who_is_her_childs_relative_is_not_left_out(tmp_path: Path) -> None:
    link = [{"other": {"reference": "RelatedPerson/b"}, "type": "seealso"}]
    assert cells(write(tmp_path, patient("a", link=link), patient("b")), "patient:age") == [70, 70]


def test_events_of_nobody_in_the_export_are_a_doubt_and_few_are_a_note(tmp_path: Path) -> None:
    lost = chol(200, subject={"reference": "Patient/z"})
    doubts, notes = told(write(tmp_path, patient(), chol(200), lost), CHOL)
    assert (doubts, notes) == ({("lost events", "x"): 1}, {})
    doubts, notes = told(write(tmp_path, patient(), *[chol(200)] * 100, lost), CHOL)
    assert (doubts, notes) == ({}, {"x: events of a patient who is not in the export": 1})


def test_a_resource_that_is_there_in_two_states_is_refused(tmp_path: Path) -> None:
    twice = [(patient("a"), patient("a", gender="male"))]
    twice += [(chol(200, id="1"), chol(200, id="1", status="entered-in-error"))]
    for one, other in twice:
        source = write(tmp_path, patient("b"), one, other)
        with pytest.raises(DataError, match="two different versions of"):
            cells(source, CHOL)
    other = {**chol(200, id="1"), "code": code(LOINC, "x")}
    assert cells(write(tmp_path, patient(), chol(200, id="1"), other), CHOL) == [200]


# -- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["a/b/Condition.ndjson", "C.NDJSON", "C.ndjson.gz", "x/C.Ndjson.GZ"]
)
def test_every_file_of_the_export_is_read(tmp_path: Path, name: str) -> None:
    write(tmp_path, patient("a"), patient("b"), ill())
    other = lines(ill(subject={"reference": "Patient/b"})).encode()
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(gzip.compress(other) if name.lower().endswith("gz") else other)
    assert cells(FhirExport(tmp_path, "id"), ILL) == [1, 1]


def test_a_file_of_several_types_is_read_wherever_they_stand(tmp_path: Path) -> None:
    encounter = {"resourceType": "Encounter", "id": "e"}
    mixed = lines(encounter, patient("a"), ill(), encounter, patient("b"), chol(200))
    (tmp_path / "all.ndjson").write_text(mixed)
    for _ in range(2):  # what a file holds is remembered
        source = FhirExport(tmp_path, "id")
        assert cells(source, ILL) == [1, 0]
        assert cells(source, CHOL) == [200, None]


def test_a_huge_line_of_another_type_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flo.clients.sources.fhir_files._LONGEST_LINE", 400)
    source = write(tmp_path, patient(), ill())
    report = {"resourceType": "DocumentReference", "data": "A" * 3000}
    for text in (lines(report, report, patient("b")), lines(patient("b"), report)):
        (tmp_path / "reports.ndjson").write_text(text)
        assert cells(FhirExport(tmp_path, "id"), ILL) == [1, 0]
    (tmp_path / "reports.ndjson.gz").write_bytes(
        gzip.compress(lines(chol(1, x="y" * 3000)).encode())
    )
    with pytest.raises(DataError, match=r"reports\.ndjson\.gz, line 1: more than"):
        cells(FhirExport(tmp_path, "id"), CHOL)
    assert source.name == tmp_path.name


@pytest.mark.parametrize("name", ["Observation.ndjson", "Encounter.ndjson", "Encounter.ndjson.gz"])
def test_a_file_that_was_cut_off_is_noticed(tmp_path: Path, name: str) -> None:
    """Also where its last line holds no code that anybody wants."""
    write(tmp_path, patient(), chol(200))
    other = {**chol(1), "code": code(LOINC, "other"), "resourceType": name.split(".")[0]}
    whole = lines(other, other).encode()
    packed = gzip.compress(whole)[:-12] if name.endswith("gz") else whole[:-60]
    (tmp_path / name).write_bytes(packed)
    with pytest.raises(DataError, match=r"is not JSON|not a complete gzip file"):
        cells(FhirExport(tmp_path, "id"), CHOL)


def test_what_is_within_a_bundle_is_not_lost_without_a_word(tmp_path: Path) -> None:
    write(tmp_path, patient())
    bundle = {"resourceType": "Bundle", "entry": [{"resource": patient("b")}]}
    (tmp_path / "deleted.ndjson").write_text(lines(bundle))
    with pytest.raises(DataError, match="is a Bundle"):
        cells(FhirExport(tmp_path, "id"), "patient:age")


def test_the_log_of_an_export_is_no_fault_and_a_line_without_a_type_is(tmp_path: Path) -> None:
    source = write(tmp_path, patient())
    (tmp_path / "log.ndjson").write_text('{"eventId": "kickoff"}\n{"eventId": "done"}\n')
    assert cells(FhirExport(tmp_path, "id"), "patient:age") == [70]
    (tmp_path / "Patient.ndjson").write_text(f"{lines(patient())}{{}}\n{lines(patient('b'))}")
    with pytest.raises(DataError, match=r"Patient\.ndjson, line 2: is not a resource"):
        cells(source, "patient:age")


# -- several fields, and codes that are not there --------------------------------------------------

ICD = "condition:http://hl7.org/fhir/sid/icd-10|I25.1,I25.2"


def test_a_list_of_fields_is_one_column_of_all_their_events(tmp_path: Path) -> None:
    coded = {**ill(), "code": code("http://hl7.org/fhir/sid/icd-10", "I25.2")}
    source = write(tmp_path, patient(), coded)
    assert cells(source, ICD) == [1]
    assert cells(source, [ILL, ICD]) == [1]
    assert cells(write(tmp_path, patient(), ill()), [ILL, ICD]) == [1]


@pytest.mark.parametrize(
    ("field", "why"),
    [
        (f"{ILL},http://hl7.org/fhir/sid/icd-10|I25.1", "more than one system"),
        ("condition:urn:x|", "an empty code"),
        ([ILL, CHOL], "both conditions and observations"),
        ([ILL, "patient:deceased"], "not a field of a FHIR export"),
    ],
)
def test_a_field_that_makes_no_sense_is_refused(tmp_path: Path, field: Any, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        cells(write(tmp_path, patient(), ill()), field)


def test_a_resource_that_is_there_twice_and_alike_counts_once(tmp_path: Path) -> None:
    """Servers give one several times, where what was asked for overlaps."""
    one = [patient("a", identifier=[{"system": "urn:x", "value": "7"}]), patient("b")]
    events = [chol(200, id="1", subject={"identifier": {"system": "urn:x", "value": "7"}})]
    source = write(tmp_path, *one, *one, *events, *events)
    assert [batch.ids.to_pylist() for batch in read(source, CHOL)] == [["a", "b"]]
    assert cells(source, CHOL) == [200, None]


def test_what_lies_beside_and_is_not_read_is_a_doubt(tmp_path: Path) -> None:
    (tmp_path / "export").mkdir()
    (tmp_path / "more").mkdir()
    assert told(write(tmp_path / "export", patient(), ill()), ILL)[0] == {}
    (tmp_path / "export" / "linked").symlink_to(tmp_path / "more")
    for name in ("Condition.jsonl", "Condition.2.ndjson.bz2", "readme.txt", "._Patient.ndjson"):
        (tmp_path / "export" / name).write_bytes(b"x")
    (tmp_path / "export" / "Old.ndjson").mkdir()
    again = FhirExport(tmp_path / "export", "id")
    assert told(again, ILL)[0] == {("unread files", ""): 3}


def test_a_condition_of_which_there_is_none_anywhere_is_a_doubt(tmp_path: Path) -> None:
    """A slip of the pen in its code would make everybody healthy."""
    source = write(tmp_path, patient(), ill())
    assert told(source, [ILL, "condition:http://snomed.info/sct/|53741008"])[0] == {
        ("nothing found", "x"): 0
    }
    doubts, notes = told(source, f"{ILL},1")
    assert (doubts, list(notes.values())) == ({}, [1])
    refuted = write(tmp_path, patient(), ill(verificationStatus="refuted"))
    assert told(refuted, ILL)[0] == {("nothing counts", "x"): 1}
