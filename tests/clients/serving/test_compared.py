"""Versions that are compared while they are at work: who is shown what, and what is kept of it."""

from __future__ import annotations

import asyncio
import socket
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from flo.clients.comparison import decisions
from flo.clients.comparison.terms import Comparison
from flo.clients.home.site_home import SiteHome
from flo.clients.patients.opt_outs import hashed_id, opt_out
from flo.clients.prediction import allowed, flag_decisions, version_decisions
from flo.clients.prediction.scorer import Scorer
from flo.clients.records import compared_answers
from flo.clients.records.compared_answers import ComparedAnswer, ComparedAnswers
from flo.clients.serving import several, worker
from flo.clients.serving.answering import Asked, Ready
from flo.clients.serving.frames import FORGET
from flo.clients.serving.frames import answered as answered_frame
from flo.clients.serving.pool import Pool
from flo.clients.serving.service import Answer, ServedVersion
from flo.errors import MessageError, NetworkError, RefusedError
from tests.clients.prediction.told import V1, V9, WHY, Told, api, told_of_both, withdrawn
from tests.clients.prediction.told import ask as ask_coordinator
from tests.clients.serving.served_site import AtWork, at_work, hook, observed, served_site

SCORE, HOOK, OUTCOMES = "/models/tiny/score", "/cds-services/tiny", "/models/tiny/outcomes"
BODY = {"record": {"age": 50, "ward": "b"}}


@pytest.fixture
def home(tmp_path: Path) -> SiteHome:
    """Version 9 is in use; version 1 was in use before."""
    return served_site(tmp_path / "north")


@pytest.fixture
def told() -> Told:
    return told_of_both()


def compare(home: SiteHome, told: Told, share: int, **more: Any) -> Comparison:
    return decisions.compare(home, api(told), "tiny:1", share, WHY, **more)


def during(home: SiteHome, work: Callable[[AtWork], Awaitable[None]]) -> None:
    async def run() -> None:
        async with at_work(home) as at:
            await asyncio.wait_for(work(at), 60)

    asyncio.run(run())


async def compared(at: AtWork) -> None:
    """Wait until a version is compared, and the rows so far were judged."""
    while True:
        (status,) = (await at.clients["local"].get("/status")).json()["models"]
        state = at.serving.models.states["tiny"]
        decided = [one.share for one in state.comparison.versions] if state.comparison else []
        shares = [one["share"] for one in status["compared"]]
        is_judged = shares == decided or any(one["worse"] for one in status["compared"])
        if state.asked and len(state.asked.ready) == 2 and is_judged:
            return
        await asyncio.sleep(0.05)


async def answered(at: AtWork, patient: str = "") -> int:
    body = BODY | ({"patient": patient} if patient else {})
    response = await at.clients["local"].post(SCORE, json=body)
    assert response.status_code == 200, response.text
    found: int = response.json()["version"]
    return found


async def kept(home: SiteHome, comparison: Comparison, count: int) -> list[ComparedAnswer]:
    """The rows, once there are so many."""
    with closing(ComparedAnswers(home, comparison.id)) as answers:
        while len(found := list(answers.rows())) < count:
            await asyncio.sleep(0.02)
    return found


@pytest.mark.slow
def test_in_shadow_both_score_and_one_answers(home: SiteHome, told: Told) -> None:
    comparison = compare(home, told, 0)

    async def work(at: AtWork) -> None:
        await compared(at)
        assert {await answered(at, f"p{number}") for number in range(30)} == {9}
        rows = await kept(home, comparison, 30)
        assert {one.shown for one in rows} == {9}
        assert {one.patient for one in rows} == {hashed_id(home, f"p{n}") for n in range(30)}
        (risks,) = {tuple(sorted(one.risks.items())) for one in rows}
        shown = (await at.clients["local"].post(SCORE, json=BODY)).json()
        assert dict(risks)[9] == shown["risk"]
        assert dict(risks)[1] is not None

    during(home, work)


