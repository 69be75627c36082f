"""The worst day: a machine is gone, a backup is there, and a study was under way."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from flo.cli.coordinator.operator import Operator
from flo.clients.home.site_home import SiteHome
from flo.keys.keystore import PASSPHRASE_VARIABLE
from flo.privacy.report.report import build, verify
from flo.server.home.coordinator_home import CoordinatorHome
from tests.commands import flo
from tests.end_to_end.agents import agent, kill
from tests.end_to_end.running import SITES, launch, releases, rounds, wait_for
from tests.server.real_coordinator import RealCoordinator, new_home, served

STEPS = 40
pytestmark = pytest.mark.slow


@pytest.fixture
def passphrase(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "passphrase"
    file.write_text("a long passphrase\n")
    monkeypatch.setenv(PASSPHRASE_VARIABLE, str(file))


def done(*words: str | Path) -> str:
    said = flo(*words)
    assert said.returncode == 0, said.stderr
    return said.stdout


@pytest.mark.usefixtures("passphrase")
def test_a_site_that_lost_its_machine_goes_on_and_counts_all_that_it_may_have_released(
    tmp_path: Path,
) -> None:
    home = new_home(tmp_path / "coordinator")
    file = tmp_path / "north.backup"
    with contextlib.ExitStack() as stack:
        coordinator = stack.enter_context(served(RealCoordinator(home)))
        sites = [coordinator.enrol(tmp_path / name, name) for name in SITES]
        digest = launch(coordinator, sites, "local noise", steps=STEPS)
        north, *_ = [stack.enter_context(agent(site)) for site in sites]
        wait_for(lambda found: len(rounds(found["events"])) >= 3, home.directory, digest)
        done("site", "backup", file, "--home", sites[0].directory)
        so_far = len(rounds(wait_for(bool, home.directory, digest)["events"]))
        # The backup may hold a row of the round that was under way: 6 rounds are 5 lost rows.
        wait_for(lambda found: len(rounds(found["events"])) >= so_far + 6, home.directory, digest)
        kill(north.pid)
        released = releases(sites[0])["training"]
        shutil.rmtree(sites[0].directory)

        said = done("site", "restore", file, "--home", sites[0].directory)
        assert "rows of the ledger were lost" in said
        assert "charged in full" in said
        shown = flo("site", "policy", "--home", sites[0].directory)
        assert (shown.returncode, "approvers = 1" in shown.stdout) == (4, True)
        assert "flo site opt-out" in shown.stderr
        done("site", "policy", "--sign", "--home", sites[0].directory)
        stack.enter_context(agent(sites[0]))
        summary = wait_for(lambda found: found["status"] == "done", home.directory, digest)
        wait_for(
            lambda found: any(e["kind"] == "published" for e in found["events"]),
            home.directory,
            digest,
        )
        with Operator(home.directory) as operator:
            extracts = operator.call("GET", f"studies/{digest}/extracts")
    assert rounds(summary["events"]) == list(range(1, STEPS + 1))
    again = SiteHome.open(sites[0].directory)
    with closing(again.open_ledger()) as ledger:
        (held,) = ledger.balance().reservations.values()
    assert held.settled
    assert held.released["training"] == held.parts["training"].releases > released
    mine = tmp_path / "mine.json"
    done("site", "extract", digest, "--out", mine, "--home", sites[0].directory)
    others = [text.encode() for name, text in extracts.items() if name != "north"]
    facts = verify(build([mine.read_bytes(), *others]))
    (site,) = [one for one in facts["hospitals"] if one["hospital"] == "north"]
    (restored,) = site["restored"]
    assert restored["lost_rows"] >= 5
    assert site["releases_unseen"] > 0


@pytest.mark.usefixtures("passphrase")
def test_a_coordinator_that_lost_its_machine_goes_on_from_its_backup(tmp_path: Path) -> None:
    home = new_home(tmp_path / "coordinator")
    file = tmp_path / "coordinator.backup"
    with contextlib.ExitStack() as stack:
        coordinator = RealCoordinator(home)
        stack.callback(coordinator.stop)
        coordinator.wait_until_ready()
        sites = [coordinator.enrol(tmp_path / name, name) for name in SITES]
        digest = launch(coordinator, sites, "local noise", steps=STEPS)
        for site in sites:
            stack.enter_context(agent(site))
        wait_for(lambda found: len(rounds(found["events"])) >= 3, home.directory, digest)
        done("coordinator", "backup", file, "--home", home.directory)
        wait_for(lambda found: len(rounds(found["events"])) >= 10, home.directory, digest)
        kill(coordinator._process.pid)
        coordinator.stop()
        shutil.rmtree(home.directory)

        said = done("coordinator", "restore", file, "--home", home.directory)
        assert "admitted again: north, south, west" in said
        again = stack.enter_context(served(RealCoordinator(CoordinatorHome.open(home.directory))))
        assert again.port == coordinator.port
        summary = wait_for(lambda found: found["status"] == "done", home.directory, digest)
    assert summary["result"]["rounds"] == STEPS
    for site in sites:  # noise of a round that was asked for again was drawn once
        assert releases(site) == {"training": STEPS, "evaluation": 1}


def test_a_backup_asks_for_a_passphrase_and_writes_nothing_without(tmp_path: Path) -> None:
    home = new_home(tmp_path / "coordinator")
    command = ["coordinator", "backup", tmp_path / "out", "--home", home.directory]
    asked = subprocess.run(
        [sys.executable, "-m", "flo.cli", *map(str, command)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert asked.returncode == 2
    assert PASSPHRASE_VARIABLE in asked.stderr
    assert not (tmp_path / "out").exists()
