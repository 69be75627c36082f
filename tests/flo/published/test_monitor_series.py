"""A monitor's signed periods: what they say together, and which belong together."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from flo.errors import TrustError
from flo.keys.identity import Signer
from flo.published.monitor_result import MonitorResult, MonitorSums
from flo.published.monitor_series import series
from flo.published.monitor_words import odds_plot, rows, shown, table
from flo.study.document import Study
from tests.flo.published_models import COORDINATOR, MALLORY
from tests.monitored import period

TRUSTED = COORDINATOR.fingerprint


def result(
    study: Study,
    more: float,
    variance: float = 333.0,
    identity: Signer = COORDINATOR,
    made: datetime | None = None,
) -> MonitorResult:
    """A signed period; ``made``: a day of January 2026, if nothing else is said."""
    assert study.monitor is not None
    made = made or datetime(2026, 1, study.monitor.period, tzinfo=UTC)
    return MonitorResult(
        study=study.canonical_bytes.decode(),
        study_signature=identity.sign("study", study.canonical_bytes),
        run=f"run-{study.version}",
        made=made.isoformat(),
        report=None,
        without_extract=(),
        coordinator=identity.public.hex(),
        sums=MonitorSums(
            asked="ab" * 32, hospitals=("north", "south", "west"), values=(more, variance)
        ),
    ).signed(identity)


def chain(count: int) -> list[Study]:
    made = list[Study]()
    for _ in range(count):
        made.append(period(*made))
    return made


def test_the_evidence_of_all_periods_raises_an_alarm() -> None:
    studies = chain(6)
    quiet = series([result(one, 0.0) for one in studies], TRUSTED)
    assert not quiet.alarms
    assert quiet.last.health == 100
    assert dict(rows(quiet))["verdict"].startswith("no alarm")
    loud = series([result(one, 150.0) for one in reversed(studies)], TRUSTED)
    assert loud.alarms
    first = loud.alarms[0]
    until = series([result(one, 150.0) for one in studies[: first.number]], TRUSTED)
    assert until.last.evidence.alarm
    assert until.last.health <= 85
    said = dict(rows(until))
    assert "more often than the model states" in said["verdict"]
    assert said["this period"].startswith(f"period {first.number}: ")
    assert table(until)[0][3].endswith(", alarm")
    assert odds_plot(until) is not None


def test_a_period_without_a_result_adds_nothing_and_is_named() -> None:
    studies = chain(4)
    found = series([result(studies[n], 40.0) for n in (0, 3)], TRUSTED)
    assert found.missing == (2, 3)
    both = series([result(studies[n], 40.0) for n in (0, 1)], TRUSTED)
    assert found.last.evidence == both.last.evidence
    assert dict(rows(found))["without a result"].startswith("periods 2, 3")


def test_few_patients_have_no_figure() -> None:
    found = series([result(period(), 3.0, 20.0)], TRUSTED)
    assert "too few patients for a figure" in dict(rows(found))["this period"]
    assert odds_plot(found) is None


def test_results_of_two_series_are_not_added() -> None:
    first, second = chain(2)
    other = period(tolerance=1.5)
    with pytest.raises(TrustError, match="of another series"):
        series([result(other, 0.0), result(second, 0.0)], TRUSTED)
    with pytest.raises(TrustError, match="two results of period 1"):
        series([result(first, 9.0), result(first, 0.0)], TRUSTED)
    with pytest.raises(TrustError, match="of another series"):
        series([result(first, 0.0), result(second, 0.0), result(period(other), 0.0)], TRUSTED)


def test_periods_of_other_terms_are_refused_even_if_they_are_named() -> None:
    other = period(tolerance=1.5)
    with pytest.raises(TrustError, match=r"period 1: tolerance = 1\.25"):
        series([result(other, 0.0), result(period(other), 0.0)], TRUSTED)


def test_only_the_coordinators_results_count() -> None:
    with pytest.raises(TrustError, match="signed by another coordinator"):
        series([result(period(), 0.0, identity=MALLORY)], TRUSTED)
    forged = result(period(), 0.0)
    moved = forged.model_copy(
        update={"sums": forged.sums.model_copy(update={"values": (9.0, 9.0)})}
    )
    with pytest.raises(TrustError):
        series([moved], TRUSTED)
    with pytest.raises(TrustError, match="there is no result"):
        series([], TRUSTED)


def test_an_alarm_stands_though_evidence_begins_anew() -> None:
    """A reader of the next month must not take it for over."""
    one, two, three = chain(3)
    found = series([result(one, 300.0), result(two, 0.0), result(three, 0.0)], TRUSTED)
    assert [period.number for period in found.alarms] == [1]
    assert not found.last.evidence.alarm
    assert found.last.health > 85 >= found.health
    said = dict(rows(found))
    assert said["verdict"].startswith("alarm in period 1; it stands")
    assert said["health"].startswith("85 of 100")
    assert said["read"] == "3 signed results, up to period 3"


@pytest.mark.parametrize(
    ("health", "said"), [(100.0, 100), (99.2, 100), (85.3, 86), (85.0, 85), (84.9, 84), (0.0, 0)]
)
def test_health_is_85_or_less_in_an_alarm_only(health: float, said: int) -> None:
    assert shown(health) == said
