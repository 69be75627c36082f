"""A coordinator takes a version back: real agents, real sockets, and requests meanwhile."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from flo.clients.connection.enrolment import connect
from flo.clients.home.site_home import SiteHome
from flo.clients.prediction import version_news, versions
from flo.errors import EXIT_OK, EXIT_USAGE, MessageError
from flo.published.model_card import ModelCard
from flo.study.document import Study, from_document
from tests.builders import csv_text, study_document
from tests.commands import Ended, flo
from tests.end_to_end.agents import agent, kill
from tests.server.continued import finished, publish
from tests.server.real_coordinator import RealCoordinator, kinds, serving

pytestmark = pytest.mark.processes

LIMIT_SECONDS = 60.0
WHY = "--why", "the committee said so"


@dataclass(frozen=True)
class Consortium:
    """A coordinator with two published versions of ``tiny``, and two of its hospitals."""

    coordinator: RealCoordinator
    sites: list[SiteHome]
    studies: list[Study]
    cards: list[ModelCard]

    def says(self, *command: str | Path) -> Ended:
        """A command of the coordinator's operator."""
        return flo("model", *command, "--home", self.coordinator.home.directory)


def versions_of_tiny(
    coordinator: RealCoordinator, **more: Any
) -> Iterator[tuple[Study, ModelCard]]:
    """Versions 1 and 2, published. ``more``: what else their cards say."""
    home = coordinator.home
    for version in (1, 2):
        document = study_document(schema_version=4, version=version)
        with contextlib.closing(home.open_store()) as store:
            study = from_document(document).with_fingerprints(store.keys())
        card = publish(home, study, run=f"run-{version}", **more)
        path = home.directory / "models" / f"tiny-{version}-{study.digest[:8]}.safetensors"
        result: dict[str, Any] = {"rounds": 3, "epsilon": 1.0, "model": str(path)}
        finished(home, study, result, "")
        yield study, card


@pytest.fixture
def consortium(tmp_path: Path) -> Iterator[Consortium]:
    with serving(tmp_path / "coordinator") as coordinator:
        sites = [coordinator.enrol(tmp_path / name, name) for name in ("north", "south", "west")]
        studies, cards = zip(*versions_of_tiny(coordinator), strict=True)
        yield Consortium(coordinator, sites[:2], list(studies), list(cards))


def current_everywhere(consortium: Consortium, version: int) -> None:
    wanted = f"tiny:{version}"
    for step, state in (("approve", "approved"), ("promote", "current")):
        done = consortium.says(step, wanted, *WHY)
        assert done.returncode == EXIT_OK, done.stderr
        assert f"version {version} of tiny is {state}" in done.stdout
    for site in consortium.sites:
        done = flo("model", "promote", wanted, *WHY, "--home", site.directory)
        assert done.returncode == EXIT_OK, done.stderr


def answered_by(site: SiteHome, data: Path) -> str:
    """The version that answers a request at a hospital now."""
    out = site.directory.parent / "scores.csv"
    done = flo("model", "predict", "tiny", "--data", data, "--out", out, "--home", site.directory)
    assert done.returncode == EXIT_OK, done.stderr
    (line,) = [line for line in " ".join(done.stdout.split()).split(": ") if "scored" in line]
    return line.rpartition("version ")[2]


