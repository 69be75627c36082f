"""What a monitor across hospitals found reaches a hospital whole, signed, and once for all."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest

from flo.clients.home.site_home import SiteHome
from flo.clients.prediction import monitor_news, versions
from flo.clients.prediction.monitor_news import RefusedSeriesError, alarm_of
from flo.errors import TrustError
from flo.published.monitor_result import MonitorResult
from flo.study.document import Study
from tests.builders import make_site, pretend_enrolled
from tests.clients.prediction.told import TWO, V1, V9, Told, api, both_in_use, promote, told_of_both
from tests.commands import flo
from tests.flo.published.test_monitor_series import result
from tests.flo.published_models import COORDINATOR, MALLORY
from tests.monitored import period


@pytest.fixture
def coordinator() -> Told:
    return told_of_both()


@pytest.fixture
def home(tmp_path: Path, coordinator: Told) -> SiteHome:
    """Version 9 is in use, and version 1 was before."""
    site = make_site(tmp_path / "north")
    pretend_enrolled(site, COORDINATOR)
    both_in_use(site, coordinator)
    return site


def periods(count: int, card: str = V9.card) -> list[Study]:
    """Periods of version 9, if no other card is named."""
    made = list[Study]()
    for _ in range(count):
        made.append(period(*made, watched=TWO.open().study, card=card))
    return made


def loud(count: int) -> list[MonitorResult]:
    """So many periods with far too many outcomes: the second one raises an alarm."""
    return [result(study, 100.0) for study in periods(count)]


def no_time(made: str) -> MonitorResult:
    (one,) = loud(1)
    return one.model_copy(update={"made": made}).signed(COORDINATOR)


def numbers(home: SiteHome) -> list[int]:
    found = monitor_news.read(home, V9)
    return [one.number for one in found.periods] if found else []


def test_results_arrive_one_after_the_other_and_are_asked_for_once(
    home: SiteHome, coordinator: Told
) -> None:
    monitor_news.ask(home, api(coordinator))
    assert numbers(home) == []
    coordinator.results = loud(1)
    monitor_news.ask(home, api(coordinator))
    assert numbers(home) == [1]
    assert alarm_of(home, V9) == ""
    coordinator.results = loud(3)
    coordinator.asked.clear()
    monitor_news.ask(home, api(coordinator))
    assert numbers(home) == [1, 2, 3]
    assert coordinator.asked == ["monitor"] * 4, "of each version once more than there is new"
    assert "an alarm in period 2" in alarm_of(home, V9)
    assert alarm_of(home, V1) == ""
    monitor_news.ask(home, api(coordinator))
    assert coordinator.asked == ["monitor"] * 6


def test_a_new_result_is_found_in_the_audit_log(home: SiteHome, coordinator: Told) -> None:
    coordinator.results = loud(2)
    monitor_news.ask(home, api(coordinator))
    entry = home.open_audit_log().last("monitor-read")
    assert entry is not None
    assert entry.study == V9.study
    assert entry.facts == {"version": 9, "period": 2, "alarms": [2]}


@pytest.mark.parametrize(
    ("shown", "why"),
    [
        ([result(periods(1)[0], 0.0, identity=MALLORY)], "coordinator"),
        ([result(periods(1, card=V1.card)[0], 0.0)], "they watch card"),
        ([no_time("yesterday")], "as the time when it was signed"),
        ([no_time("2026-01-01T00:00:00")], "as the time when it was signed"),
        ([*loud(1), result(period(*periods(1), tolerance=1.5), 0.0)], "cannot be added"),
        ([*loud(1), result(periods(1, card=V1.card)[0], 0.0)], "of another series"),
    ],
)
def test_what_is_no_series_of_this_version_is_refused_and_nothing_is_lost(
    home: SiteHome, coordinator: Told, shown: list[MonitorResult], why: str
) -> None:
    coordinator.results = shown[:-1]
    monitor_news.ask(home, api(coordinator))
    before = numbers(home)
    coordinator.results, coordinator.lies = shown, True
    with pytest.raises(RefusedSeriesError, match=why):
        monitor_news.ask(home, api(coordinator))
    assert numbers(home) == before == [1] * (len(shown) - 1)


def test_a_coordinator_cannot_take_a_result_back(home: SiteHome, coordinator: Told) -> None:
    coordinator.results = loud(2)
    monitor_news.ask(home, api(coordinator))
    coordinator.results = []
    monitor_news.ask(home, api(coordinator))
    assert "period 2" in alarm_of(home, V9)


def test_a_damaged_file_is_fetched_again(home: SiteHome, coordinator: Told) -> None:
    coordinator.results = loud(2)
    monitor_news.ask(home, api(coordinator))
    path = versions.folder_of(home, V9) / "monitor.json"
    for damage in (b"[]", b"{", path.read_bytes().replace(b"100.0", b"0.0")):
        path.write_bytes(damage)
        with pytest.raises(TrustError):
            monitor_news.read(home, V9)
        assert alarm_of(home, V9) == ""
        monitor_news.ask(home, api(coordinator))
        assert numbers(home) == [1, 2]


def test_whoever_puts_a_version_into_use_hears_of_its_alarm(
    home: SiteHome, coordinator: Told
) -> None:
    coordinator.results = loud(2)
    promote(home, coordinator, "tiny:9")
    assert "period 2" in alarm_of(home, V9)


def test_the_command_that_puts_a_version_into_use_says_its_alarm(
    home: SiteHome, coordinator: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    coordinator.results = loud(2)
    connected = contextlib.nullcontext(api(coordinator))
    monkeypatch.setattr("flo.clients.connection.enrolment.connect", lambda _: connected)
    done = flo("model", "promote", "tiny:9", "--why", "it was tested", "--home", home.directory)
    screen = " ".join((done.stdout + done.stderr).split())
    assert done.returncode == 0, screen
    assert "has raised an alarm in period 2; this decision settles it here" in screen


def test_of_two_fetches_at_once_the_longer_list_stays(home: SiteHome, coordinator: Told) -> None:
    """The agent is asked for period 1 while a command fetches both."""
    whole = loud(2)
    model = V9

    class Slow(Told):
        def call(self, name: str, body: Any) -> Any:
            answer = super().call(name, body)
            if not answer["result"]:
                monitor_news.fetch(home, api(coordinator), model)
            return answer

    agent = Slow(TWO)
    agent.results, coordinator.results = whole[:1], whole
    found = monitor_news.fetch(home, api(agent), model)
    assert found is not None
    assert [one.number for one in found.periods] == numbers(home) == [1, 2]