@pytest.mark.slow
def test_a_canary_answers_for_its_share_and_a_patient_stays_with_one_version(
    home: SiteHome, told: Told
) -> None:
    compare(home, told, 30)

    async def work(at: AtWork) -> None:
        await compared(at)
        patients = [f"p{number}" for number in range(300)]
        first = {one: await answered(at, one) for one in patients}
        again = {one: await answered(at, one) for one in patients[:60]}
        assert all(first[one] == version for one, version in again.items())
        assert 55 <= Counter(first.values())[1] <= 125
        text = (await at.clients["local"].get("/metrics")).text
        assert 'flo_serve_answers{model="tiny",version="1",outcome="scored"}' in text

    during(home, work)


@pytest.mark.slow
def test_a_card_of_a_version_that_is_compared_says_so(home: SiteHome, told: Told) -> None:
    compare(home, told, 50)

    async def work(at: AtWork) -> None:
        await compared(at)
        found = Counter[tuple[int, bool]]()
        for number in range(40):
            patient = {"resourceType": "Patient", "id": f"p{number}", "birthDate": "1950-02-03"}
            asked = hook(
                context={"userId": "Practitioner/1", "patientId": f"p{number}"},
                prefetch={"patient": patient, "ward": observed("b", f"p{number}")},
            )
            (card,) = (await at.ask(HOOK, asked)).json()["cards"]
            version = card["extension"]["flo.answer"]["version"]
            found[version, "compares this version with version 9" in card["detail"]] += 1
        assert set(found) == {(1, True), (9, False)}

    during(home, work)


@pytest.mark.slow
def test_a_version_that_is_withdrawn_is_shown_to_nobody_from_then_on(
    home: SiteHome, told: Told
) -> None:
    compare(home, told, 90)

    async def work(at: AtWork) -> None:
        await compared(at)
        going, answers = True, list[tuple[bool, int]]()
        gone = False

        async def asking(number: int) -> None:
            while going:
                before = gone
                answers.append((before, await answered(at, f"p{number}")))

        tasks = [asyncio.create_task(asking(number)) for number in range(8)]
        await asyncio.sleep(0.2)
        withdrawn(told, V1)
        await asyncio.to_thread(ask_coordinator, home, told)
        gone = True
        await asyncio.sleep(0.3)
        going = False
        await asyncio.gather(*tasks)
        assert {version for before, version in answers if not before} == {1, 9}
        assert {version for before, version in answers if before} == {9}

    during(home, work)


def test_a_rollback_ends_the_comparison(home: SiteHome, told: Told) -> None:
    comparison = compare(home, told, 50)

    async def work(at: AtWork) -> None:
        await compared(at)
        await asyncio.to_thread(version_decisions.rollback, home, "tiny:9", WHY)
        assert {await answered(at, f"p{number}") for number in range(20)} == {1}
        state = at.serving.models.states["tiny"]
        assert state.comparison is None
        assert state.asked is not None
        assert len(state.asked.ready) == 1

    during(home, work)
    assert decisions.in_force(home, "tiny") == comparison


