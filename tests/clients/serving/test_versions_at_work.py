"""A version is replaced and taken back while requests arrive: none fails."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import socket
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from flo.clients.home.site_home import SiteHome
from flo.clients.prediction import version_decisions, versions
from flo.clients.prediction.flag_decisions import decide, rule_for
from flo.clients.serving import answer_log, app, worker
from flo.clients.serving.answer_log import AnswerLog, check, paths
from flo.clients.serving.decided import Decided, Deciding
from flo.clients.serving.frames import PLAIN, answered
from flo.clients.serving.pool import Pool
from flo.clients.serving.service import Answer, ServedVersion
from flo.clients.serving.several import Several
from flo.errors import TrustError
from tests.clients.serving.served_site import (
    V1,
    V9,
    AtWork,
    put_into_use,
    served_site,
    version_of,
)
from tests.clients.serving.test_hooks import during, entries

SCORE = "/models/tiny/score"
BODY = {"record": {"age": 50, "ward": "b"}}


@pytest.fixture
def home(tmp_path: Path) -> SiteHome:
    return served_site(tmp_path / "north")


async def version(at: AtWork) -> int:
    response = await at.clients["local"].post(SCORE, json=BODY)
    assert response.status_code == 200, response.text
    found: int = response.json()["version"]
    return found


def rollback(home: SiteHome) -> None:
    version_decisions.rollback(home, "tiny:9", "wrong units")


def test_after_a_rollback_returns_the_version_before_answers(home: SiteHome) -> None:
    async def work(at: AtWork) -> None:
        assert await version(at) == 9
        await asyncio.to_thread(rollback, home)
        assert await version(at) == 1
        await asyncio.to_thread(put_into_use, home, V9)
        assert await version(at) in (1, 9)
        while await version(at) != 9:
            await asyncio.sleep(0.05)

    during(home, work)


@pytest.mark.slow
def test_no_request_fails_and_none_is_answered_by_what_was_withdrawn(home: SiteHome) -> None:
    async def work(at: AtWork) -> None:
        going, found = True, set[int]()
        gone = dict[int, int]()  # version -> which rollback took it away

        async def ask() -> None:
            while going:
                withdrawn = dict(gone)
                answered = await version(at)
                assert (answered, gone.get(answered)) not in withdrawn.items()
                found.add(answered)

        asking = [asyncio.create_task(ask()) for _ in range(8)]
        for number in range(3):
            await asyncio.sleep(0.1)
            await asyncio.to_thread(rollback, home)
            gone[9] = number
            await asyncio.sleep(0.1)
            gone.clear()
            await asyncio.to_thread(put_into_use, home, V9)
        going = False
        await asyncio.gather(*asking)
        assert found == {1, 9}

    during(home, work)


def test_an_answer_of_a_version_that_is_withdrawn_while_it_is_recorded_is_thrown_away(
    home: SiteHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = AnswerLog.append_answers

    def late(self: AnswerLog, lines: list[answer_log.Line]) -> None:
        write(self, lines)
        with contextlib.suppress(Exception):  # the second time it is withdrawn already
            rollback(home)

    async def work(at: AtWork) -> None:
        monkeypatch.setattr(AnswerLog, "append_answers", late)
        assert await version(at) == 1

    during(home, work)
    lines = [
        line for kind, facts in entries(home) if kind == "answers" for line in facts["answers"]
    ]
    assert [line[3] for line in lines] == [9, 1], "what was computed is in the log, too"


def decide_the_opposite(home: SiteHome) -> None:
    if versions.read(home).current("tiny") == version_of(V9):
        rollback(home)
    else:
        put_into_use(home, V9)


@pytest.mark.slow
@pytest.mark.parametrize(("changes", "longest", "status"), [(9, 30.0, 200), (10**9, 0.3, 503)])
def test_a_request_follows_versions_that_change_for_half_a_minute(
    home: SiteHome, monkeypatch: pytest.MonkeyPatch, changes: int, longest: float, status: int
) -> None:
    """On a slow machine a version may change several times while one request is answered."""
    write, written = AnswerLog.append_answers, itertools.count()

    def late(self: AnswerLog, lines: list[answer_log.Line]) -> None:
        write(self, lines)
        if next(written) < changes:
            decide_the_opposite(home)

    async def work(at: AtWork) -> None:
        monkeypatch.setattr(AnswerLog, "append_answers", late)
        monkeypatch.setattr(app, "_LONGEST_SECONDS", longest)
        response = await at.clients["local"].post(SCORE, json=BODY)
        assert response.status_code == status, response.text
        assert ("change too quickly" in response.text) == (status == 503)

    during(home, work)


def test_a_version_that_this_machine_scores_otherwise_never_answers(
    home: SiteHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flo.clients.prediction import scorer
    from flo.published.model_card import PublishedModel

    real = scorer._log_odds

    def wrong(model: PublishedModel, onnx: bytes):  # type: ignore[no-untyped-def]
        odds = real(model, onnx)
        return odds if model.study.version == 1 else lambda inputs: odds(inputs) + 1e-6

    monkeypatch.setattr(scorer, "_log_odds", wrong)

    async def work(at: AtWork) -> None:
        state = at.serving.models.states["tiny"]
        assert state.ready is None
        assert "other scores than the coordinator published" in state.why
        await asyncio.to_thread(rollback, home)
        assert await version(at) == 1

    during(home, work)


def test_a_new_rule_counts_within_seconds(home: SiteHome) -> None:
    async def work(at: AtWork) -> None:
        response = await at.clients["local"].post(SCORE, json=BODY)
        assert response.json()["flagged"] is None
        decide(home, rule_for(V9.open(), 0.2, "Ada", "the ward acts"), None)
        await at.serving.models.refresh()
        await asyncio.gather(*at.serving.models._tasks)
        response = await at.clients["local"].post(SCORE, json=BODY)
        assert response.json()["flagged"] is True

    during(home, work)


def test_decisions_that_were_changed_by_hand_stop_the_model(home: SiteHome) -> None:
    async def work(at: AtWork) -> None:
        assert await version(at) == 9
        path = versions.path(home)
        text = path.read_text()
        path.write_text(text.replace("the committee said yes", "nobody asked"))
        response = await at.clients["local"].post(SCORE, json=BODY)
        assert response.status_code == 503
        path.write_text(text)
        assert await version(at) == 9

    during(home, work)


@pytest.mark.slow
def test_a_version_that_is_withdrawn_while_it_loads_never_answers(
    home: SiteHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Pool.load

    async def slowly(self: Pool, version: ServedVersion) -> str:
        await asyncio.sleep(0.3)
        return await real(self, version)

    async def work(at: AtWork) -> None:
        await asyncio.to_thread(rollback, home)
        assert await version(at) == 1
        monkeypatch.setattr(Pool, "load", slowly)
        await asyncio.to_thread(put_into_use, home, V9)
        assert await version(at) == 1
        await asyncio.to_thread(rollback, home)
        for _ in range(10):
            assert await version(at) == 1
            await asyncio.sleep(0.05)

    during(home, work)


class Held:
    """Loads and readings of decisions that wait until the test lets them go on, one by one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.loads, self.may_read = asyncio.Semaphore(0), threading.Event()
        self.may_read.set()
        load, read = Pool.load, Deciding.read

        async def loaded(pool: Pool, version: ServedVersion) -> str:
            await self.loads.acquire()
            return await load(pool, version)

        def found(deciding: Deciding, *facts: Any) -> Decided:
            decided = read(deciding, *facts)
            self.may_read.wait(30)
            return decided

        monkeypatch.setattr(Pool, "load", loaded)
        monkeypatch.setattr(Deciding, "read", found)


