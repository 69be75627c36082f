"""Patients' values and secrets are planted, a life is lived, and all that it left is searched.

Searched: every log, report, database, approval, extract, error text and console line of a hospital
and of the coordinator. Not searched: the hospital's own file and the frozen snapshots, which hold
patients by their nature (the files are shown to hold the markers, so the search can find them).
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from flo.cli.coordinator.operator import Operator
from flo.clients.home.site_home import SiteHome
from flo.study.columns import NumberColumn
from flo.study.features import scale
from tests.builders import data_file, small_study, study_document
from tests.commands import flo
from tests.end_to_end.agents import agent
from tests.server.real_coordinator import RealCoordinator, new_home

pytestmark = pytest.mark.slow
SITES = ("north", "south", "west")
MARK = "ZQPATIENT"
AGE = 61.737193  # nobody else's


def planted_csv(site: str) -> str:
    rows = ["patient_id,age,ward,ill"]
    ages = [AGE if i % 4 == 3 else 20 + i for i in range(40)]
    rows += [f"{MARK}-{site}-{i:03d},{ages[i]},{'abc'[i % 3]},{i % 2}" for i in range(40)]
    return "\n".join(rows) + "\n"


def secrets_of(home: SiteHome) -> list[bytes]:
    pem = home.open_identity().pem()
    return [
        pem.splitlines()[1],
        home.open_identity().key.private_numbers().private_value.to_bytes(48, "big"),
        home.open_split_key(),
        home.open_split_key().hex().encode(),
        home.open_patients_key(),
        home.open_patients_key().hex().encode(),
    ]


def needles(homes: list[SiteHome], token: str) -> dict[str, bytes]:
    (age, _) = small_study().data.columns
    assert isinstance(age, NumberColumn)
    scaled = float(scale(age, np.array([AGE]))[0])
    found = {
        "patient id": MARK.encode(),
        "patient id, folded": MARK.casefold().encode(),
        "value as text": str(AGE).encode(),
        "value as a number": struct.pack("<d", AGE),
        "scaled value": struct.pack("<d", scaled),
        "scaled value as text": repr(scaled).encode(),
        "token": token.encode(),
        "token's signature": token.rpartition(".")[2].encode(),
    }
    for home in homes:
        for number, secret in enumerate(secrets_of(home)):
            found[f"secret {number} of {home.read_config().hospital}"] = secret
    return found


def searched(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        holds_patients = path.suffix in (".csv", ".npz")
        if path.is_file() and not holds_patients and path.name != "access.json":
            yield path


def test_no_planted_value_is_found_anywhere(tmp_path: Path) -> None:
    said: list[str] = []

    def do(*arguments: str | Path, typed: str = "") -> None:
        done = flo(*arguments, typed=typed)
        said.append(done.stdout + done.stderr)
        assert done.returncode == 0, (arguments, done.stdout, done.stderr)

    coordinator = RealCoordinator(new_home(tmp_path / "coordinator"))
    with contextlib.ExitStack() as stack:
        stack.callback(coordinator.stop)
        coordinator.wait_until_ready()
        homes = [coordinator.enrol(tmp_path / name, name) for name in SITES]
        for home, name in zip(homes, SITES, strict=True):
            data_file(home).write_text(planted_csv(name))
        at = str(coordinator.home.directory)
        do("coordinator", "token", "Vera", "--role", "auditor", "--home", at,
           "--out", tmp_path / "access.json")  # fmt: skip
        token = json.loads((tmp_path / "access.json").read_bytes())["token"]
        document = study_document()
        document["mechanism"] |= {"masking": "on", "steps": 60, "retry_allowance": 10}
        with Operator(coordinator.home.directory) as operator:
            offered = operator.call("POST", "studies", body=small_study(**document).canonical_bytes)
            digest = str(offered["digest"])
            _a_bad_file_is_refused(homes[0], digest, do)
            agents = [
                stack.enter_context(
                    agent(home, said=tmp_path / f"{home.read_config().hospital}.said.txt")
                )
                for home in homes
            ]
            for home in homes:
                do("site", "review", digest, "--home", home.directory,
                   "--html", tmp_path / f"{home.read_config().hospital}.html")  # fmt: skip
                do("site", "approve", digest, "--yes", "--home", home.directory)
            _until(operator, digest, "running")
            _crash_the_child_of(agents[1].pid)  # before 60 rounds are over
            patient = f"{MARK}-north-000"
            do("site", "opt-out", "--home", homes[0].directory, typed=f"{patient}\n")
            do("site", "erase", "--home", homes[0].directory, typed=f"{patient}\n")
            _until(operator, digest, "done")
            do("study", "extracts", digest, "--home", at, "--out", tmp_path / "extracts")
        extracts = sorted((tmp_path / "extracts").iterdir())
        do("audit", "report", *extracts, "--out", tmp_path / "report")
        for home in homes:
            do("audit", "evidence", "--home", home.directory, "--out", tmp_path / "evidence")
            do("audit", "log", "--home", home.directory)
            do("site", "budget", "--home", home.directory)
        do("audit", "export", "--home", tmp_path / "access.json", "--out", tmp_path / "log.json")
    (tmp_path / "said.txt").write_text("\n".join(said))
    wanted = needles(homes, token)
    for path in searched(tmp_path):
        data = path.read_bytes()
        for what, needle in wanted.items():
            assert needle not in data, f"{what} is in {path}"
    assert sum(1 for _ in searched(tmp_path)) > 60
    files = [path.read_bytes() for path in tmp_path.rglob("*.csv")]
    assert len(files) == len(homes)
    assert all(MARK.encode() in data for data in files)


def _a_bad_file_is_refused(home: SiteHome, digest: str, do: object) -> None:
    """An error about the data names column, rule and rows, and no value."""
    file = data_file(home)
    good = file.read_text()
    file.write_text(good.replace(f"{MARK}-north-007,{AGE}", f"{MARK}-north-007,{MARK}{AGE}"))
    done = flo("site", "approve", digest, "--yes", "--home", home.directory)
    assert done.returncode == 3
    assert "column 'age': must be a number, 1 record (row 8)" in done.stderr
    assert MARK not in done.stderr + done.stdout
    file.write_text(good)


def _crash_the_child_of(parent: int) -> None:
    """As a bug in native code would: SIGSEGV, which dumps core where that is allowed."""
    end = time.monotonic() + 60
    while not (children := _children_of(parent)):  # one that ended is being started again
        assert time.monotonic() < end, "the agent has no child"
        time.sleep(0.1)
    for child in children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGSEGV)


def _children_of(parent: int) -> list[int]:
    """Whichever of its threads started them."""
    found = subprocess.run(["pgrep", "-P", str(parent)], capture_output=True, text=True)
    return [int(number) for number in found.stdout.split()]


def _until(operator: Operator, digest: str, status: str) -> None:
    end = time.monotonic() + 150
    while operator.call("GET", f"studies/{digest}")["status"] != status:
        assert time.monotonic() < end, f"never {status}"
        time.sleep(0.2)
