"""A survey first, then the study it was for: real processes, the commands that people type.

The study has an MLP, steps on a random sample of patients, and evaluation by subgroup.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tomli_w

from flo.clients.home.site_home import SiteHome
from tests.builders import study_document
from tests.commands import flo
from tests.server.real_coordinator import RealCoordinator, new_home

SITES = ("north", "south")
FLO = (sys.executable, "-m", "flo.cli")
pytestmark = pytest.mark.slow


def planned() -> dict[str, object]:
    document = study_document(model={"kind": "mlp", "hidden": [8]})
    document["hospitals"] = [{"id": name, "declared_size": 40} for name in SITES]
    document["mechanism"] |= {"sampling": 0.5, "steps": 4, "epsilon": 0.5, "retry_allowance": 0}
    document["evaluation"] = {"epsilon": 0.5, "subgroups": ["ward"]}
    return document


def offered(coordinator: RealCoordinator, *arguments: str | Path) -> subprocess.Popen[str]:
    """A command of the coordinator that goes on until its study has ended."""
    return subprocess.Popen(
        [*FLO, *map(str, arguments), "--home", str(coordinator.home.directory)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def approved(homes: list[SiteHome]) -> None:
    for home in homes:
        end = time.monotonic() + 120
        while flo("site", "review", "--home", home.directory).returncode:
            assert time.monotonic() < end, "nothing was offered"
        done = flo("site", "approve", "--yes", "--wait", "20", "--home", home.directory)
        assert done.returncode == 0, done.stderr


def test_a_survey_and_the_study_after_it(tmp_path: Path) -> None:
    study = tmp_path / "study.toml"
    study.write_text(tomli_w.dumps(planned()))
    coordinator = RealCoordinator(new_home(tmp_path / "coordinator"))
    with contextlib.ExitStack() as stack:
        stack.callback(coordinator.stop)
        coordinator.wait_until_ready()
        homes = [coordinator.enrol(tmp_path / name, name) for name in SITES]
        for home in homes:
            agent = stack.enter_context(
                subprocess.Popen([*FLO, "site", "run", "-q", "--home", str(home.directory)])
            )
            stack.callback(agent.kill)

        asked = ("study", "survey", study, "--column", "ward", "--epsilon", "0.3", "--launch")
        survey = stack.enter_context(offered(coordinator, *asked))
        approved(homes)
        screen, errors = survey.communicate(timeout=60)
        assert survey.returncode == 0, errors
        assert "done after 1 rounds" in screen
        assert "flo study results tiny-survey:1" in screen
        out = tmp_path / "counts"
        folder = coordinator.home.directory
        shown = flo("study", "results", "tiny-survey", "--out", out, "--home", folder)
        assert shown.returncode == 0, shown.stderr
        for words in ("ward: a, 0", "ward: a, 1", "ward: missing, 1"):
            assert words in shown.stdout

        launch = stack.enter_context(offered(coordinator, "study", "launch", study))
        approved(homes)
        screen, errors = launch.communicate(timeout=90)
        assert launch.returncode == 0, errors
        assert "done after 4 rounds" in screen
        for code in ("a", "b", "c", "missing"):
            assert f"ward={code}: " in screen

        for name in ("tiny-survey", "tiny"):
            out = tmp_path / name
            _until_both_sent(coordinator, name, out)
            made = flo("audit", "report", *sorted(out.glob("*.json")), "--out", out)
            assert made.returncode == 0, made.stderr
            assert flo("audit", "verify", out / "report.json").returncode == 0
            facts = json.loads((out / "report.json").read_bytes())["facts"]
            assert [site["settled"] for site in facts["hospitals"]] == [True, True]
            assert facts["same_code"] is True
        for home in homes:
            shown = json.loads(_budget(home, tmp_path / "budget.json"))
            (population,) = shown["populations"]
            survey_use, study_use = population["studies"]
            assert survey_use["spent"]["training"] == survey_use["spent"]["evaluation"] > 0
            assert study_use["spent"]["training"] > 0


def _until_both_sent(coordinator: RealCoordinator, name: str, out: Path) -> None:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        flo("study", "extracts", name, "--out", out, "--home", coordinator.home.directory)
        if len(list(out.glob("*.json"))) == len(SITES) + 1:  # and the coordinator's heads
            return
        time.sleep(0.2)
    raise AssertionError("not every hospital sent its extract")


def _budget(home: SiteHome, path: Path) -> str:
    done = flo("site", "budget", "--home", home.directory, "--json", path)
    assert done.returncode == 0, done.stderr
    return path.read_text()
