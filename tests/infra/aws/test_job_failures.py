"""What can go wrong with a job, each named, and what becomes of its run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flo.errors import EXIT_USAGE, FloError
from flo.infra.aws.job.entry import opened
from flo.infra.aws.job.runner import recorded
from flo.infra.aws.job_contract import HyperParameters, launch_context
from flo.infra.aws.kms import KmsKeyStore
from flo.keys import sealed
from flo.server.http.tokens import issue
from flo.server.runs.job_access import JobAccess
from tests.end_to_end.running import all_events, rounds, wait_for
from tests.infra.aws.account import roles_of
from tests.infra.aws.emulated import Aws
from tests.infra.aws.sagemaker import kill_all_of
from tests.infra.aws.test_aggregation import Stage, staged
from tests.server.real_coordinator import RealCoordinator

pytestmark = pytest.mark.slow

LIMIT = 1 << 30


@pytest.fixture
def stage(aws: Aws, tmp_path: Path) -> Iterator[Stage]:
    with staged(aws, tmp_path, ("north", "south", "west")) as found:
        yield found


# -- the launch document ---------------------------------------------------------------------------


class Launch:
    """A job's launch document, as someone may find or change it in the bucket."""

    def __init__(self, stage: Stage, job: str) -> None:
        self._asked = HyperParameters.model_validate(recorded(job)["HyperParameters"])
        self._store = stage.artifacts(self._asked.study)
        self._key = f"jobs/{job}/input/launch.sealed"
        self._kms = KmsKeyStore(stage.config.launch_key, stage.aws.client("kms"))
        self._context = launch_context(self._asked.study, self._asked.run)

    def read(self) -> JobAccess:
        return JobAccess.from_bytes(sealed.unseal(self._kms, self._context, self.kept(), "launch"))

    def kept(self) -> bytes:
        return self._store.get(self._key, LIMIT)

    def write(self, data: bytes) -> None:
        self._store.remove(self._key)
        self._store.put(self._key, data)

    def change(self, context: dict[str, str] | None = None, **what: Any) -> None:
        access = self.read().model_copy(update=what)
        self.write(sealed.seal(self._kms, context or self._context, access.to_bytes()))


Spoil = Callable[[Stage, Launch], None]


def _expired(stage: Stage, launch: Launch) -> None:
    identity = stage.home.open_identity()
    text, _ = issue(identity, launch.read().job, "launch", 60, now=1_700_000_000)
    launch.change(token=text)


def _another_jobs(stage: Stage, launch: Launch) -> None:
    text, _ = issue(stage.home.open_identity(), "flo-run-0-000000-1", "launch", 60)
    launch.change(token=text)


def _a_persons(stage: Stage, launch: Launch) -> None:
    text, _ = issue(stage.home.open_identity(), launch.read().job, "operator", 60)
    launch.change(token=text)


def _opened_before(stage: Stage, launch: Launch) -> None:
    """By someone who found the document, and could unseal it."""
    opened(launch.read(), threading.Event())


def _flipped(stage: Stage, launch: Launch) -> None:
    data = launch.kept()
    launch.write(data[:-1] + bytes([data[-1] ^ 1]))


def _truncated(stage: Stage, launch: Launch) -> None:
    launch.write(launch.kept()[:-20])


def _for_another_study(stage: Stage, launch: Launch) -> None:
    launch.change(launch_context("ab" * 32, launch.read().run))


SPOILED: dict[str, tuple[Spoil, str]] = {
    "opened before": (_opened_before, "was opened already"),
    "expired token": (_expired, "does not accept this job's token: it has expired"),
    "a token for another job": (_another_jobs, "this token is for another job"),
    "a person's token": (_a_persons, "refused this job's token"),
    "flipped byte": (_flipped, "the job's access was changed"),
    "truncated": (_truncated, "was cut or extended"),
    "another study's": (_for_another_study, f"the job's access was sealed for study {'ab' * 32}"),
}


def test_each_spoiled_launch_fails_by_name_and_the_next_job_carries_the_run_out(
    stage: Stage,
) -> None:
    waiting, spoiled = dict(SPOILED), {}

    def spoil(job: str) -> None:
        if waiting:
            name = next(iter(waiting))
            spoiled[job] = name
            waiting.pop(name)[0](stage, Launch(stage, job))

    stage.sagemaker.before = spoil
    digest = stage.launch("local noise", steps=3)
    stage.over(digest, seconds=400)
    assert set(spoiled.values()) == set(SPOILED)
    for job, name in spoiled.items():
        outcome = stage.sagemaker.outcome(job)
        assert outcome.status == "Failed", name
        assert SPOILED[name][1] in outcome.reason, (name, outcome.reason)
    assert rounds(all_events(stage.home, digest)) == [1, 2, 3]


