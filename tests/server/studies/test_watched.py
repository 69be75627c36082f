"""A monitor watches this coordinator's model, and its series leaves out no earlier period."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from flo.errors import StudyError
from flo.server.studies.watched import with_watched_model
from flo.study.document import Study, from_document
from flo.study.monitor_draft import draft
from tests.builders import small_study
from tests.monitored import CARD, WATCHED, period
from tests.privacy.releases.test_gate import CURVE


def drafted(version: int = 1, **terms: Any) -> Study:
    document = draft(CARD, WATCHED, epsilon=0.3, period=version, new_patients=20)
    document["monitor"] |= terms
    return from_document(document)


def of(study: Study, calibration: Any = CURVE) -> Any:
    return lambda _: (SimpleNamespace(calibration=calibration), study)


def signed(*several: Study) -> list[tuple[Study, str]]:
    return [(one, "done") for one in several]


def test_signing_adds_the_model_and_every_earlier_period() -> None:
    other = period(watched=small_study(schema_version=4, name="other"))
    first = with_watched_model(drafted(), [(WATCHED, "done")], of(WATCHED))
    assert first == period()
    before = signed(WATCHED, first, small_study(name="between"))
    second = with_watched_model(drafted(2), before, of(WATCHED))
    assert second == period(first)
    assert second.monitor is not None
    assert second.monitor.period == 2
    assert with_watched_model(second, before, of(WATCHED)) == second, "signing again adds nothing"
    assert with_watched_model(first, signed(first, second), of(WATCHED)) == first
    assert other.monitor is not None


def test_a_period_of_another_model_is_of_another_series() -> None:
    other = period(model="cd" * 32)
    found = with_watched_model(drafted(2), signed(other), of(WATCHED))
    assert found.monitor is not None
    assert found.monitor.period == 1


def test_one_period_is_released_at_a_time() -> None:
    with pytest.raises(
        StudyError, match="period 1 of this model, watched-v1-monitor:1, is running"
    ):
        with_watched_model(drafted(2), [(period(), "running")], of(WATCHED))


def test_a_series_keeps_its_terms() -> None:
    with pytest.raises(StudyError, match=r"tolerance = 1\.5, and an earlier period"):
        with_watched_model(drafted(2, tolerance=1.5), signed(period()), of(WATCHED))


def test_a_study_cannot_leave_out_a_period_but_add_those_that_were_lost() -> None:
    """A coordinator that was restored from a backup lacks some, and hospitals name them."""
    first, lost = period(), "ef" * 32
    model = first.asked_models[0]
    short = drafted(2).with_watched(model, [lost])
    with pytest.raises(StudyError, match="leaves out periods that were signed here"):
        with_watched_model(short, signed(first), of(WATCHED))
    more = drafted(2).with_watched(model, [first.digest, lost])
    found = with_watched_model(more, signed(first), of(WATCHED))
    assert found == more
    assert found.monitor is not None
    assert found.monitor.period == 3
    following = with_watched_model(
        drafted(3).with_watched(model, [first.digest, lost, found.digest]),
        signed(first, found),
        of(WATCHED),
    )
    assert following.monitor is not None
    assert following.monitor.period == 4


def test_a_series_has_an_end() -> None:
    many = [f"{number:064x}" for number in range(239)]
    full = drafted(300).with_watched(period().asked_models[0], many)
    assert with_watched_model(full, [], of(WATCHED)) == full
    with pytest.raises(StudyError, match="this would be period 241 of the model, limit 240"):
        with_watched_model(drafted(301), signed(*[_numbered(n) for n in range(240)]), of(WATCHED))


def _numbered(version: int) -> Study:
    return drafted(version + 1)


def test_another_model_than_the_cards_is_refused() -> None:
    other = period().asked_models[0].model_copy(update={"name": "other"})
    with pytest.raises(StudyError, match="describes another model than its card"):
        with_watched_model(drafted().with_watched(other, []), [], of(WATCHED))


def test_a_model_without_calibrated_risks_cannot_be_watched() -> None:
    with pytest.raises(StudyError, match="states no calibrated risks"):
        with_watched_model(drafted(), [], of(WATCHED, None))


def test_a_model_of_another_outcome_cannot_be_watched() -> None:
    data = WATCHED.model_dump(mode="json")["data"] | {"label": "dead"}
    other = small_study(schema_version=4, name="watched", data=data)
    with pytest.raises(StudyError, match="monitor: the model of watched, version 1, has the label"):
        with_watched_model(drafted(), [], of(other))