def test_a_patient_whom_it_cannot_score_gets_the_answer_of_the_version_in_use(
    home: SiteHome, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    comparison = compare(home, told, 90)
    score = Scorer.score

    def failing(self: Scorer, inputs: Any, *, explain: bool) -> Any:
        if self._published.study.version == 1:
            raise RuntimeError("a bug")
        return score(self, inputs, explain=explain)

    async def work(at: AtWork) -> None:
        await compared(at)
        monkeypatch.setattr(Scorer, "score", failing)
        assert {await answered(at, f"p{number}") for number in range(20)} == {9}
        rows = await kept(home, comparison, 20)
        assert {one.risks[1] for one in rows} == {None}

    during(home, work)


def test_a_request_that_nobody_can_score_is_refused_as_ever(home: SiteHome, told: Told) -> None:
    compare(home, told, 50)

    async def work(at: AtWork) -> None:
        await compared(at)
        wrong = {"record": {"age": 500, "ward": "b"}, "patient": "p1"}
        response = await at.clients["local"].post(SCORE, json=wrong)
        assert response.status_code == 422
        for patient in (7, "x" * 65, None):
            body = BODY | {"patient": patient}
            response = await at.clients["local"].post(SCORE, json=body)
            assert response.status_code == 400
            assert "`patient` is an id" in response.json()["error"]

    during(home, work)


def test_outcomes_are_reported_by_the_ids_of_answers(home: SiteHome, told: Told) -> None:
    comparison = compare(home, told, 0)

    async def work(at: AtWork) -> None:
        await compared(at)
        response = await at.ask(SCORE, BODY | {"patient": "p1"})
        id_ = response.json()["id"]
        await kept(home, comparison, 1)
        elsewhere = at.serving.ids.new()
        several_ = [{"id": id_, "outcome": True}, {"id": elsewhere, "outcome": False}]
        told_ = await at.ask(OUTCOMES, {"outcomes": several_})
        assert told_.json() == {
            **{"kept": 1, "known": 0, "contradicting": []},
            "not compared": [elsewhere],
        }
        again = await at.ask(OUTCOMES, {"outcomes": [{"id": id_, "outcome": False}]})
        assert again.json()["contradicting"] == [id_]
        (row,) = await kept(home, comparison, 1)
        assert (row.outcome, row.caller) == (True, "ehr")
        mine = (await at.clients["local"].post(SCORE, json=BODY | {"patient": "p2"})).json()["id"]
        await kept(home, comparison, 2)
        others = await at.ask(OUTCOMES, {"outcomes": [{"id": mine, "outcome": True}]})
        assert others.json()["not compared"] == [mine], "another caller asked for it"

    during(home, work)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ({"outcomes": []}, "1 to 1000 entries"),
        ({"outcomes": [{"id": "x" * 36, "outcome": True}]}, "not of one of this server's"),
        ({"outcomes": [{"id": 4, "outcome": True}]}, "true or false"),
        ({"outcomes": [{"id": "é" * 36, "outcome": True}]}, "not of one of this server's"),
        ({"outcomes": [{"id": "a", "outcome": 1}]}, "true or false"),
        ({"outcomes": [{"id": "a", "outcome": True, "patient": "p1"}]}, "nothing else"),
        ({"outcomes": [{"id": "a", "outcome": True}] * 2}, "twice"),
        ({"outcomes": [{"id": "a", "outcome": True}], "note": 1}, "has fields that are not known"),
        ({"outcomes": [{"id": "a", "outcome": True}] * 1001}, "1 to 1000 entries"),
        (b"[1]", "not a JSON object"),
    ],
)
def test_a_report_in_another_form_is_refused(home: SiteHome, body: Any, why: str) -> None:
    async def work(at: AtWork) -> None:
        response = await at.ask(OUTCOMES, body)
        assert response.status_code == 400
        assert why in response.json()["error"]

    during(home, work)


@pytest.mark.slow
def test_a_version_that_is_shown_to_be_worse_gets_no_more_patients(
    home: SiteHome, told: Told
) -> None:
    comparison = compare(home, told, 50, follow_up_days=0)
    generator = np.random.default_rng(3)
    rows = [
        ComparedAnswer(
            *(f"{n:036}", f"{n:064x}", "ehr", time.time() - 1000 + n, 9, {1: 0.75, 9: 0.25})
        )
        for n in range(200)
    ]
    with closing(ComparedAnswers(home, comparison.id)) as answers:
        answers.add(rows)
        answers.report({one.id: bool(generator.random() < 0.25) for one in rows}, time.time())

    async def work(at: AtWork) -> None:
        await compared(at)
        assert {await answered(at, f"p{number}") for number in range(30)} == {9}
        (status,) = (await at.clients["local"].get("/status")).json()["models"][0]["compared"]
        assert status == {"version": 1, "share": 0, "worse": True, "why": ""}

    during(home, work)


@pytest.mark.slow
def test_a_version_that_would_flag_nobody_is_shown_to_nobody(home: SiteHome, told: Told) -> None:
    """The hospital decides whom the version in use flags, while a canary answers for some."""
    compare(home, told, 90)

    async def work(at: AtWork) -> None:
        await compared(at)
        assert 1 in {await answered(at, f"p{number}") for number in range(30)}
        model = allowed.open_in_use(home, "tiny").model
        rule = flag_decisions.rule_for(model, 0.3, "Ada", "the ward acts on it")
        await asyncio.to_thread(flag_decisions.decide, home, rule, None)
        state = at.serving.models.states["tiny"]
        while state.ready is None or state.ready.version.rule is None:
            await at.serving.models.refresh()
            await asyncio.sleep(0.02)
        assert {await answered(at, f"p{number}") for number in range(30)} == {9}

    during(home, work)


