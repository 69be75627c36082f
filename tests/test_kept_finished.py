"""Finished models, as the first versions that made them wrote them (``tests/kept``).

``v8``: of yes or no, schema 1. ``v22``: of the time to an event, schema 2.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from flo.clients.records.finished_model import FinishedModel
from flo.documents import canonical
from flo.documents.document import parse
from flo.errors import UsageError

KEPT = Path(__file__).parent / "kept" / "v8" / "finished.json"
KEPT_TIMES = Path(__file__).parent / "kept" / "v22" / "finished.json"


def test_a_kept_finished_model_is_read_with_all_that_screens_show() -> None:
    document = canonical.decode(KEPT.read_bytes(), limit=1 << 20, what="kept", values=1 << 16)
    found = parse(FinishedModel, document, "kept")
    assert (found.schema_version, found.population, found.trained, found.tested) == (
        *(1, "main"),
        *(document["trained"], document["tested"]),
    )
    assert len(found.weights) == 6
    assert set(found.fits) == {"published", "finished", "alone"}
    assert found.gain is not None
    shown = found.finished
    assert (shown.low, shown.auc, shown.high) == pytest.approx((0.802, 0.898, 0.95), abs=0.001)
    (risk,) = shown.risks
    assert (risk.of, risk.error) == ("", document["finished"]["brier"])
    assert (risk.predicted, risk.observed) == pytest.approx(
        (document["finished"]["predicted"], document["finished"]["observed"])
    )
    assert sum(patients for _, _, patients in risk.curve) == found.tested
    assert found.measure == "AUC"


def test_a_kept_finished_model_of_times_is_read_with_each_horizon() -> None:
    document = canonical.decode(KEPT_TIMES.read_bytes(), limit=1 << 20, what="kept", values=1 << 16)
    found = parse(FinishedModel, document, "kept")
    assert (found.schema_version, found.measure, found.values) == (2, "concordance", False)
    assert len(found.weights) == 8, "five inputs and three periods"
    for fit in found.fits.values():
        assert [risk.of for risk in fit.risks] == ["by 10 days", "by 30 days", "by 60 days"]
        assert {risk.error for risk in fit.risks} == {None}
    assert found.to_bytes() == KEPT_TIMES.read_bytes()


def test_a_finished_model_of_a_later_version_is_refused() -> None:
    document = canonical.decode(KEPT.read_bytes(), limit=1 << 20, what="kept", values=1 << 16)
    with pytest.raises(UsageError, match="schema_version"):
        parse(FinishedModel, document | {"schema_version": 3}, "kept")
