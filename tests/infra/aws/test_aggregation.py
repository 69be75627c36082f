"""Aggregated in a training job: real agents, a real coordinator, a real job; AWS is emulated."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from flo.clients.home.site_home import SiteHome
from flo.infra.aws.sagemaker import SageMakerJobs
from flo.server.home.aws_config import AwsConfig
from flo.server.home.coordinator_home import CoordinatorHome
from flo.storage.artifacts import ArtifactStore
from tests.builders import make_site
from tests.end_to_end.agents import agent, kill
from tests.end_to_end.running import (
    WIDE,
    all_events,
    card_of,
    launch,
    releases,
    rounds,
    wait_for,
)
from tests.infra.aws.account import account, home_with, roles_of
from tests.infra.aws.emulated import Aws
from tests.infra.aws.sagemaker import EmulatedSageMaker, emulated_sagemaker, kill_all_of
from tests.server.real_coordinator import RealCoordinator, served

KEYED = "tests.end_to_end.keyed_agent"
STEPS = 12

pytestmark = pytest.mark.slow


@dataclass
class Stage:
    """Who is there: a coordinator with an account, its hospitals' agents, SageMaker."""

    aws: Aws
    config: AwsConfig
    home: CoordinatorHome
    coordinator: RealCoordinator
    sagemaker: EmulatedSageMaker
    sites: list[SiteHome]

    def launch(
        self,
        mode: str,
        *,
        on: str = "sagemaker",
        version: int = 1,
        with_role: bool = True,
        **more: Any,
    ) -> str:
        if on == "sagemaker" and with_role:
            more["when_offered"] = roles_of(self.aws, self.config).make
        return launch(
            self.coordinator, self.sites, mode, on=on, version=version, epsilon=0.4, **more
        )

    def over(self, digest: str, *, seconds: float = 180) -> Any:
        return wait_for(
            lambda found: found["status"] == "done" and self.carded(digest),
            self.home.directory,
            digest,
            seconds=seconds,
        )

    def round_passed(self, digest: str, number: int) -> None:
        wait_for(
            lambda _: number in rounds(all_events(self.home, digest)), self.home.directory, digest
        )

    def carded(self, digest: str) -> bool:
        return "published" in self.kinds(digest)

    def kinds(self, digest: str) -> list[str]:
        return [event["kind"] for event in all_events(self.home, digest)]

    def artifacts(self, digest: str) -> ArtifactStore:
        return SageMakerJobs(self.config).artifacts(digest)


@contextlib.contextmanager
def staged(aws: Aws, folder: Path, names: tuple[str, ...], *, before: str = "") -> Iterator[Stage]:
    """``before``: Python that the coordinator runs first."""
    config = account(aws)
    home = home_with(config, folder / "coordinator")
    sites = [make_site(folder / name, name) for name in names]
    with contextlib.ExitStack() as stack:
        sagemaker = stack.enter_context(emulated_sagemaker(aws, folder / "sagemaker"))
        coordinator = stack.enter_context(served(RealCoordinator(home, before)))
        for site in sites:
            coordinator.admit(site)
            stack.enter_context(agent(site, KEYED))
        stage = Stage(aws, config, home, coordinator, sagemaker, sites)
        stack.callback(lambda: stage.coordinator.stop())
        yield stage


@pytest.fixture
def three(aws: Aws, tmp_path: Path) -> Iterator[Stage]:
    with staged(aws, tmp_path, ("north", "south", "west")) as found:
        yield found


