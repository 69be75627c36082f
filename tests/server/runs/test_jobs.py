"""Jobs that carry runs out elsewhere: begun, opened once, lent their run, replaced."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import pytest

from flo.errors import NetworkError, RefusedError, UsageError
from flo.server.flower.scoped_runtime import RuntimeScope
from flo.server.flower.superlink import SuperLink
from flo.server.home.coordinator_home import CoordinatorConfig, CoordinatorHome
from flo.server.http.tokens import read as read_token
from flo.server.runs.job_access import JobAccess
from flo.server.runs.jobs import Jobs, JobState
from flo.server.store.store import Store
from flo.storage.artifacts import ArtifactStore, LocalArtifacts
from tests.builders import small_study
from tests.commands import flo
from tests.server.real_coordinator import serving

STUDY, RUN = small_study(), "run-1-000001"


class Elsewhere:
    """Aggregators that note what they are asked."""

    app, token_seconds = "flo.somewhere:app", 3600

    def __init__(self, folder: Path) -> None:
        self.begun: list[JobAccess] = []
        self.answers: dict[str, JobState | Exception] = {}
        self.refuses: Exception | None = None
        self.answering = threading.Event()
        self.answering.set()
        self._folder = folder

    def begin(self, access: JobAccess) -> None:
        self.answering.wait(20)
        if self.refuses is not None:
            raise self.refuses
        self.begun.append(access)

    def state(self, job: str) -> JobState:
        answer = self.answers.get(job, JobState(over=False))
        if isinstance(answer, Exception):
            raise answer
        return answer

    def artifacts(self, study: str) -> ArtifactStore:
        return LocalArtifacts(self._folder / study)


class Link:
    """What is asked of the SuperLink."""

    def __init__(self) -> None:
        self.lent_for: list[tuple[int, bytes, RuntimeScope]] = []

    def scoped_runtime(self, flower_run: int, secret: bytes, loan: RuntimeScope) -> str:
        self.lent_for.append((flower_run, secret, loan))
        return f"the application of {flower_run}"


class Scene:
    def __init__(self, home: CoordinatorHome, store: Store, folder: Path) -> None:
        self.home, self.store, self.link = home, store, Link()
        self.elsewhere = Elsewhere(folder)
        self.jobs = self.restarted()

    def restarted(self) -> Jobs:
        self.jobs = Jobs(self.home, self.store, cast(SuperLink, self.link), self.elsewhere)
        return self.jobs

    def carry_out(self, flower_run: int = 1) -> str:
        self.jobs.carry_out(RUN, STUDY.digest, flower_run)
        while not self.jobs.begun(RUN, STUDY.digest):
            time.sleep(0.01)
        return str(self.store.last_job(RUN))


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    home = CoordinatorHome.create(tmp_path / "coordinator", CoordinatorConfig())
    with closing(home.open_store()) as store:
        store.add_study(STUDY, "00", "sagemaker")
        store.start_run(RUN, STUDY.digest)
        yield Scene(home, store, tmp_path / "artifacts")


def test_a_job_is_begun_with_a_token_that_opens_it_once(scene: Scene) -> None:
    job = scene.carry_out()
    (access,) = scene.elsewhere.begun
    assert (access.job, access.run, access.study) == (job, RUN, STUDY.digest)
    token = read_token(access.token, scene.home.open_identity().public)
    assert (token.role, token.name) == ("launch", job)
    keys = scene.jobs.open(job)
    assert read_token(keys.token, scene.home.open_identity().public).role == "aggregator"
    with pytest.raises(RefusedError, match="opened already"):
        scene.jobs.open(job)
    with pytest.raises(RefusedError, match="does not exist"):
        scene.jobs.open("flo-run-9-000009-1")


def test_a_launch_document_holds_no_key(scene: Scene) -> None:
    job = scene.carry_out()
    keys = scene.jobs.open(job)
    written = scene.elsewhere.begun[0].to_bytes()
    assert keys.study_key.encode() not in written
    assert keys.superexec_secret.encode() not in written


def test_a_job_keeps_its_secret_over_a_restart_and_is_lent_the_new_run(scene: Scene) -> None:
    job = scene.carry_out(1)
    scene.restarted()
    assert scene.carry_out(2) == job
    assert len(scene.elsewhere.begun) == 1
    (first, second) = scene.link.lent_for
    assert (first[0], second[0]) == (1, 2)
    assert first[1] == second[1] == bytes.fromhex(scene.jobs.open(job).superexec_secret)
    found = scene.jobs.leased_to(f"/job/{job}/v1/runtime/get-nodes")
    assert found is not None
    assert (found[0].flower_run, found[1]) == (2, "/v1/runtime/get-nodes")


def test_a_job_that_is_over_is_followed_by_another_with_another_secret(scene: Scene) -> None:
    first = scene.carry_out()
    assert scene.jobs.why_over(RUN) is None
    scene.elsewhere.answers[first] = JobState(over=True, why="it failed")
    scene.restarted()
    assert scene.jobs.why_over(RUN) == "it failed"
    second = scene.carry_out(2)
    assert second != first
    assert scene.link.lent_for[0][1] != scene.link.lent_for[1][1]
    assert scene.jobs.leased_to(f"/job/{first}/v1/runtime/get-nodes") is None


def test_silence_is_not_taken_for_a_jobs_end(scene: Scene) -> None:
    job = scene.carry_out()
    scene.elsewhere.answers[job] = NetworkError("busy")
    scene.restarted()
    assert scene.jobs.why_over(RUN) is None
    assert scene.carry_out(2) == job


def test_a_job_that_could_not_be_begun_is_told_and_named(scene: Scene) -> None:
    scene.elsewhere.refuses = UsageError("no such role")
    with pytest.raises(UsageError, match="no such role"):
        scene.carry_out()
    first = scene.store.last_job(RUN)
    scene.elsewhere.refuses = None
    scene.elsewhere.answers[str(first)] = JobState(over=True, why="knows no such job")
    scene.restarted()
    assert scene.carry_out() != first


def test_a_service_that_takes_its_time_holds_up_nothing(scene: Scene) -> None:
    scene.elsewhere.answering.clear()
    began = time.monotonic()
    scene.jobs.carry_out(RUN, STUDY.digest, 1)
    job = str(scene.store.last_job(RUN))
    assert not scene.jobs.begun(RUN, STUDY.digest)
    scene.elsewhere.answers[job] = JobState(over=True, why="knows no such job")
    assert scene.jobs.why_over(RUN) is None, "it is not asked for before it is begun"
    scene.jobs.carry_out(RUN, STUDY.digest, 2)
    assert scene.store.last_job(RUN) == job, "and not begun twice"
    assert time.monotonic() - began < 5
    del scene.elsewhere.answers[job]
    scene.elsewhere.answering.set()
    while not scene.jobs.begun(RUN, STUDY.digest):
        time.sleep(0.01)
    assert [access.job for access in scene.elsewhere.begun] == [job]
    events = scene.store.events(STUDY.digest)
    assert [event["kind"] for event in events].count("job-begun") == 1


def test_a_run_that_is_in_no_jobs_hands_is_lent_to_nobody(scene: Scene) -> None:
    job = scene.carry_out()
    scene.jobs.forget(RUN)
    assert scene.jobs.leased_to(f"/job/{job}/v1/runtime/get-nodes") is None


@pytest.mark.processes
def test_until_runs_are_taken_up_again_a_job_is_told_to_wait(tmp_path: Path) -> None:
    """Flower takes 503 for a pause and anything else for the end."""
    before = (
        "from flo.server.coordinator import Coordinator\nCoordinator._recover = lambda self: None"
    )
    path = "/job/flo-run-1-000001-1/v1/runtime/acquire-task"
    with serving(tmp_path / "waiting", before) as real:
        assert real.private("POST", path).status == 503
    with serving(tmp_path / "ready") as real:
        real.enrol(tmp_path / "north", "north")  # by now it has recovered
        assert real.private("POST", path).status == 401


def test_an_offer_that_is_made_again_goes_where_it_was_said_last(scene: Scene) -> None:
    again: Any = small_study(name="again")
    scene.store.add_study(again, "00", "sagemaker")
    scene.store.add_study(again, "00", "here")
    offer = scene.store.offer(again.digest)
    assert offer is not None
    assert offer.place == "here"
    scene.store.set_status(again.digest, "running")
    scene.store.add_study(again, "00", "sagemaker")
    offer = scene.store.offer(again.digest)
    assert offer is not None
    assert (offer.place, offer.status) == ("here", "running")


@pytest.mark.processes
def test_a_step_that_fails_does_not_end_the_coordinator(tmp_path: Path) -> None:
    before = """
from flo.host.metrics import Meter
def fails(self):
    raise KeyError("of whatever kind")
Meter.write_if_due = fails
"""
    with serving(tmp_path / "home", before) as real:
        real.enrol(tmp_path / "north", "north")
        assert real.private("GET", "/health").status == 204
        done = flo("coordinator", "hospitals", "--home", real.home.directory)
        assert "north" in done.stdout
        log = (real.home.directory / "log" / "coordinator.jsonl").read_text()
        assert "a periodic step of the coordinator failed" in log