def test_a_version_that_is_loaded_while_its_withdrawal_is_read_never_answers(
    home: SiteHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(at: AtWork) -> None:
        await asyncio.to_thread(rollback, home)
        assert await version(at) == 1
        held = Held(monkeypatch)
        await asyncio.to_thread(put_into_use, home, V9)
        await at.serving.models.refresh()
        await asyncio.to_thread(rollback, home)
        held.may_read.clear()
        reading = asyncio.create_task(at.serving.models.refresh())
        await asyncio.sleep(0.05)
        held.loads.release()
        await asyncio.sleep(0.2)
        held.may_read.set()
        await reading
        assert await version(at) == 1, "though version 1 is being loaded again"
        held.loads.release()

    during(home, work)


def test_a_request_waits_for_the_version_that_is_wanted_and_for_no_other(
    home: SiteHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(at: AtWork) -> None:
        held = Held(monkeypatch)
        await asyncio.to_thread(rollback, home)
        asking = asyncio.create_task(version(at))
        await asyncio.sleep(0.1)
        await asyncio.to_thread(put_into_use, home, V9)
        await at.serving.models.refresh()
        held.loads.release()  # version 1, which nobody wants any more
        await asyncio.sleep(0.2)
        assert not asking.done()
        held.loads.release()
        assert await asking == 9

    during(home, work)


def test_without_its_decisions_a_site_answers_nobody(home: SiteHome) -> None:
    async def work(at: AtWork) -> None:
        versions.path(home).unlink()
        response = await at.clients["local"].post(SCORE, json=BODY)
        assert response.status_code == 503
        assert "versions.json is missing" in at.serving.models.states["tiny"].why

    during(home, work)


@pytest.mark.parametrize("name", ["policy.toml", "coordinator.json", "site.toml"])
def test_what_cannot_be_read_stops_the_model(home: SiteHome, name: str) -> None:
    async def work(at: AtWork) -> None:
        assert await version(at) == 9
        path = home.directory / name
        kept = path.read_bytes()
        path.unlink()
        path.mkdir()
        await at.serving.models.refresh()
        response = await at.clients["local"].post(SCORE, json=BODY)
        assert response.status_code == 503
        path.rmdir()
        path.write_bytes(kept)
        await at.serving.models.begin()
        assert await version(at) == 9

    during(home, work)


# -- workers ---------------------------------------------------------------------------------------


async def hanging(pool: Pool, number: int) -> socket.socket:
    """A worker that says hello and answers nothing."""
    ours, theirs = socket.socketpair()
    theirs.sendall(answered(0, Answer(200, "scored", b'{"missing": ["landlock"]}')))
    await pool.connect(number, ours)
    return theirs


def test_no_question_is_lost_when_every_worker_dies_at_once(home: SiteHome) -> None:
    async def work(at: AtWork) -> None:
        pool = at.serving.pool
        await pool.connect(1, at.another_worker(1))
        asked = at.serving.models.states["tiny"].asked
        assert asked is not None
        body = json.dumps(BODY).encode()
        asking = [
            asyncio.create_task(pool.ask(PLAIN, asked.packed, f"{n:036}", body)) for n in range(20)
        ]
        await asyncio.sleep(0)
        for one in list(pool._workers.values()):
            assert one.open
            one.close()
        await asyncio.sleep(0.01)
        assert not pool.size
        await pool.connect(2, at.another_worker(2))
        answers = await asyncio.gather(*asking)
        assert {one.status for one in answers} == {200}

    during(home, work)


def test_a_request_that_ends_two_workers_is_found_among_others_and_not_asked_again(
    home: SiteHome,
) -> None:
    async def work(at: AtWork) -> None:
        pool, asked = at.serving.pool, at.serving.models.states["tiny"].asked
        assert asked is not None
        poison = json.dumps({"record": {"age": 1, "ward": "b"}}).encode()

        def deadly(data: bytes) -> bool:
            return poison in data

        good = json.dumps(BODY).encode()
        kept = [await deadly_worker(at, pool, number, deadly) for number in range(2, 8)]
        pool._workers[0].close()
        await asyncio.sleep(0)
        asking = [
            asyncio.create_task(pool.ask(PLAIN, asked.packed, f"{n:036}", good if n else poison))
            for n in range(12)
        ]
        answers = await asyncio.gather(*asking)
        assert [one.status for one in answers] == [500] + [200] * 11
        assert b"ended the process" in answers[0].body
        assert pool.size == 3, "one worker ended with others, two with it alone"
        assert kept

    during(home, work)


async def deadly_worker(
    at: AtWork, pool: Pool, number: int, deadly: Callable[[bytes], bool]
) -> threading.Thread:
    """A worker that ends as soon as it reads what is deadly."""
    ours, theirs = socket.socketpair()

    class Dying(socket.socket):
        def recv(self, size: int, flags: int = 0) -> bytes:
            data = super().recv(size, flags)
            return b"" if deadly(data) else data

    def score() -> None:
        hello = answered(0, Answer(200, "scored", b'{"missing": []}'))
        with Dying(fileno=theirs.detach()) as front:
            worker.serve_front(front, {}, hello)

    thread = threading.Thread(target=score, daemon=True)
    thread.start()
    await pool.connect(number, ours)
    return thread


@pytest.mark.slow
def test_a_worker_that_makes_no_progress_is_ended(home: SiteHome) -> None:
    async def work(at: AtWork) -> None:
        ended = list[int]()
        pool = Pool(ended.append)
        other = await hanging(pool, 5)
        watching = asyncio.create_task(pool.watch())
        nobody = Several((bytes(32),)).packed()
        asking = asyncio.create_task(pool.ask(PLAIN, nobody, "0" * 36, b"{}"))
        while not ended:
            await asyncio.sleep(0.1)
        assert set(ended) == {5}
        for task in (watching, asking):
            task.cancel()
        pool.close()
        await asyncio.sleep(0)
        other.close()

    during(home, work)


def test_a_worker_without_a_layer_that_the_policy_requires_is_not_used(home: SiteHome) -> None:
    async def work(at: AtWork) -> None:
        pool = Pool(lambda number: None, ["landlock"])
        other = await hanging(pool, 1)
        assert pool.size == 0
        await asyncio.sleep(0)
        other.close()

    during(home, work)


def test_a_worker_that_connects_later_has_every_version(home: SiteHome) -> None:
    async def work(at: AtWork) -> None:
        pool = at.serving.pool
        await pool.connect(1, at.another_worker(1))
        pool._workers[0].close()
        await asyncio.sleep(0.01)
        assert await version(at) == 9

    during(home, work)


# -- the log ---------------------------------------------------------------------------------------


def test_a_log_of_answers_that_was_cut_or_changed_is_noticed(home: SiteHome) -> None:
    async def work(at: AtWork) -> None:
        for _ in range(3):
            await version(at)

    for _ in range(2):
        during(home, work)
    with closing(home.open_audit_log()) as log:
        anchors = [one.facts for one in log.entries() if one.kind == "answers-anchored"]
    (path,) = paths(home.directory)
    identity = home.open_identity()
    counts = check(home.directory, identity, anchors)
    assert counts[path.name] == anchors[-1]["number"]
    import sqlite3

    for statement, why in (
        ("DELETE FROM entries WHERE number = (SELECT max(number) FROM entries)", "was cut"),
        ("UPDATE entries SET facts = '{}' WHERE number = 2", "entry 2"),
    ):
        kept = path.read_bytes()
        with closing(sqlite3.connect(path)) as db:
            db.execute(statement)
            db.commit()
        with pytest.raises(TrustError, match=why):
            check(home.directory, identity, anchors)
        path.write_bytes(kept)


def test_a_new_month_continues_the_log_of_the_one_before(home: SiteHome) -> None:
    from datetime import UTC, datetime

    months = [datetime(2026, 11, 30, 23, 59, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC)]
    now = [months[0]]
    identity = home.open_identity()
    log = AnswerLog(home.directory, identity, lambda: now[0])
    log.append("began")
    now[0] = months[1]
    log.append("ended")
    log.close()
    assert [path.name for path in paths(home.directory)] == [
        "answers-2026-11.sqlite",
        "answers-2026-12.sqlite",
    ]
    assert check(home.directory, identity, []) == {
        "answers-2026-11.sqlite": 2,
        "answers-2026-12.sqlite": 2,
    }
    paths(home.directory)[0].unlink()
    assert len(check(home.directory, identity, [])) == 1, "old months may be deleted"
    assert V1 is not None
