"""What a monitor across hospitals finds is done at each hospital as its own plan says."""

from __future__ import annotations

import asyncio
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import pytest

from flo.clients.home.site_home import SiteHome
from flo.clients.prediction import monitor_news, versions
from flo.clients.watching import plan_decisions
from flo.clients.watching.kept import KeptWatch
from flo.clients.watching.shown import shown
from flo.study.document import Study
from tests.clients.prediction.told import Told, api
from tests.clients.serving.served_site import V9, AtWork, put_into_use, version_of
from tests.clients.serving.test_watched import WATCHED, asked, counts, during, home, record
from tests.commands import flo
from tests.flo.published.test_monitor_series import result
from tests.monitored import period

__all__ = ["home"]


def arrived(home: SiteHome, count: int, more: float = 100.0, made: datetime | None = None) -> None:
    """So many periods of version 9's monitor; with 100 more outcomes each, the second alarms."""
    studies, told = list[Study](), Told(V9)
    for _ in range(count):
        studies.append(period(*studies, watched=V9.open().study, card=V9.card.digest))
    told.results = [result(one, more, made=made or datetime.now(UTC)) for one in studies]
    monitor_news.fetch(home, api(told), version_of(V9))


def planned(home: SiteHome, action: str) -> None:
    plan_decisions.decide(home, "tiny", 30, {"hospitals": action}, "Ada", "the board")


def entries(home: SiteHome) -> list[dict[str, Any]]:
    with closing(home.open_audit_log()) as log:
        return [one.facts for one in log.entries() if one.kind == "watch-alarm"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("action", "answers"), [("fall back", "1"), ("stop", "503"), ("finish", "9"), ("tell", "9")]
)
def test_the_plan_is_obeyed(home: SiteHome, action: str, answers: str) -> None:
    planned(home, action)

    async def work(at: AtWork) -> None:
        assert await asked(at, record()) == "9"
        await counts(home, [1, 1, 1])
        arrived(home, 1)
        await asyncio.sleep(0.2)
        assert await asked(at, record()) == "9", "one period is not enough evidence"
        arrived(home, 2)
        while not entries(home):
            await asyncio.sleep(0.02)
        while await asked(at, record()) != answers:
            await asyncio.sleep(0.02)

    during(home, work)
    (entry,) = entries(home)
    assert (entry["about"], entry["of"], entry["action"]) == ("hospitals", "", action)


@pytest.mark.slow
def test_an_alarm_of_before_the_version_was_put_into_use_is_settled(home: SiteHome) -> None:
    planned(home, "stop")
    arrived(home, 2)
    put_into_use(home, V9)

    async def work(at: AtWork) -> None:
        assert await asked(at, record()) == "9"
        kept = await counts(home, [1, 1, 1])
        await asyncio.sleep(0.3)
        assert await asked(at, record()) == "9"
        assert kept.watch.health == 100
        arrived(home, 4)  # and the fourth period raises another one
        while await asked(at, record()) != "503":
            await asyncio.sleep(0.02)

    during(home, work)
    assert len(entries(home)) == 1


@pytest.mark.slow
def test_a_person_settles_it_and_the_evidence_begins_anew(home: SiteHome) -> None:
    async def work(at: AtWork) -> None:
        assert await asked(at, record()) == "9"
        await counts(home, [1, 1, 1])
        arrived(home, 2)
        while not entries(home):
            await asyncio.sleep(0.02)

    during(home, work)
    ended = flo("model", "watch", "tiny", "--home", home.directory)
    screen = " ".join((ended.stdout + ended.stderr).split())
    for words in (
        "health 78 of 100",
        "alarm 1: at all hospitals together: more outcomes than the model states",
        "found in period 2 of its monitor",
        "verdict: alarm: patients have the outcome more often",
    ):
        assert words in screen, screen
    settle = "model", "settle", "tiny", "1", "--why", "the card was corrected"
    refused = flo(*settle, "--as-usual", "--home", home.directory)
    assert "which are compared with the card's" in refused.stderr
    assert flo(*settle, "--home", home.directory).returncode == 0
    with closing(KeptWatch(home, WATCHED)) as kept:
        assert not kept.take([], 30, datetime.now(UTC).timestamp())
        found = shown(kept.watch, datetime.now(UTC).date().toordinal())
        assert found.health == 100
        assert dict(found.across)["this period"].startswith("period 2")
        arrived(home, 3)
        assert not kept.take([], 30, datetime.now(UTC).timestamp())
        assert kept.watch.health < 100
        arrived(home, 4)
        (alarm,) = kept.take([], 30, datetime.now(UTC).timestamp())
        assert alarm.number == 2


def test_a_damaged_file_of_results_stops_no_monitor_of_this_hospital(home: SiteHome) -> None:
    arrived(home, 2, more=0.0)
    (versions.folder_of(home, version_of(V9)) / "monitor.json").write_text("{}")

    async def work(at: AtWork) -> None:
        assert await asked(at, record()) == "9"
        await counts(home, [1, 1, 1])

    during(home, work)