def test_a_rollback_reaches_every_hospital_whose_agent_runs_within_a_minute(
    consortium: Consortium, tmp_path: Path
) -> None:
    current_everywhere(consortium, 1)
    current_everywhere(consortium, 2)
    data = tmp_path / "new.csv"
    data.write_text(csv_text())
    assert {answered_by(site, data) for site in consortium.sites} == {"2"}
    with contextlib.ExitStack() as stack:
        for site in consortium.sites:
            stack.enter_context(agent(site))
        began = time.monotonic()
        done = consortium.says("rollback", "tiny:2", "--why", "the units of creatinine were wrong")
        assert done.returncode == EXIT_OK, done.stderr
        assert "version 1 of tiny is current" in done.stdout
        told = time.monotonic() - began
        answers = {site.directory: list[str]() for site in consortium.sites}
        while time.monotonic() - began < LIMIT_SECONDS:
            for site in consortium.sites:
                answers[site.directory].append(answered_by(site, data))
            if all(found[-3:] == ["1"] * 3 for found in answers.values()):
                break
        took = time.monotonic() - began
    for found in answers.values():
        assert found == sorted(found, reverse=True), "none by version 2 after the first by 1"
        assert found[-1] == "1"
    assert told < LIMIT_SECONDS
    assert took < LIMIT_SECONDS
    site = consortium.sites[0]
    with connect(site) as api, pytest.raises(MessageError, match="was withdrawn on"):
        api.call("models", {"study": consortium.studies[1].digest})
    shown = flo("model", "states", "--home", site.directory).stdout
    assert "withdrawn" in shown
    assert "in use" in shown
    assert kinds(consortium.coordinator.home).count("model-decided") == 6


def test_a_hospital_that_was_away_learns_it_when_its_agent_starts(
    consortium: Consortium, tmp_path: Path
) -> None:
    """Killed while the coordinator decided: what it has is whole, and it asks when it starts."""
    current_everywhere(consortium, 1)
    current_everywhere(consortium, 2)
    data = tmp_path / "new.csv"
    data.write_text(csv_text())
    site = consortium.sites[0]
    with agent(site) as process:
        time.sleep(1.0)
        kill(process.pid)
    assert consortium.says("withdraw", "tiny:2", *WHY).returncode == EXIT_OK
    assert answered_by(site, data) == "2", "nobody has told it yet"
    with agent(site):
        began = time.monotonic()
        while answered_by(site, data) != "1":
            assert time.monotonic() - began < LIMIT_SECONDS
    assert versions.read(site).withdrawal("tiny", consortium.studies[1].digest) is not None


def test_the_coordinator_says_no_and_why(consortium: Consortium) -> None:
    for command, why in (
        (("rollback", "tiny:1", *WHY), "version 1 of tiny is not in use: none is"),
        (("promote", "tiny", *WHY), "several studies match: tiny:1"),
        (("promote", "tiny:7", *WHY), "no published model here called 'tiny:7'"),
        (("withdraw", "tiny:1", "--why", "two\nlines"), "why: control, format and line"),
        (("approve", "tiny:1", "--why", ""), "why:"),
        (("promote", "tiny:1", *WHY), "only an approved version can be made current"),
    ):
        done = consortium.says(*command)
        assert done.returncode == EXIT_USAGE, (command, done.stderr)
        assert why in " ".join(done.stderr.split()), (command, done.stderr)
    assert "model-decided" not in kinds(consortium.coordinator.home)
    listed = consortium.says("states").stdout
    assert listed.count("candidate") == 2


def test_a_current_model_is_not_erased(consortium: Consortium) -> None:
    for step in ("approve", "promote"):
        assert consortium.says(step, "tiny:1", *WHY).returncode == EXIT_OK
    home = consortium.coordinator.home.directory
    done = flo("study", "shred", "tiny:1", "--yes", "--home", home)
    assert done.returncode == EXIT_USAGE
    assert "is current: hospitals use it" in " ".join(done.stderr.split())
    assert consortium.says("withdraw", "tiny:1", *WHY).returncode == EXIT_OK
    assert flo("study", "shred", "tiny:1", "--yes", "--home", home).returncode == EXIT_OK


def test_hospitals_hear_only_of_models_of_their_studies(
    consortium: Consortium, tmp_path: Path
) -> None:
    assert consortium.says("approve", "tiny:1", *WHY).returncode == EXIT_OK
    east = consortium.coordinator.enrol(tmp_path / "east", "east")
    with connect(east) as api:
        assert version_news.ask(east, api).names == []
    with connect(consortium.sites[0]) as api:
        assert version_news.ask(consortium.sites[0], api).names == ["tiny"]
