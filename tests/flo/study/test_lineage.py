"""Which models a study may continue, and that everybody approves the whole lineage."""

from __future__ import annotations

from typing import Any

import pytest

from flo.errors import StudyError
from flo.study.document import from_document
from flo.study.lineage import MOST_ANCESTORS, MOST_MODELS, Ancestor
from flo.study.loading import from_canonical
from tests.builders import small_study, study_document, surveyed
from tests.flo.continued import CARD, ancestor, continuing
from tests.flo.studies import SURVEY


def test_a_study_without_it_is_written_as_before() -> None:
    assert b"continues" not in small_study(schema_version=4).canonical_bytes
    assert small_study(schema_version=4).lineage == ()


def test_every_field_of_the_lineage_is_approved() -> None:
    plain = continuing(ancestor())
    assert from_canonical(plain.canonical_bytes) == plain
    others: dict[str, Any] = {
        "study": "d1" * 32,
        "name": "other",
        "version": 2,
        "epsilon": 0.5,
        "delta": 1e-7,
        "worth": 51.0,
    }
    digests = {continuing(ancestor(**{name: value})).digest for name, value in others.items()}
    digests |= {plain.digest, continuing().digest, continuing(models=("c1" * 32,)).digest}
    digests |= {continuing(ancestor(2, card=CARD), ancestor(3)).digest}
    assert len(digests) == len(others) + 4


def test_filling_in_the_lineage_changes_nothing_else() -> None:
    lineage = [Ancestor.model_validate(ancestor(number)) for number in (2, 1)]
    filled = continuing().with_lineage(lineage)
    assert filled == continuing(ancestor(2), ancestor(1))
    assert [one.title for one in filled.lineage] == [
        "tiny, version 2 (ε = 0.7500)",
        "tiny, version 1 (ε = 0.7500)",
    ]


def test_a_survey_of_a_study_that_continues_a_model_continues_none() -> None:
    assert surveyed(continuing(ancestor()), **SURVEY).continues is None


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"schema_version": 3}, "only a study of schema_version = 4 continues a model"),
        ({"survey": SURVEY}, "a survey has no model"),
        ({"continues": {}}, "continues.models"),
        ({"continues": {"models": []}}, "at least 1"),
        ({"continues": {"models": ["x"]}}, "continues.models"),
        ({"continues": {"models": [CARD, CARD]}}, "a model appears twice"),
        (
            {"continues": {"models": [f"{n:064}" for n in range(MOST_MODELS + 1)]}},
            f"at most {MOST_MODELS}",
        ),
        (
            {"continues": {"models": [CARD], "lineage": [ancestor(2)]}},
            "a model that is continued is missing",
        ),
        (
            {"continues": {"models": [CARD], "lineage": [ancestor(1), ancestor(1)]}},
            "a study appears twice",
        ),
        (
            {"continues": {"models": [CARD], "lineage": [ancestor(), ancestor(2, card=CARD)]}},
            "a study appears twice",
        ),
        ({"continues": {"models": [CARD], "lineage": [ancestor(epsilon=0)]}}, "epsilon"),
        ({"continues": {"models": [CARD], "lineage": [ancestor(name="../x")]}}, "name"),
        ({"continues": {"models": [CARD], "weights": [1]}}, "weights"),
        (
            {
                "continues": {"models": [CARD, "c1" * 32]},
                "model": {"kind": "mlp", "hidden": [3]},
            },
            "2 models, limit 1 for a model of kind mlp",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_continued_is_refused(changes: dict[str, Any], why: str) -> None:
    document = study_document(schema_version=4, continues={"models": [CARD]})
    with pytest.raises(StudyError, match=why):
        from_document(document | changes)


def test_a_lineage_has_a_limit() -> None:
    many = [ancestor(card=f"{n:064}", study=f"{n:064}") for n in range(MOST_ANCESTORS + 1)]
    with pytest.raises(StudyError, match=f"at most {MOST_ANCESTORS}"):
        continuing(*many, models=(f"{0:064}",))