@pytest.mark.parametrize(
    ("names", "mode", "model"),
    [
        pytest.param(("north", "south"), "local noise", None, id="2 sites, local noise"),
        pytest.param(("north", "south"), "distributed noise", WIDE, id="2 sites, a large model"),
        pytest.param(
            ("north", "south", "west", "east"), "distributed noise", None, id="4 sites, secure sums"
        ),
    ],
)
def test_a_job_ends_in_the_very_model_that_the_coordinator_would_have_made(
    aws: Aws, tmp_path: Path, names: tuple[str, ...], mode: str, model: dict[str, Any] | None
) -> None:
    """A large model starts from weights of its study, so two studies have no model in common."""
    with staged(aws, tmp_path, names) as stage:
        first = stage.launch(mode, on="here", steps=STEPS, model=model)
        here, more = stage.over(first), dict[str, Any]()
        if mode == "local noise":  # both of the others continue the first
            more = {"schema": 4, "continues": card_of(stage.home, first), "learning_rate": 0.25}
            again = stage.launch(mode, on="here", version=3, steps=STEPS, **more)
            begun, here = here, stage.over(again)
            assert here["result"]["model_digest"] != begun["result"]["model_digest"]
        digest = stage.launch(mode, version=2, steps=STEPS, model=model, **more)
        there = stage.over(digest)
        if model is None:
            assert there["result"]["model_digest"] == here["result"]["model_digest"]
        assert rounds(all_events(stage.home, digest)) == list(range(1, STEPS + 1))
        (name,) = [name for name, job in stage.sagemaker.jobs.items() if job.process]
        assert stage.sagemaker.outcome(name).status == "Completed"
        assert Path(there["result"]["model"]).is_file()
        for site in stage.sites:
            studies = 3 if more else 2
            assert releases(site) == {"training": studies * STEPS, "evaluation": studies}
        assert_everything_in_the_bucket_is_encrypted(stage, digest)


def assert_everything_in_the_bucket_is_encrypted(stage: Stage, digest: str) -> None:
    s3, bucket = stage.aws.client("s3"), stage.config.bucket
    keys = [item["Key"] for item in s3.list_objects_v2(Bucket=bucket)["Contents"]]
    assert any(key.endswith(".safetensors.sealed") for key in keys)
    assert any(key.endswith("output/model.tar.gz") for key in keys)
    for key in keys:
        head = s3.head_object(Bucket=bucket, Key=key)
        assert key.startswith(f"studies/{digest}/")
        assert head["ServerSideEncryption"] == "aws:kms"
        if key.endswith(".sealed"):
            body = s3.get_object(Bucket=bucket, Key=key)["Body"].read()
            assert body.startswith(b"flo-object-1\n")
            assert b'"weights"' not in body


def test_sigterm_stops_a_job_cleanly_and_another_goes_on_from_there(three: Stage) -> None:
    digest = three.launch("distributed noise", steps=40)
    three.round_passed(digest, 3)
    first, job = three.sagemaker.latest()
    job.stop()
    outcome = three.sagemaker.outcome(first)
    assert outcome.status == "Stopped"
    assert "stopped by SIGTERM; the run's state is saved" in outcome.reason
    three.over(digest)
    assert rounds(all_events(three.home, digest)) == list(range(1, 41))
    second, _ = three.sagemaker.latest(but=first)
    assert three.sagemaker.outcome(second).status == "Completed"


def test_a_job_that_is_killed_is_followed_by_another(three: Stage) -> None:
    digest = three.launch("distributed noise", steps=40)
    three.round_passed(digest, 3)
    first, job = three.sagemaker.latest()
    kill_all_of(job)
    assert three.sagemaker.outcome(first).status == "Failed"
    three.over(digest)
    assert rounds(all_events(three.home, digest)) == list(range(1, 41))
    assert "job-over" in three.kinds(digest)


def test_a_job_outlives_the_coordinator(three: Stage) -> None:
    digest = three.launch("distributed noise", steps=60)
    three.round_passed(digest, 3)
    kill(three.coordinator._process.pid)
    three.coordinator.stop()
    three.coordinator = RealCoordinator(three.home)
    three.coordinator.wait_until_ready()
    three.over(digest)
    told = rounds(all_events(three.home, digest))
    # A job saves a round before it tells of it: killed in between, the story lacks that one line.
    assert told == sorted(told)
    assert set(range(1, 61)) >= set(told)
    assert (len(told) >= 59, told[-1]) == (True, 60)
    (name,) = [name for name, job in three.sagemaker.jobs.items() if job.process]
    assert three.sagemaker.outcome(name).status == "Completed"


def test_the_names_and_tags_of_a_job_tell_nothing_but_digests(three: Stage) -> None:
    digest = three.launch("local noise", steps=3)
    three.over(digest)
    name, _ = three.sagemaker.latest()
    found = three.aws.client("sagemaker").describe_training_job(TrainingJobName=name)
    told = json.dumps(found, default=str)
    for word in ("north", "south", "west", "purpose", "label", "outcome"):
        assert word not in told.replace("west-", "").replace("us-west", ""), word
