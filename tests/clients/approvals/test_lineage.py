"""A lineage says nothing false about the studies that a hospital approved itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from flo.clients.approvals.lineage import refuse_false_lineage
from flo.errors import TrustError
from flo.privacy.accounting.plan import Plan
from flo.study import usual
from flo.study.document import Study, from_document
from tests.builders import small_study
from tests.flo.continued import ancestor, continuing

FIRST = small_study(schema_version=4)


def of(study: Study, card: str = "c0" * 32, **changes: Any) -> dict[str, Any]:
    """What an honest coordinator states of a study."""
    stated = {
        "card": card,
        "study": study.digest,
        "name": study.name,
        "version": study.version,
        "epsilon": Plan.of(study).epsilon,
        "delta": study.mechanism.delta,
        "worth": usual.worth(study),
    }
    return stated | changes


SECOND = from_document(
    continuing(of(FIRST), models=("c0" * 32,)).model_dump(mode="json") | {"version": 2}
)
BOTH = (of(FIRST), of(SECOND, "c1" * 32))
APPROVED = {FIRST.digest: FIRST, SECOND.digest: SECOND}


def test_what_is_true_is_taken() -> None:
    refuse_false_lineage(continuing(*BOTH, models=("c1" * 32,)), APPROVED)
    refuse_false_lineage(continuing(ancestor()), APPROVED)  # of others nobody here knows
    refuse_false_lineage(FIRST, APPROVED)


@pytest.mark.parametrize(
    "lie",
    [
        {"name": "harmless"},
        {"version": 7},
        {"epsilon": 0.01},
        {"delta": 1e-9},
        {"worth": 1e9},
    ],
    ids=lambda lie: next(iter(lie)),
)
def test_a_lie_about_a_study_that_was_approved_here_is_refused(lie: dict[str, Any]) -> None:
    with pytest.raises(TrustError, match="calls tiny, version 1, which was approved here"):
        refuse_false_lineage(continuing(of(FIRST, **lie)), APPROVED)


@pytest.mark.parametrize(
    "left", [lambda: [BOTH[1]], lambda: [of(FIRST, "c2" * 32), BOTH[1]]], ids=["left out", "other"]
)
def test_what_an_ancestor_learnt_from_is_not_left_out(
    left: Callable[[], list[dict[str, Any]]],
) -> None:
    with pytest.raises(TrustError, match="leaves out what tiny, version 2, learnt from"):
        refuse_false_lineage(continuing(*left(), models=("c1" * 32,)), APPROVED)


def test_no_lineage_is_refused() -> None:
    with pytest.raises(TrustError, match="does not state what"):
        refuse_false_lineage(continuing(), {})
