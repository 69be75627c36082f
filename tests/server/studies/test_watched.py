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
    document = draft(CARD, WATCHED, epsilon=0.3, period=version)
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
    with pytest.raises(StudyError, match="period 1 of this model, watched-monitor:1, is running"):
        with_watched_model(drafted(2), [(period(), "running")], of(WATCHED))


def test_a_series_keeps_its_terms() -> None:
    with pytest.raises(StudyError, match=r"tolerance = 1\.5, and an earlier period"):
        with_watched_model(drafted(2, tolerance=1.5), signed(period()), of(WATCHED))


def test_periods_that_the_study_states_are_those_that_there_are() -> None:
    first = period()
    short = period(first).with_watched(period(first).asked_models[0], ["ef" * 32])
    with pytest.raises(StudyError, match="other earlier periods than there are"):
        with_watched_model(short, signed(first), of(WATCHED))


def test_a_model_without_calibrated_risks_cannot_be_watched() -> None:
    with pytest.raises(StudyError, match="states no calibrated risks"):
        with_watched_model(drafted(), [], of(WATCHED, None))


def test_a_model_of_another_outcome_cannot_be_watched() -> None:
    data = WATCHED.model_dump(mode="json")["data"] | {"label": "dead"}
    other = small_study(schema_version=4, name="watched", data=data)
    with pytest.raises(StudyError, match="monitor: the model of watched, version 1, has the label"):
        with_watched_model(drafted(), [], of(other))
