"""What a header or a codebook says about who a patient is, and what only looks so."""

from __future__ import annotations

import itertools

import pytest

from flo.datasets import DATASETS
from flo.errors import StudyError
from flo.study import identifier_patterns
from flo.study.columns import CategoryColumn, tells_who
from flo.study.loading import load
from tests.builders import small_study, study_document
from tests.paths import EXAMPLES

GIVEN = ["Ada", "Anna", "Hans", "Fatima", "Wei", "Jos\u00e9", "Piotr", "Laura", "Ahmed", "Priya"]
FAMILY = ["Moser", "Keller", "O'Neill", "Garc\u00eda", "Nowak", "Yilmaz", "Chen", "Rossi", "Silva"]
PEOPLE = [f"{given} {family}" for given, family in itertools.product(GIVEN, FAMILY)]
STRANGERS = [f"{a}{b}{c}a {c}{a}{b}o" for a, b, c in itertools.product("BDKLM", "aeiou", "nrstvz")]
WARDS = ["St. Anna", "St. Maria", "Sankt Georg", "San Pietro", "Saint Paul", "Santa Maria"] * 2
FINDINGS = ["typical angina", "atypical angina", "non-anginal", "asymptomatic", "lv hypertrophy"]
NOTES = [
    f"feels {word} since the last visit to us" for word in ["ill", "well", "tired", "weak"]
] * 5


@pytest.mark.parametrize(
    "header",
    [
        *("first_name", "LastName", "patient.surname", "mother_first_name", "Name", "Vorname"),
        *("Pr\u00e9nom", "apellidos", "e-mail", "phone_number", "home address", "ZIP code", "PLZ"),
        *("MRN", "patient-id", "NHS number", "ssn", "dob", "Date of birth", "Geburtsdatum"),
    ],
)
def test_a_header_that_tells_who_somebody_is(header: str) -> None:
    assert identifier_patterns.of_header(header) is not None


@pytest.mark.parametrize(
    "header",
    [
        *("drug_name", "ward name", "named", "age", "nominal", "num.co", "has_email_address"),
        *("renal_failure", "address_changes", "phonetics", "birth_weight", "record", "smoker"),
    ],
)
def test_a_header_that_does_not(header: str) -> None:
    assert identifier_patterns.of_header(header) is None


@pytest.mark.parametrize(
    "codes",
    [
        *(PEOPLE, [name.upper() for name in PEOPLE], PEOPLE[9:19], GIVEN, STRANGERS),
        [f"{name.split()[1]}, {name.split()[0]}" for name in PEOPLE],
    ],
    ids=["people", "capitals", "few", "given names", "names that nobody listed", "turned"],
)
def test_a_codebook_of_names(codes: list[str]) -> None:
    assert identifier_patterns.names_people(codes)


@pytest.mark.parametrize("codes", [WARDS, FINDINGS, STRANGERS[:99], NOTES, ["m", "f"]])
def test_codes_that_name_nobody(codes: list[str]) -> None:
    assert not identifier_patterns.names_people(codes)


def test_drugs_and_their_forms_are_not_taken_for_first_and_last_names() -> None:
    codes = [f"drug{a}{b}in {form}" for a in "abcde" for b in "vwxyz" for form in ("oral", "iv")]
    assert not identifier_patterns.names_people([*codes, *(f"{code} slow" for code in codes)])


def test_sentences_are_free_text_and_answers_are_not() -> None:
    assert identifier_patterns.free_text(NOTES)
    assert not identifier_patterns.free_text(NOTES[:9])
    assert not identifier_patterns.free_text([*NOTES[:10], *FINDINGS, *STRANGERS[:6]])
    assert not identifier_patterns.free_text(["+41 44 555 12 34"] * 20)


@pytest.mark.slow
def test_no_column_of_an_example_is_refused() -> None:
    """Codebooks of real patients, with seats, diagnoses and 51 states."""
    seen = 0
    for file in EXAMPLES.glob("*/*.toml"):
        for column in load(file).data.columns:
            assert tells_who(column) is None, (file, column.name)
            seen += isinstance(column, CategoryColumn)
    assert seen >= 25
    states = [name.replace("-", " ").title() for name in DATASETS["fars"]()]
    assert not identifier_patterns.names_people(states)


@pytest.mark.parametrize(
    ("column", "words"),
    [
        ({"kind": "number", "name": "first_name", "unit": "1", "minimum": 0, "maximum": 1}, "name"),
        ({"kind": "category", "name": "cp", "codes": PEOPLE}, "codebook that names people"),
        ({"kind": "category", "name": "cp", "codes": [*{*NOTES}, *map(str.title, {*NOTES}),
                                                      *map(str.upper, {*NOTES})]}, "free text"),
    ],
    ids=["header", "codebook", "text"],
)  # fmt: skip
def test_no_study_with_such_a_column_is_checked_or_signed(
    column: dict[str, object], words: str
) -> None:
    document = study_document()
    document["data"]["columns"].append(column)
    study = small_study(data=document["data"])
    with pytest.raises(StudyError, match=words):
        study.refuse_identifying()


def test_no_label_tells_who_a_patient_is() -> None:
    data = study_document()["data"] | {"label": "surname"}
    with pytest.raises(StudyError, match="the outcome's column 'surname'"):
        small_study(data=data).refuse_identifying()
