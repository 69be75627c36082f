"""Monitors at work: what is counted of each answer, and what an alarm does."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flo.clients.home.site_home import SiteHome
from flo.clients.patients.opt_outs import hashed_id, opt_out
from flo.clients.prediction import versions
from flo.clients.records import watched_answers
from flo.clients.serving import seen, watching
from flo.clients.watching import plan_decisions
from flo.clients.watching.counts import ANSWERED, ASKED, SCORED
from flo.clients.watching.kept import KeptWatch, Watched
from tests.clients.serving.served_site import (
    V1,
    V9,
    AtWork,
    at_work,
    hook,
    put_into_use,
    served_site,
    version_of,
)
from tests.clients.watching.builders import a_dull_month

SCORE, HOOK, OUTCOMES = "/models/tiny/score", "/cds-services/tiny", "/models/tiny/outcomes"
WATCHED = Watched.of(V9.open())


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SiteHome:
    """Version 9 is in use; version 1 was in use before."""
    monkeypatch.setattr(watching, "_GATHER_SECONDS", 0.02)
    monkeypatch.setattr(watching, "_LOOK_SECONDS", 0.05)
    return served_site(tmp_path / "north")


def during(home: SiteHome, work: Callable[[AtWork], Awaitable[None]]) -> None:
    async def run() -> None:
        async with at_work(home) as at:
            await asyncio.wait_for(work(at), 60)

    asyncio.run(run())


_PATIENTS = itertools.count()


def record(age: float = 50, ward: str = "b", **more: Any) -> dict[str, Any]:
    """A request about a patient of its own, if no other is named."""
    who = {"patient": f"somebody {next(_PATIENTS)}"}
    return {"record": {"age": age, "ward": ward}} | who | more


async def asked(at: AtWork, body: dict[str, Any]) -> str:
    """The version that answered, or the outcome."""
    response = await at.clients["local"].post(SCORE, json=body)
    return str(response.json().get("version", response.status_code))


async def counts(home: SiteHome, wanted: list[int]) -> KeptWatch:
    """The file, once these many were answered, asked and scored."""
    while True:
        if watched_answers.path_of(home, WATCHED.id).exists():
            with closing(KeptWatch(home, WATCHED)) as kept:
                found = kept.watch.hospital.since(0)[[ANSWERED, ASKED, SCORED]].tolist()
            if found == wanted:
                return kept
        await asyncio.sleep(0.02)


def test_each_answer_is_counted_by_the_cells_of_its_record(home: SiteHome) -> None:
    async def work(at: AtWork) -> None:
        for number in range(3):
            assert await asked(at, record(50 + number, patient=f"p{number}")) == "9"
        assert await asked(at, record(51, patient="p1")) == "9"
        assert await asked(at, record(999, patient="p4")) == "422"
        kept = await counts(home, [5, 4, 3])
        layout, found = kept.watch.layout, kept.watch.hospital.since(0)
        age = layout.column("age")
        assert found[age.cells].sum() == 3
        assert found[age.refused] == found[age.beyond].sum() == 1

    during(home, work)


def test_a_record_systems_hook_is_counted_with_its_ward(home: SiteHome) -> None:
    async def work(at: AtWork) -> None:
        response = await at.ask(HOOK, hook(extension={"com.flo.ward": "ward 3"}))
        assert response.status_code == 200
        wrong = await at.ask(HOOK, hook("unheard of", extension={"com.flo.ward": ["x"]}))
        assert wrong.status_code == 200
        kept = await counts(home, [2, 1, 1])
        assert list(kept.watch.wards) == ["ward 3"]

    during(home, work)


def test_requests_that_name_no_patient_are_only_timed(home: SiteHome) -> None:
    async def work(at: AtWork) -> None:
        for _ in range(3):
            assert await asked(at, record(patient="")) == "9"
        await counts(home, [3, 0, 0])

    during(home, work)


def test_a_made_up_patient_of_the_desk_is_not_counted(home: SiteHome) -> None:
    async def work(at: AtWork) -> None:
        assert (await at.clients["local"].post(HOOK, json=hook())).status_code == 200
        assert await asked(at, record()) == "9"
        await counts(home, [1, 1, 1])

    during(home, work)


def test_a_ward_with_no_proper_name_is_refused(home: SiteHome) -> None:
    async def work(at: AtWork) -> None:
        for ward in (7, "x" * 61, "two\nlines"):
            assert await asked(at, record() | {"ward": ward}) == "400"

    during(home, work)


def test_outcomes_reach_the_monitors_without_a_comparison(home: SiteHome) -> None:
    async def work(at: AtWork) -> None:
        response = (await at.clients["local"].post(SCORE, json=record(patient="p1"))).json()
        await counts(home, [1, 1, 1])
        body = {"outcomes": [{"id": response["id"], "outcome": True}]}
        told = (await at.clients["local"].post(OUTCOMES, json=body)).json()
        assert told["kept"] == 1
        assert (await at.ask(OUTCOMES, body)).json()["kept"] == 0, "another asked for that answer"

    during(home, work)


def test_whoever_opted_out_is_not_counted(home: SiteHome) -> None:
    opt_out(home, "p1")

    async def work(at: AtWork) -> None:
        for patient in ("p1", "p2"):
            assert await asked(at, record(patient=patient)) == "9"
        await counts(home, [1, 1, 1])

    during(home, work)
    path = watched_answers.path_of(home, WATCHED.id)
    assert hashed_id(home, "p1").encode() not in path.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("action", "answers"), [("tell", "9"), ("finish", "9"), ("fall back", "1"), ("stop", "503")]
)
def test_an_alarm_does_what_the_plan_says_within_a_second(
    home: SiteHome, action: str, answers: str
) -> None:
    a_dull_month(home, WATCHED)
    plan_decisions.decide(home, "tiny", 30, {"columns": action}, "Ada", "the committee's plan")

    async def work(at: AtWork) -> None:
        for _ in range(60):
            await asked(at, record(20))
        while not (entries := _alarms(home)):
            await asyncio.sleep(0.01)
        began = time.monotonic()
        while await asked(at, record(50)) != answers:
            assert time.monotonic() - began < 1
            await asyncio.sleep(0.01)
        assert (entries[0]["of"], entries[0]["action"]) == ("age", action)
        text = (await at.clients["local"].get("/metrics")).text
        assert action in ("fall back", "stop") or 'flo_serve_health{model="tiny"} ' in text

    during(home, work)
    withdrawn = versions.read(home).withdrawal("tiny", version_of(V9).study)
    assert (withdrawn is not None) == (action in ("fall back", "stop"))
    if withdrawn is not None:
        assert withdrawn.why.startswith("health below 85, alarm ")
        assert "; as planned on " in withdrawn.why


def _alarms(home: SiteHome) -> list[dict[str, Any]]:
    with closing(home.open_audit_log()) as log:
        alarms = [one.facts for one in log.entries() if one.kind == "watch-alarm"]
    return [one for one in alarms if one["of"] == "age"]


@pytest.mark.slow
def test_an_alarm_waits_for_a_plan_that_cannot_be_read(home: SiteHome) -> None:
    a_dull_month(home, WATCHED)
    plan_decisions.decide(home, "tiny", 30, {"columns": "fall back"}, "Ada", "plan")
    (path,) = (home.directory / "models").glob("*.watch.json")
    plan = path.read_bytes()
    path.unlink()

    async def work(at: AtWork) -> None:
        for _ in range(60):
            await asked(at, record(20))
        standing = at.serving.models.watching.standing
        while (found := standing("tiny")) is None or not found.alarms:
            await asyncio.sleep(0.02)
        assert await asked(at, record(50)) == "9"
        path.write_bytes(plan)
        while await asked(at, record(50)) != "1":
            await asyncio.sleep(0.02)

    during(home, work)
    assert len(_alarms(home)) == 1


@pytest.mark.slow
def test_whoever_puts_a_version_into_use_again_has_settled_its_alarms(home: SiteHome) -> None:
    a_dull_month(home, WATCHED)
    plan_decisions.decide(home, "tiny", 30, {"columns": "fall back"}, "Ada", "plan")

    async def work(at: AtWork) -> None:
        for _ in range(2):
            for _ in range(60):
                await asked(at, record(20))
            while await asked(at, record(50)) != "1":
                await asyncio.sleep(0.02)
            put_into_use(home, V9)
            while await asked(at, record(50)) != "9":
                await asyncio.sleep(0.02)

    during(home, work)
    assert len(_alarms(home)) == 2, "and they can be raised again"


@pytest.mark.slow
def test_without_an_earlier_version_to_fall_back_to_none_answers(
    home: SiteHome,
) -> None:
    from flo.clients.prediction import version_decisions

    version_decisions.withdraw(home, "tiny:1", "it was wrong")
    a_dull_month(home, WATCHED)
    plan_decisions.decide(home, "tiny", 30, {"columns": "fall back"}, "Ada", "plan")

    async def work(at: AtWork) -> None:
        for _ in range(60):
            await asked(at, record(20))
        while await asked(at, record(50)) != "503":
            await asyncio.sleep(0.01)

    during(home, work)


@pytest.mark.slow
def test_a_damaged_file_stops_no_answer(home: SiteHome) -> None:
    path = watched_answers.path_of(home, WATCHED.id)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"no database" * 1000)

    async def work(at: AtWork) -> None:
        for _ in range(20):
            assert await asked(at, record()) == "9"
            await asyncio.sleep(0.02)

    during(home, work)


def test_another_version_has_monitors_of_its_own(home: SiteHome) -> None:
    from flo.clients.prediction import version_decisions

    async def work(at: AtWork) -> None:
        assert await asked(at, record(patient="p1")) == "9"
        await counts(home, [1, 1, 1])
        version_decisions.rollback(home, "tiny:9", "it was wrong")
        while await asked(at, record(patient="p1")) != "1":
            await asyncio.sleep(0.01)
        while len(watched_answers.watches(home)) < 2:
            await asyncio.sleep(0.02)

    during(home, work)
    assert Watched.of(V1.open()).id in watched_answers.watches(home)


def scored(cells: list[int], risk: float = 0.5) -> bytes:
    (one,) = seen.as_bytes(np.array([cells], dtype=np.uint16))
    return seen.scored("p", "w", risk, one)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 13,
        scored([1], 0.5),
        scored([1, 99], 0.5),
        scored([1, 1], 1.5),
        scored([1, 1], 0.5) + b"\0",
        scored([1, 1], 0.5)[:13] + b"\xff" * 7,
    ],
)
def test_what_a_worker_cannot_have_seen_is_refused(data: bytes) -> None:
    right = scored([1, 2], 0.5)
    before, found, after = seen.read([right, data, right], [10, 3])
    assert found is None
    for one in (before, after):
        assert one is not None
        assert one.cells is not None
        assert one.cells.tolist() == [1, 2], "others of its batch are counted"


def test_what_was_seen_comes_back() -> None:
    assert seen.read([], [10, 3]) == []
    (cells,) = seen.as_bytes(np.array([[7, 2]], dtype=np.uint16))
    (found,) = seen.read([seen.scored("pät", "Stätion 3", None, cells)], [10, 3])
    assert found is not None
    assert (found.patient, found.ward, found.risk) == ("pät", "Stätion 3", None)
    assert found.cells is not None
    assert found.cells.tolist() == [7, 2]
