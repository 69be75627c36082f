"""Trust changes in the middle of a run: a hospital is revoked, certificates are renewed."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from flo.cli.coordinator.operator import Operator
from flo.clients.home.site_home import SiteHome
from tests.builders import small_study, study_document
from tests.commands import flo
from tests.end_to_end.agents import agent
from tests.server.real_coordinator import RealCoordinator, serving

pytestmark = pytest.mark.slow
SITES = ("north", "south", "west")


@pytest.fixture
def coordinator(tmp_path: Path) -> Iterator[RealCoordinator]:
    with serving(tmp_path / "coordinator") as real:
        yield real


def offered(operator: Operator, steps: int) -> str:
    document = study_document()
    document["mechanism"] |= {"masking": "on", "steps": steps, "retry_allowance": 10}
    study = small_study(**document)
    return str(operator.call("POST", "studies", body=study.canonical_bytes)["digest"])


def approve_all(homes: list[SiteHome], digest: str) -> None:
    for home in homes:
        done = flo("site", "approve", digest, "--yes", "--home", home.directory)
        assert done.returncode == 0, done.stderr


def wait(operator: Operator, digest: str, ready: Any) -> dict[str, Any]:
    end = time.monotonic() + 120
    while True:
        summary: dict[str, Any] = operator.call("GET", f"studies/{digest}")
        if ready(summary):
            return summary
        assert time.monotonic() < end, summary["status"]
        time.sleep(0.1)


def rounds(summary: dict[str, Any]) -> list[Any]:
    return [event["facts"] for event in summary["events"] if event["kind"] == "round"]


def releases(home: SiteHome) -> int:
    with closing(home.open_ledger()) as ledger:
        return sum(1 for row in ledger.rows() if row.public["kind"] == "release")


def test_a_hospital_revoked_in_the_middle_releases_nothing_more_and_the_others_go_on(
    coordinator: RealCoordinator, tmp_path: Path
) -> None:
    homes = [coordinator.enrol(tmp_path / name, name) for name in SITES]
    with contextlib.ExitStack() as stack:
        operator = stack.enter_context(Operator(coordinator.home.directory))
        digest = offered(operator, steps=80)
        approve_all(homes, digest)
        agents = [stack.enter_context(agent(home)) for home in homes]
        wait(operator, digest, lambda summary: len(rounds(summary)) >= 5)
        done = flo("coordinator", "revoke", "west", "--home", coordinator.home.directory)
        assert done.returncode == 0, done.stderr
        summary = wait(operator, digest, lambda s: s["status"] not in ("offered", "running"))
        assert summary["status"] == "done"
        assert agents[2].wait(timeout=30) == 4  # it was told that it is refused
    assert releases(homes[2]) < 40 < 81 <= releases(homes[0])
    assert rounds(summary)[-1]["cohort"] == ["north", "south"]


def test_a_run_goes_on_over_renewed_certificates(
    coordinator: RealCoordinator, tmp_path: Path
) -> None:
    homes = [coordinator.enrol(tmp_path / name, name) for name in SITES]
    before = [(home.directory / "certificate.pem").read_bytes() for home in homes]
    with contextlib.ExitStack() as stack:
        operator = stack.enter_context(Operator(coordinator.home.directory))
        digest = offered(operator, steps=60)
        approve_all(homes, digest)
        for home in homes:
            stack.enter_context(agent(home, "tests.end_to_end.renewing_agent"))
        summary = wait(operator, digest, lambda s: s["status"] not in ("offered", "running"))
        events = [event["kind"] for event in summary["events"]]
    assert summary["status"] == "done"
    assert events.count("round") == 61
    for home, old in zip(homes, before, strict=True):
        assert (home.directory / "certificate.pem").read_bytes() != old
        with closing(home.open_audit_log()) as log:
            renewals = sum(1 for entry in log.entries() if entry.kind == "certificate-renewed")
        assert renewals >= 2
