"""One patient's resources become the record that a bulk export of them would become."""

from __future__ import annotations

import json
import random
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flo.clients.quality import rules
from flo.clients.quality.inputs import Inputs
from flo.clients.quality.table import read
from flo.clients.sources.fhir_prefetch import PrefetchReader
from flo.clients.sources.mapping import StudyMapping, record_fields
from flo.errors import UsageError
from flo.scoring.record import RecordEncoder
from flo.study.schema import Schema
from tests.clients.sources.exports import LOINC, chol, code, ill, patient, write

SNOMED, OWN = "http://snomed.info/sct", "https://hospital.example/codes"
AT = date(2021, 1, 1)
COLUMNS: list[dict[str, Any]] = [
    {"kind": "number", "name": "age", "unit": "years", "minimum": 0, "maximum": 110},
    {"kind": "category", "name": "sex", "codes": ["Female", "Male"], "missing": "indicator"},
    {"kind": "number", "name": "crea", "unit": "mg/dL", "minimum": 0.1, "maximum": 20}
    | {"missing": "indicator", "missing_value": 1.0},
    {"kind": "number", "name": "sbp", "unit": "mm[Hg]", "minimum": 0, "maximum": 300}
    | {"missing": "indicator", "missing_value": 120},
    {"kind": "category", "name": "cp", "codes": ["1", "2", "3"], "missing": "indicator"},
    {"kind": "category", "name": "diabetes", "codes": ["0", "1"]},
    {"kind": "category", "name": "dead", "codes": ["0", "1"], "missing": "indicator"},
]
SCHEMA = Schema.model_validate({"record": "visit", "label": "ill", "columns": COLUMNS})
MAPPED: dict[str, Any] = {
    "age": {"field": "patient:age"},
    "sex": {"field": "patient:gender", "codes": {"male": "Male", "female": "Female"}},
    "crea": {"field": [f"observation:{LOINC}|2160-0,14682-9", f"observation:{OWN}|krea"]}
    | {"unit": "umol/L", "multiply": 0.0113, "missing": ["999"]},
    "sbp": {"field": f"observation:{LOINC}|8480-6", "when": "any"},
    "cp": {"field": f"observation:{OWN}|cp", "codes": {"LA1": "1", "LA2": "2", "typical": "3"}},
    "diabetes": {"field": f"condition:{SNOMED}|44054006,46635009"},
    "dead": {"field": "patient:deceased"},
}
MAPPING = StudyMapping.model_validate_json(
    json.dumps({"columns": MAPPED | {"ill": {"field": "patient:deceased"}}, "as_of": str(AT)})
)
READER = PrefetchReader(MAPPING, SCHEMA)
ENCODER = RecordEncoder(SCHEMA.columns, record_fields(READER.mapping))
Outcome = tuple[bytes | None, frozenset[tuple[str, str]]]
DAYS = ("2020-01-01", "2020-06-02T10:00:00Z", "2020-06-02T11:30:00+02:00", "2021-01-01", "2021")
LATER = ("2021-01-02", "2022-03", "not a day", "2020-12", "2020-02-30")