@pytest.mark.slow
def test_rows_that_were_changed_leave_the_version_in_shadow(home: SiteHome, told: Told) -> None:
    """What cannot be judged must not be shown."""
    comparison = compare(home, told, 90)
    with closing(ComparedAnswers(home, comparison.id)) as answers:
        answers.add([ComparedAnswer("0" * 36, "f" * 64, "ehr", 1.0, 9, {1: 0.5, 9: 0.25})])
    with closing(sqlite3.connect(compared_answers.path_of(home, comparison.id))) as db:
        db.execute("UPDATE answers SET patient = 'other'")
        db.commit()

    async def work(at: AtWork) -> None:
        while len(getattr(at.serving.models.states["tiny"].asked, "ready", ())) < 2:
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.2)
        assert {await answered(at, f"p{number}") for number in range(30)} == {9}

    during(home, work)


@pytest.mark.slow
def test_a_comparison_whose_file_is_damaged_stops_nobody(home: SiteHome, told: Told) -> None:
    comparison = compare(home, told, 90)
    path = compared_answers.path_of(home, comparison.id)
    ComparedAnswers(home, comparison.id).close()
    path.write_bytes(path.read_bytes()[:200] + b"damaged" * 2000)

    async def work(at: AtWork) -> None:
        while len(getattr(at.serving.models.states["tiny"].asked, "ready", ())) < 2:
            await asyncio.sleep(0.02)
        assert {await answered(at, f"p{number}") for number in range(30)} == {9}
        body = {"outcomes": [{"id": at.serving.ids.new(), "outcome": True}]}
        assert (await at.ask(OUTCOMES, body)).status_code == 503

    during(home, work)


def test_a_request_without_a_patient_is_not_compared(home: SiteHome, told: Told) -> None:
    """Its calls could not be told from those of other patients, and nobody would count once."""
    comparison = compare(home, told, 90)

    async def work(at: AtWork) -> None:
        await compared(at)
        assert {await answered(at) for _ in range(20)} == {9}
        await answered(at, "p1")
        (row,) = await kept(home, comparison, 1)
        assert row.patient == hashed_id(home, "p1")

    during(home, work)


def test_spellings_of_one_patient_get_one_version(home: SiteHome, told: Told) -> None:
    compare(home, told, 50)

    async def work(at: AtWork) -> None:
        await compared(at)
        for number in range(30):
            both = {await answered(at, spelt) for spelt in (f"p{number}", f" P{number} ")}
            assert len(both) == 1

    during(home, work)


def test_a_patient_who_opted_out_is_not_kept(home: SiteHome, told: Told) -> None:
    comparison = compare(home, told, 0)

    async def work(at: AtWork) -> None:
        await compared(at)
        await asyncio.to_thread(opt_out, home, "p1")
        for patient in ("p1", "p2"):
            await answered(at, patient)
        (row,) = await kept(home, comparison, 1)
        assert row.patient == hashed_id(home, "p2")

    during(home, work)


def test_a_request_that_is_tried_by_hand_is_not_compared(home: SiteHome, told: Told) -> None:
    comparison = compare(home, told, 0)

    async def work(at: AtWork) -> None:
        await compared(at)
        response = await at.clients["local"].post(HOOK, json=hook())
        assert response.status_code == 200
        await answered(at, "p2")
        (row,) = await kept(home, comparison, 1)
        assert row.patient == hashed_id(home, "p2")

    during(home, work)


def test_what_is_shown_to_nobody_may_not_be_sent() -> None:
    first, second = cast(Ready, object()), cast(Ready, object())
    asked = Asked((first, second), (0,), b"", None)
    assert (asked.shows(first), asked.shows(second)) == (True, False)
    assert replace(asked, shares=(1,)).shows(second)


def test_a_worker_cannot_choose_who_answers() -> None:
    said = b'[1, "p1", [0.5, 0.5]]'
    assert several.read_compared(said, 2, lambda patient: 1).place == 1
    with pytest.raises(MessageError, match="another version than the patient gets"):
        several.read_compared(said, 2, lambda patient: 0)


