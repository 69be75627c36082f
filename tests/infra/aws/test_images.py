"""The images, which cannot be built here: linted, pinned, neither root nor tools, checks run."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from flo.errors import UsageError
from flo.infra.aws.job.runner import LocalJob
from flo.infra.aws.sagemaker import ENTRYPOINT
from flo.storage.files import locked
from tests.infra.aws.serving import SERVING
from tests.paths import ROOT

FOLDER = ROOT / "infra" / "images"
FILES = sorted(FOLDER.glob("*.Dockerfile"))
every_image = pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)


def command(file: Path, instruction: str) -> list[str]:
    """The exec form behind an instruction."""
    found = re.search(rf"^\s*{instruction} (\[.*\])$", file.read_text(), re.MULTILINE)
    assert found is not None
    words: list[str] = json.loads(found[1])
    return words


def test_there_is_one_for_each_party() -> None:
    parties = [file.stem.split(".")[0] for file in FILES]
    assert parties == ["aggregator", "coordinator", "serving", "site"]


@pytest.mark.slow
@every_image
def test_the_linter_finds_nothing(file: Path) -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, file], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@every_image
def test_the_base_is_pinned_and_the_last_stage_has_neither_root_nor_tools(file: Path) -> None:
    text = file.read_text()
    assert re.search(r"^ARG BASE=\S+@sha256:[0-9a-f]{64}$", text, re.MULTILINE)
    assert set(re.findall(r"^FROM (\S+)", text, re.MULTILINE)) == {"${BASE}"}
    last = text.rpartition("FROM ${BASE}")[2]
    assert re.findall(r"^USER (\S+)", last, re.MULTILINE) == ["10001:10001"]
    assert "pip uninstall -y pip setuptools wheel" in last
    assert not re.search(r"apt-get|curl|wget|gcc|git ", text)
    assert "HEALTHCHECK" in last


@pytest.mark.processes
@every_image
def test_the_entry_point_is_a_command_that_exists(file: Path) -> None:
    words = command(file, "ENTRYPOINT")
    if file.stem.startswith("serving"):
        assert words == SERVING
        return
    if file.stem.startswith("aggregator"):
        assert words == ENTRYPOINT
        return
    known = [word for word in words[1:] if not word.startswith(("-", "/"))]
    shown = subprocess.run(
        [sys.executable, "-m", "flo.cli", *known, "--help"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert shown.returncode == 0
    assert "--home" in shown.stdout


@pytest.mark.processes
def test_a_site_is_healthy_while_its_agent_holds_its_lock(tmp_path: Path) -> None:
    python, *rest = command(FOLDER / "site.Dockerfile", "CMD")
    assert python == "python"
    check = [sys.executable, *(word.replace("/var/lib/flo/site", str(tmp_path)) for word in rest)]

    def healthy() -> bool:
        return subprocess.run(check, capture_output=True, check=False).returncode == 0

    assert not healthy()  # no agent has ever been here
    with locked(tmp_path / "agent.lock", "held"):
        assert healthy()
    assert not healthy()


def test_the_runner_runs_no_other_entry_point(tmp_path: Path) -> None:
    request = {
        "HyperParameters": {},
        "InputDataConfig": [],
        "CheckpointConfig": {"S3Uri": "s3://b/x"},
        "AlgorithmSpecification": {"ContainerEntrypoint": ["bash", "-c", "true"]},
    }

    class Empty:
        def get_paginator(self, name: str) -> Empty:
            return self

        def paginate(self, **asked: str) -> list[dict[str, str]]:
            return []

    pytest.importorskip("botocore")
    with pytest.raises(UsageError, match="must start with 'python', not with 'bash'"):
        LocalJob(request, tmp_path, Empty()).start()
