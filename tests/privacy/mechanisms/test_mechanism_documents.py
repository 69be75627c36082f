"""A mechanism survives its document, and no other document is a mechanism."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given

from flo.documents import canonical
from flo.errors import MessageError
from flo.privacy.mechanisms.mechanisms import Histogram, Mechanism, from_document
from tests.privacy.every_mechanism import (
    COUNTS,
    FULL,
    GROUPED,
    INF,
    NAN,
    SAMPLED,
    document,
    every_mechanism,
    mechanisms,
)

WHOLE = {"length", "groups"}


def without(mechanism: Mechanism, name: str) -> dict[str, Any]:
    return {key: value for key, value in mechanism.as_document().items() if key != name}


@given(mechanisms)
def test_a_mechanism_survives_its_document(mechanism: Mechanism) -> None:
    data = canonical.encode(mechanism.as_document())
    found = from_document(canonical.decode(data, limit=1000, what="mechanism"))
    assert found == mechanism
    assert type(found) is type(mechanism)


def test_documents_are_these_and_no_others() -> None:
    # They stand in signed ledgers and reports: a change needs a reader for the old ones.
    shared = {"length": 7, "noise_multiplier": 3.25, "clip": 0.5}
    assert FULL.as_document() == {"kind": "full-batch-sum", **shared}
    assert SAMPLED.as_document() == {"kind": "poisson-sum", **shared, "sampling": 0.25}
    assert GROUPED.as_document() == {
        "kind": "histogram",
        "length": 8,
        "noise_multiplier": 3.25,
        "groups": 4,
    }


@every_mechanism
def test_a_document_with_a_field_too_many_too_few_or_of_no_number_is_refused(
    mechanism: Mechanism,
) -> None:
    wrong = [document(mechanism, epsilon=0.0), document(mechanism, delta=0.0)]
    numbers: list[Any] = [INF, -INF, NAN, -1, 0, True, False]
    for name, right in mechanism.as_document().items():
        wrong.append(without(mechanism, name))
        for value in (None, [], {}, "", "7", "wide", [1.0], *numbers):
            wrong.append(document(mechanism, **{name: value}))
        # A whole number is written as one; what overflows a float is no number here.
        wrong.append(document(mechanism, **{name: float(right) if name in WHOLE else 10**400}))
    for malformed in wrong:
        with pytest.raises(MessageError, match="not a mechanism"):
            from_document(malformed)


@pytest.mark.parametrize(
    "malformed",
    [
        *(None, 7, 7.5, True, "full-batch-sum", b"kind", [], {}, [1, 2], {1: 2}),
        ["kind", "clip", "length", "noise_multiplier"],
        document(kind="subsampled-sum"),
        document(kind="none"),
        document(kind=["full-batch-sum"]),
        document(kind="Full-Batch-Sum"),
        document(FULL, kind="poisson-sum"),  # sampling is missing
        document(SAMPLED, kind="full-batch-sum"),  # sampling is left over
        document(FULL, kind="histogram"),
        document(COUNTS, kind="full-batch-sum"),
    ],
    ids=repr,
)
def test_an_unknown_or_malformed_mechanism_is_refused_and_never_free(malformed: Any) -> None:
    with pytest.raises(MessageError, match="not a mechanism"):
        from_document(malformed)


OLD = {"kind": "score-histogram", "clip": 1.0, "length": 8, "noise_multiplier": 3.0}


def test_a_histogram_as_flo_0_1_wrote_it_is_a_histogram_of_one_group() -> None:
    assert from_document(OLD) == Histogram(8, 3.0, groups=1)
    assert OLD["kind"] == "score-histogram"  # the document itself is left alone


@pytest.mark.parametrize(
    "malformed",
    [
        {**OLD, "clip": 0.5},
        {**OLD, "clip": 2.0},
        {**OLD, "clip": None},
        {key: value for key, value in OLD.items() if key != "clip"},
        {key: value for key, value in OLD.items() if key != "length"},
        {**OLD, "sampling": 0.5},
        {**OLD, "noise_multiplier": 0.0},
        {**OLD, "kind": "histogram"},
    ],
    ids=repr,
)
def test_an_old_histogram_that_was_never_written_is_refused(malformed: Any) -> None:
    with pytest.raises(MessageError, match="not a mechanism"):
        from_document(malformed)


@pytest.mark.parametrize("malformed", [{**OLD, "groups": 5}, {**OLD, "clip": True}], ids=repr)
def test_an_old_histogram_with_a_field_it_never_had_is_refused(malformed: Any) -> None:
    with pytest.raises(MessageError, match="not a mechanism"):
        from_document(malformed)


def test_a_list_of_pairs_is_no_document() -> None:
    with pytest.raises(MessageError, match="not a mechanism"):
        from_document([[key, value] for key, value in document().items()])