def made_up(dice: random.Random, name: str) -> list[dict[str, Any]]:
    """A patient and what was observed, right and wrong."""
    about = {"subject": {"reference": f"Patient/{name}"}}
    own = patient(name, birthDate=dice.choice(["1950-06-15", "1970", "1999-12", "2020-02-30"]))
    own |= dice.choice([{}, {"gender": "male"}, {"gender": "female"}, {"gender": "other"}])
    own |= dice.choice([{}, {}, {"deceasedBoolean": True}, {"deceasedDateTime": "2020-05-05"}])
    found = [own]
    for number in range(dice.randrange(12)):
        more: dict[str, Any] = {**about, "id": f"{name}-{number}"}
        if dice.random() < 0.3:
            more["status"] = dice.choice(["preliminary", "amended", "entered-in-error"])
        day = dice.choice([*DAYS, *LATER, None])
        number_ = dice.choice([80, 88.4, 120, 999, 5000, 0, -1, None])
        quantity: dict[str, Any] = {"value": number_, "code": dice.choice(["umol/L", "µmol/l"])}
        if dice.random() < 0.1:
            quantity["code"] = dice.choice(["mg/dL", "", "odd"])
        if dice.random() < 0.1:
            quantity["comparator"] = "<"
        match dice.randrange(6):
            case 0 | 1:
                which = dice.choice([(LOINC, "2160-0"), (LOINC, "14682-9"), (OWN, "krea")])
                found.append(chol(0, day, valueQuantity=quantity, **more, code=code(*which)))
            case 2:
                parts = [
                    {"code": code(LOINC, "8480-6"), "valueQuantity": {"value": v, "unit": "mmHg"}}
                    for v in dice.sample([110, 130.5, 400], dice.randrange(1, 3))
                ]
                made = chol(0, day, **more, component=parts, code=code(LOINC, "85354-9"))
                found.append({k: v for k, v in made.items() if k != "valueQuantity"})
            case 3:
                value: dict[str, Any] = dice.choice(
                    [
                        {"valueCodeableConcept": code(OWN, dice.choice(["LA1", "LA2", "LA9"]))},
                        {"valueCodeableConcept": {"text": "typical"}},
                        {"valueString": dice.choice(["2", "typical", " 3 ", ""])},
                        {"valueInteger": dice.choice([1, 2, 7])},
                        {"valueBoolean": True},
                        {"valueRange": {}},
                        {},
                    ]
                )
                made = chol(0, day, **more, **value, code=code(OWN, "cp"))
                found.append({k: v for k, v in made.items() if k != "valueQuantity"})
            case _:
                ill_of = dice.choice(["44054006", "46635009", "1"])
                status = code("http://x", dice.choice(["confirmed", "refuted", "unconfirmed"]))
                told = {"verificationStatus": status} if dice.random() < 0.5 else {}
                found.append(ill(day, **more, **told, code=code(SNOMED, ill_of)))
    return found


def by_export(folder: Path, resources: list[dict[str, Any]], count: int) -> list[Outcome]:
    table = read(write(folder, *resources), SCHEMA, MAPPING)
    found = rules.broken(table, SCHEMA, "", labelled=False)
    broken = [
        frozenset((one.column, one.rule) for one in found if row + 1 in one.rows)
        for row in range(count)
    ]
    inputs = Inputs.of(table, SCHEMA).encoded()
    return [(None if wrong else inputs[row].tobytes(), wrong) for row, wrong in enumerate(broken)]


def prefetched(resources: list[dict[str, Any]]) -> dict[str, Any]:
    """What a record system sends for the templates, each in a Bundle of its own; null for none."""
    own: dict[str, Any] = {"patient": resources[0]}
    for key, query in READER.templates.items():
        if key == "patient":
            continue
        kind, _, rest = query.partition("?")
        assert rest.startswith("patient={{context.patientId}}&")
        wanted = {
            tuple(pair.split("|")) for pair in rest.split("code=")[1].split("&")[0].split(",")
        }
        entries = [
            {"resource": one}
            for one in resources[1:]
            if one["resourceType"] == kind
            and wanted
            & {
                (coding["system"], coding["code"])
                for part in (one, *one.get("component", ()))
                for coding in part["code"]["coding"]
            }
        ]
        bundle = {"resourceType": "Bundle", "type": "searchset", "entry": entries}
        own[key] = bundle if entries else None
    return own


def at_once(name: str, prefetch: dict[str, Any]) -> Outcome:
    record, broken = READER.read(name, prefetch, AT)
    found = ENCODER.encode(record) if not broken else None
    if found is None or found.inputs is None:
        further = ENCODER.encode(record).broken
        return None, frozenset([*broken, *further])
    return np.asarray(found.inputs).tobytes(), frozenset()


def compared(exports: int, seed: int, folder: Path) -> tuple[int, int]:
    dice, right, refused = random.Random(seed), 0, 0
    for _ in range(exports):
        several = [made_up(dice, f"p{number}") for number in range(5)]
        expected = by_export(folder, [one for own in several for one in own], 5)
        for number, (own, wanted) in enumerate(zip(several, expected, strict=True)):
            found = at_once(f"p{number}", prefetched(own))
            assert found == wanted, own
            right, refused = right + (found[0] is not None), refused + (found[0] is None)
    return right, refused