def test_a_wrong_secret_fails_by_name_and_the_next_job_carries_the_run_out(
    aws: Aws, tmp_path: Path
) -> None:
    """The first job is told another secret than the one that its run is lent for."""
    another = """
import os
from flo.server.runs import jobs
right = jobs.job_secret
jobs.job_secret = lambda m, s, job: os.urandom(32) if job.endswith("-1") else right(m, s, job)
"""
    with staged(aws, tmp_path, ("north", "south"), before=another) as stage:
        digest = stage.launch("local noise", steps=3)
        stage.over(digest)
        first = next(iter(name for name, job in stage.sagemaker.jobs.items() if job.process))
        outcome = stage.sagemaker.outcome(first)
        assert outcome.status == "Failed"
        assert "superexec ended (code 3) before the run did" in outcome.reason
        assert rounds(all_events(stage.home, digest)) == [1, 2, 3]


# -- the saved state -------------------------------------------------------------------------------


def test_a_missing_state_stops_the_run_by_name_until_it_is_put_back(stage: Stage) -> None:
    """All of them go: the newest may be one that the killed job had no time to tell of."""
    kept: dict[str, bytes] = {}

    def remove_once(job: str) -> None:
        stage.sagemaker.before = None
        store = stage.artifacts(digest)
        for key in store.keys("runs/"):
            kept[key] = store.get(key, LIMIT)
            store.remove(key)

    digest = stage.launch("distributed noise", steps=30)
    stage.round_passed(digest, 3)
    stage.sagemaker.before = remove_once
    kill_all_of(stage.sagemaker.latest()[1])
    wait_for(
        lambda _: any(
            event["kind"] == "failed" and "is missing" in event["facts"]["why"]
            for event in all_events(stage.home, digest)
        ),
        stage.home.directory,
        digest,
    )
    for key, data in kept.items():
        stage.artifacts(digest).put(key, data)
    stage.over(digest)
    assert rounds(all_events(stage.home, digest)) == list(range(1, 31))


def why_paused(stage: Stage, digest: str) -> str:
    """Why its run was paused, each time."""
    events = all_events(stage.home, digest)
    (why,) = {event["facts"]["why"] for event in events if event["kind"] == "paused"}
    return str(why)


def test_a_job_that_was_never_begun_is_followed_by_one_that_is(stage: Stage) -> None:
    """As after kill -9 between its name and its request, or while SageMaker was away."""
    stage.coordinator.stop()
    toml, good = stage.home.config_path, stage.home.config_path.read_text()
    toml.write_text(good.replace(stage.config.launch_key, stage.config.launch_key[:-12] + "0" * 12))
    stage.coordinator = RealCoordinator(stage.home)
    stage.coordinator.wait_until_ready()
    digest = stage.launch("local noise", steps=3)
    wait_for(lambda _: "paused" in stage.kinds(digest), stage.home.directory, digest)
    why = why_paused(stage, digest)
    assert "a job could not be started" in why
    assert "does not exist" in why
    stage.coordinator.stop()
    toml.write_text(good)
    stage.coordinator = RealCoordinator(stage.home)
    stage.coordinator.wait_until_ready()
    stage.over(digest)
    assert rounds(all_events(stage.home, digest)) == [1, 2, 3]


def test_a_study_without_a_role_waits_and_says_who_makes_it(stage: Stage) -> None:
    for role in roles_of(stage.aws, stage.config).all():  # of the same study in another test
        roles_of(stage.aws, stage.config).remove(role.study)
    digest = stage.launch("local noise", steps=3, with_role=False)
    wait_for(lambda _: "paused" in stage.kinds(digest), stage.home.directory, digest)
    why = why_paused(stage, digest)
    assert "Could not assume role" in why
    assert why.endswith(
        f"If it has no role: flo aws role {digest} --name flo --region eu-central-1"
    )
    roles_of(stage.aws, stage.config).make(digest)
    stage.over(digest)
    assert rounds(all_events(stage.home, digest)) == [1, 2, 3]


def test_without_an_account_nothing_is_launched_elsewhere(stage: Stage) -> None:
    toml = stage.home.config_path
    toml.write_text(toml.read_text().partition("[aws]")[0])
    stage.coordinator.stop()
    stage.coordinator = RealCoordinator(stage.home)
    stage.coordinator.wait_until_ready()
    with pytest.raises(FloError, match="this coordinator has no AWS account") as refused:
        stage.launch("local noise", steps=3)
    assert refused.value.exit_code == EXIT_USAGE
