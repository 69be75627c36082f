"""The serving container as a process that sees only what its image installs."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
from packaging.requirements import Requirement

from tests.paths import ROOT
from tests.ports import free_ports

SERVING = ["python", "-m", "flo.infra.aws.serving.container"]


def installed_in_the_image() -> set[str]:
    """Distributions that the Dockerfile names, and those that they require."""
    text = (ROOT / "infra" / "images" / "serving.Dockerfile").read_text()
    found = re.search(r"constraints.txt \\\n +([a-z ]+) \\\n", text)
    assert found is not None
    waiting, known = found[1].split(), set[str]()
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in known:
            continue
        known.add(name)
        for line in importlib.metadata.requires(name) or []:
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(requirement.name)
    return known


def image_folder(folder: Path) -> Path:
    """A folder of links to those distributions, and to FLO."""
    folder.mkdir()
    for name in installed_in_the_image():
        place = importlib.metadata.distribution(name).locate_file("")
        for file in importlib.metadata.files(name) or []:
            top = file.parts[0]
            if top not in ("..", "__pycache__") and not (folder / top).exists():
                (folder / top).symlink_to(Path(str(place)) / top)
    (folder / "flo").symlink_to(ROOT / "flo")
    return folder


@contextlib.contextmanager
def container(
    root: Path, image: Path, *, argument: str = "serve", **environment: str
) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """The process, and its address. ``root``: of /opt/ml."""
    (port,) = free_ports(1)
    with (root / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-S", *SERVING[1:], argument],
            env={
                "PYTHONPATH": str(image),
                "FLO_ML_ROOT": str(root),
                "FLO_PORT": str(port),
                "PATH": os.environ["PATH"],
                **environment,
            },
            stdout=log,
            stderr=log,
        )
    try:
        yield process, f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def wait_until_it_answers(process: subprocess.Popen[bytes], url: str, root: Path) -> None:
    end = time.monotonic() + 30
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{url}/ping", trust_env=False).status_code == 200:
                return
        time.sleep(0.02)
    raise AssertionError((root / "log").read_text())