@pytest.mark.slow
def test_a_patient_is_read_or_refused_as_in_an_export(tmp_path: Path) -> None:
    right, refused = compared(60, 1, tmp_path)
    assert min(right, refused) > 30


@pytest.mark.slow  # 15 s
def test_two_thousand_patients_are_read_or_refused_as_in_an_export(tmp_path: Path) -> None:
    right, refused = compared(400, 2, tmp_path)
    assert min(right, refused) > 200


CREA = chol(0, code=code(LOINC, "2160-0"), valueQuantity={"value": 88, "code": "umol/L"}, id="o1")


def whole(*observations: dict[str, Any], **more: Any) -> dict[str, Any]:
    bundle = {"resourceType": "Bundle", "entry": [{"resource": one} for one in observations]}
    return {**prefetched([patient("a", gender="male")]), "crea": {**bundle, **more}}


def broken(prefetch: dict[str, Any], name: str = "a") -> dict[str, str]:
    return dict(READER.read(name, prefetch, AT)[1])


@pytest.mark.parametrize(
    ("subject", "rule"),
    [
        ({"reference": "Patient/b"}, "is about another patient"),
        ({"reference": "https://ehr/fhir/Patient/b"}, "is about another patient"),
        ({"reference": "Group/a"}, "is about another patient"),
        ({"identifier": {"system": "urn:x", "value": "1"}}, "is about another patient"),
        ({"display": "Jane Doe"}, "has a resource that names no patient"),
        (None, "has a resource that names no patient"),
    ],
)
def test_resources_of_another_patient_are_refused(subject: Any, rule: str) -> None:
    assert broken(whole(CREA | {"subject": subject})) == {"crea": rule}


@pytest.mark.parametrize(
    "subject",
    [
        {"reference": "Patient/a"},
        {"reference": "https://ehr/fhir/Patient/a"},
        {"reference": "Patient/a/_history/3"},
        {"reference": "urn:uuid:a"},
        {"identifier": {"system": "urn:x", "value": "1"}},
    ],
)
def test_the_patient_may_be_named_as_fhir_allows(subject: Any) -> None:
    prefetch = whole(CREA | {"subject": subject})
    prefetch["patient"] |= {"identifier": [{"system": "urn:x", "value": "1"}]}
    record, wrong = READER.read("a", prefetch, AT, "https://ehr/fhir")
    assert (record["crea"], wrong) == (88, [])
    if "https" in str(subject):
        assert READER.read("a", prefetch, AT, "https://other")[1] == [
            ("crea", "is about another patient")
        ]


def test_another_patients_own_resource_is_refused() -> None:
    assert broken(whole(CREA), "b") == {"patient": "is about another patient"}
    assert (
        "replaced"
        in broken({**whole(CREA), "patient": patient("a", link=[{"type": "replaced-by"}])})[
            "patient"
        ]
    )
    wrong: Any
    for wrong in (None, {}, [], "Patient/a", {"resourceType": "Person", "id": "a"}):
        assert broken({**whole(CREA), "patient": wrong}).keys() == {"patient"}


