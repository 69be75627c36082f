"""The console's page of a monitor's period: evidence of the whole series, with a plot."""

from __future__ import annotations

import pytest

from flo.server.studies.publish import result_path
from flo.study.document import Study
from tests.flo.published.test_monitor_series import result
from tests.monitored import period
from tests.server.console.test_console import Browser, coordinator, operator
from tests.server.continued import finished
from tests.server.real_coordinator import RealCoordinator

__all__ = ["coordinator", "operator"]
pytestmark = pytest.mark.processes


def signed_here(coordinator: RealCoordinator, study: Study, more: float) -> None:
    home = coordinator.home
    made = result(study, more, identity=home.open_identity())
    file = result_path(home, study, made.run)
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(made.to_bytes())
    sums = made.sums.model_dump(mode="json")
    finished(home, study, {"rounds": 1, "epsilon": 0.3, "monitor": sums}, str(file))


def test_the_page_of_a_period_says_what_all_periods_show(
    coordinator: RealCoordinator, operator: Browser
) -> None:
    studies = list[Study]()
    for more in (5.0, 160.0, 170.0):
        studies.append(period(*studies))
        signed_here(coordinator, studies[-1], more)
    _, _, page = operator.get(f"/console/studies/{studies[-1].digest}")
    for words in (
        "Outcomes across hospitals",
        "alarm: patients have the outcome more often",
        "watched, version 1",
        "<svg",
        "period 1",
        "of 100; 85 and less is an alarm",
    ):
        assert words in page, words
    _, _, first = operator.get(f"/console/studies/{studies[0].digest}")
    assert "no alarm: the evidence is not enough" in first
    assert "Release gate" not in page
    result_path(coordinator.home, studies[0], "run-1").write_text("{}")
    _, _, page = operator.get(f"/console/studies/{studies[-1].digest}")
    assert "cannot be read" in page, "the study is shown all the same"


def test_a_period_without_a_result_has_no_evidence_yet(
    coordinator: RealCoordinator, operator: Browser
) -> None:
    study = period(model="cd" * 32)
    finished(coordinator.home, study, {"rounds": 0, "epsilon": 0.3}, "")
    _, _, page = operator.get(f"/console/studies/{study.digest}")
    assert "Outcomes across hospitals" not in page