def test_a_version_that_ends_the_process_that_loads_it_is_refused() -> None:
    """It is tried out in one process, and no process that comes later loads it."""
    ours, theirs = socket.socketpair()
    nothing = dict.fromkeys(("finished", "rule", "fhir", "table"))
    facts = {"name": "tiny", "hook": "patient-view", "outcome": "death", "card": "c"}
    version = ServedVersion.model_validate(facts | nothing | {"coordinators": ()})

    def ends() -> None:
        with theirs:
            theirs.sendall(answered_frame(0, Answer(200, "scored", b'{"missing": []}')))
            theirs.recv(1 << 20)

    async def run() -> None:
        pool = Pool(lambda number: None)
        await pool.connect(7, ours)
        with pytest.raises(RefusedError, match="it ended the process that loaded it"):
            await asyncio.wait_for(pool.try_out(version), 10)
        assert version.digest not in pool._versions
        with pytest.raises(NetworkError):
            await pool.try_out(version)

    ending = threading.Thread(target=ends, daemon=True)
    ending.start()
    asyncio.run(run())
    ending.join()


@pytest.mark.slow
def test_a_worker_that_lacks_a_version_answers_by_the_one_in_use(
    home: SiteHome, told: Told
) -> None:
    """As one that has just been started."""
    comparison = compare(home, told, 90)

    async def work(at: AtWork) -> None:
        await compared(at)
        (other,) = at.serving.models.states["tiny"].others.values()
        assert other.ready is not None
        for one in at.serving.pool._workers.values():
            one.ask(at.serving.pool._job(FORGET, other.ready.digest))
        assert {await answered(at, f"p{number}") for number in range(30)} == {9}
        rows = await kept(home, comparison, 30)
        assert {one.risks[1] for one in rows} == {None}

    during(home, work)


def test_a_suspect_is_asked_again_of_the_version_in_use_alone() -> None:
    one = several.Several((b"a" * 32, b"b" * 32), "c" * 32, (10,))
    assert several.of_the_first(one.packed()) == several.Several((b"a" * 32,)).packed()


@pytest.mark.parametrize(
    "said",
    [
        b"[]",
        b"{",
        b'[2, "p1", [0.5, 0.5]]',
        b'[0, "p1", [0.5]]',
        b'[0, "p1", [0.5, 1.5]]',
        b'[0, "p1", [0.5, NaN]]',
        b'[0, "", [0.5, 0.5]]',
        b'[true, "p1", [0.5, 0.5]]',
        b"[0, 7, [0.5, 0.5]]",
        b'[0, "p1", {"a": 1, "b": 2}]',
        b"[" * 100_000,
    ],
)
def test_a_worker_cannot_make_up_a_comparison(said: bytes) -> None:
    with pytest.raises(MessageError, match="not in its form"):
        several.read_compared(said, 2, lambda patient: 0)


def test_what_a_worker_made_up_is_not_sent(
    home: SiteHome, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare(home, told, 0)

    async def work(at: AtWork) -> None:
        await compared(at)

        def lying(one: Any) -> Answer:
            return Answer(200, "scored", b'{"risk": 0.0}', b'[5, "p1", [0.1, 0.1]]')

        monkeypatch.setattr(worker, "_answer", lying)
        response = await at.clients["local"].post(SCORE, json=BODY)
        assert response.status_code == 500
        assert "risk" not in response.json()

    during(home, work)


def test_versions_travel_to_a_worker_and_back() -> None:
    for count in (1, 2, 10):
        digests = tuple(bytes([number]) * 32 for number in range(count))
        shares = tuple(range(count - 1))
        one = several.Several(digests, "a" * 32 if count > 1 else "", shares)
        packed = one.packed()
        assert several.Several.unpacked(packed + b"the rest") == (one, len(packed))


def test_discovery_asks_for_what_every_version_needs(home: SiteHome, told: Told) -> None:
    compare(home, told, 0)

    async def work(at: AtWork) -> None:
        await compared(at)
        (service,) = (await at.get("/cds-services")).json()["services"]
        assert set(service["prefetch"]) == {"patient", "ward"}
        assert V9.version == 9

    during(home, work)