def test_what_is_incomplete_is_refused_by_column() -> None:
    following = {"link": [{"relation": "next", "url": "https://ehr/next"}]}
    assert broken(whole(CREA, **following)) == {}, "older values cannot change the newest"
    nothing = {k: v for k, v in CREA.items() if k != "valueQuantity"}
    assert "first page" in broken(whole(nothing, **following))["crea"]
    failed = {"resourceType": "OperationOutcome", "issue": [{"severity": "error"}]}
    warned = {"resourceType": "OperationOutcome", "issue": [{"severity": "warning"}]}
    assert "reports an error" in broken(whole(CREA, failed))["crea"]
    assert broken(whole(CREA, warned)) == {}
    rising = [{**CREA, "id": f"o{n}", "effectiveDateTime": f"2019-0{n}-01"} for n in (1, 2, 3)]
    assert "first page" in broken(whole(*rising, **following))["crea"], "not newest first"
    assert broken(whole(*rising[::-1], **following)) == {}
    assert "first page" in broken(whole(*rising, total=900))["crea"]
    assert broken(whole(*rising, total=3)) == {}
    told = {"resourceType": "OperationOutcome", "issue": [{"code": "incomplete"}]}
    assert "reports an error" in broken(whole(CREA, told))["crea"]
    swapped = {**whole(), "diabetes": whole(CREA)["crea"]}
    assert broken(swapped) == {"diabetes": "has resources of another type"}
    none = {"resourceType": "Bundle", "total": 3}
    assert "first page" in broken({**whole(), "diabetes": none})["diabetes"]
    other = {**CREA, "valueQuantity": {"value": 99, "code": "umol/L"}}
    assert "two versions" in broken(whole(CREA, other))["crea"]
    assert broken(whole(CREA, CREA)) == {}
    sent: Any
    for sent in ([], "x", 5, {"resourceType": "List"}, {"resourceType": "Bundle", "entry": {}}):
        assert broken({**whole(), "crea": sent}).keys() == {"crea"}
    crowd = [CREA | {"id": str(number)} for number in range(5001)]
    assert "more than 5000" in broken(whole(*crowd))["crea"]


def test_a_single_resource_is_taken_as_it_is() -> None:
    assert READER.read("a", {**whole(), "crea": CREA}, AT)[0]["crea"] == 88


def test_the_templates_ask_for_what_is_mapped_and_no_more() -> None:
    assert READER.templates == {
        "patient": "Patient/{{context.patientId}}",
        "crea": "Observation?patient={{context.patientId}}&combo-code="
        f"{LOINC}|14682-9,{LOINC}|2160-0,{OWN}|krea&_sort=-date&_count=50",
        "sbp": "Observation?patient={{context.patientId}}&combo-code="
        f"{LOINC}|8480-6&_sort=-date&_count=50",
        "cp": "Observation?patient={{context.patientId}}&combo-code="
        f"{OWN}|cp&_sort=-date&_count=50",
        "diabetes": "Condition?patient={{context.patientId}}&code="
        f"{SNOMED}|44054006,{SNOMED}|46635009",
    }
    lacks: dict[str, Any] = {"patient": {}, "crea": None}
    assert READER.missing_keys(lacks) == ["sbp", "cp", "diabetes"]


def test_a_mapping_that_cannot_answer_at_the_bedside_is_refused() -> None:
    later = {**MAPPED, "sbp": {**MAPPED["sbp"], "when": "after"}}
    for columns, why in (
        (later, "after the record's day"),
        ({"age": MAPPED["age"]}, "not mapped"),
        ({**MAPPED, "sbp": {"field": "SBP"}}, "not a field of a FHIR export"),
    ):
        mapping = StudyMapping.model_validate_json(json.dumps({"columns": columns}))
        with pytest.raises(UsageError, match=why):
            PrefetchReader(mapping, SCHEMA)


def test_of_two_values_at_one_time_the_same_counts_in_any_order(tmp_path: Path) -> None:
    first = {**CREA, "issued": "2020-01-01T10:00:00Z"}
    later = {**first, "id": "o0", "issued": "2020-01-01T11:00:00Z"}
    later |= {"valueQuantity": {"value": 99, "code": "umol/L"}}
    for several in ([first, later], [later, first]):
        assert READER.read("a", whole(*several), AT)[0]["crea"] == 99
        (batch,) = write(tmp_path, patient(), *several).read(MAPPING, SCHEMA)
        assert batch.columns["crea"].to_pylist() == [99]


def test_identifiers_of_a_patient_are_read_once_and_up_to_a_limit() -> None:
    known = [{"system": "urn:x", "value": str(number)} for number in range(100_000)]
    prefetch = whole(CREA | {"subject": {"identifier": {"system": "urn:x", "value": "199"}}})
    prefetch["patient"] |= {"identifier": known}
    assert READER.read("a", prefetch, AT)[0]["crea"] == 88
    prefetch = whole(CREA | {"subject": {"identifier": {"system": "urn:x", "value": "200"}}})
    prefetch["patient"] |= {"identifier": known}
    assert broken(prefetch) == {"crea": "is about another patient"}
