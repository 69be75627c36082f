"""A study's words: people read them, and no input of a model depends on them."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from flo.errors import StudyError
from flo.privacy.report.sheet import sections
from flo.study.columns import CategoryColumn, NumberColumn
from flo.study.document import Study, from_document
from flo.study.gate_draft import all_columns
from flo.study.names import LONGEST_WORDS
from flo.study.wording import can_change, changed_to, code_in_words, means_the_same, titles
from tests.builders import small_study

PLAIN = small_study()
AGE, WARD = PLAIN.data.columns
SURGERY = ["surgery", "medicine", "intensive care"]
WORDS: list[dict[str, Any]] = [
    {"about": "age at admission", "changeable_to": 0, "changeable_from": "above"},
    {"about": "ward", "meanings": SURGERY, "changeable_to": "a"},
]


def worded(*words: dict[str, Any]) -> Study:
    """The small study whose columns say this about themselves, too."""
    document = PLAIN.model_dump(mode="json")
    for column, own in zip(document["data"]["columns"], words, strict=False):
        column |= own
    return from_document(document)


def test_a_study_without_words_has_the_digest_it_had() -> None:
    for name in (b"about", b"meanings", b"changeable_to", b"changeable_from"):
        assert name not in PLAIN.canonical_bytes
        assert name in worded(*WORDS).canonical_bytes, "also a value of 0 is kept"
    assert worded(*WORDS).digest != PLAIN.digest


def test_columns_codes_and_aims_are_said_in_the_studys_words() -> None:
    study = worded(*WORDS)
    age, ward = study.data.columns
    assert titles(study.data) == {"age": "age at admission", "ward": "ward"}
    assert titles(PLAIN.data) == {"age": "age", "ward": "ward"}
    assert isinstance(ward, CategoryColumn)
    assert [code_in_words(ward, code) for code in "ab"] == ["a (surgery)", "b (medicine)"]
    assert isinstance(age, NumberColumn)
    assert [changed_to(one) for one in (age, ward)] == ["0 years", "a (surgery)"]
    assert can_change(study.data)
    assert not can_change(PLAIN.data)


def test_a_steward_reads_the_words_before_saying_yes() -> None:
    said = dict(line for section in sections(worded(*WORDS)) for line in section.lines)
    assert said["column 'age'"].startswith("age at admission: 0 to 100 years")
    assert said["column 'age'"].endswith("care can bring a patient who is above to 0 years")
    assert "a (surgery), b (medicine), c (intensive care)" in said["column 'ward'"]


def test_meanings_that_look_like_names_are_shown_to_the_steward() -> None:
    document = PLAIN.model_dump(mode="json")
    names = "Mary Anna Emma Laura Julia Maria Thomas Peter"
    people = [f"{name} Byron" for name in names.split()]
    codes = [str(number) for number in range(8)]
    document["data"]["columns"][1] |= {"codes": codes, "meanings": people}
    told = [line for section in sections(from_document(document)) for line in section.lines]
    assert (
        "column 'ward', LOOK CLOSELY",
        "meanings of codes that look like names of people",
    ) in told


def test_two_columns_are_not_called_alike() -> None:
    for words in (({"about": "Ward"},), ({"about": "days"}, {"about": "days"})):
        with pytest.raises(StudyError, match="two columns are called"):
            worded(*words)


@pytest.mark.parametrize(
    ("number", "wrong"),
    [
        (0, {"about": ""}),
        (0, {"about": "x" * (LONGEST_WORDS + 1)}),
        (0, {"about": "one; two"}),
        (0, {"about": "one\u202etwo"}),
        (0, {"changeable_to": 100.5, "changeable_from": "above"}),
        (0, {"changeable_to": 50}),
        (0, {"changeable_from": "above"}),
        (1, {"changeable_to": "d"}),
        (1, {"meanings": ["surgery", "medicine"]}),
        (1, {"meanings": ["one; two", "three", "four"]}),
        (1, {"meanings": ["home", "home", "four"]}),
    ],
)
def test_words_that_do_not_fit_are_refused(number: int, wrong: dict[str, Any]) -> None:
    column = (AGE, WARD)[number]
    with pytest.raises(ValidationError):
        type(column).model_validate(column.model_dump() | wrong)


def test_versions_of_a_study_may_differ_in_words_but_not_in_what_a_code_means() -> None:
    more = worded(*WORDS).data.columns
    assert all(map(means_the_same, more, PLAIN.data.columns))
    assert not means_the_same(PLAIN.data.columns[1], more[1]), "a meaning is never dropped"
    assert [one.name for one in all_columns(worded(*WORDS), PLAIN)] == ["age", "ward"]
    recoded = worded(WORDS[0], WORDS[1] | {"meanings": ["children", *SURGERY[1:]]})
    assert not means_the_same(recoded.data.columns[1], more[1])
    with pytest.raises(StudyError, match="two meanings of column 'ward'"):
        all_columns(recoded, worded(*WORDS))
    wider = AGE.model_copy(update={"maximum": 120.0})
    assert not means_the_same(wider, AGE)
    assert not means_the_same(AGE, WARD)
