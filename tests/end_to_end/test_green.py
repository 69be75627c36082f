"""A run waits for cleaner electricity, over a restart of the coordinator, and says what it used."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import tomli_w

from tests.commands import flo
from tests.end_to_end.agents import agent
from tests.end_to_end.running import SITES, launch, wait_for
from tests.server.real_coordinator import RealCoordinator, serving

pytestmark = pytest.mark.slow


def foreseen(folder: Path, grams: list[int]) -> None:
    """Intensities of this hour and of those that follow."""
    now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    rows = [f"{(now + timedelta(hours=at)).isoformat()},{one}" for at, one in enumerate(grams)]
    (folder / "ahead.csv").write_text("\n".join(["time,grams", *rows]) + "\n")


def test_it_waits_restarts_runs_when_it_is_clean_and_states_grams(tmp_path: Path) -> None:
    with serving(tmp_path / "coordinator") as first:
        home, folder = first.home, first.home.directory
        config = {"carbon": {"watts": 100.0, "grid": {"past": "ahead.csv", "ahead": "ahead.csv"}}}
        home.config_path.write_text(home.config_path.read_text() + tomli_w.dumps(config))
        foreseen(folder, [900, 900, 900, 30, 900, 900])
        homes = [first.enrol(tmp_path / name, name) for name in SITES]
        digest = launch(first, homes, "distributed noise", steps=3, start_within="5h")
        waiting = wait_for(
            lambda found: any(e["kind"] == "postponed" for e in found["events"]), folder, digest
        )
        assert waiting["status"] == "offered"
        first.stop()
        foreseen(folder, [30, 900, 900, 900, 900, 900])
        second = RealCoordinator(home)
        try:
            second.wait_until_ready()
            with contextlib.ExitStack() as stack:
                for site in homes:
                    stack.enter_context(agent(site))
                told = wait_for(
                    lambda found: any(e["kind"] == "emitted" for e in found["events"]),
                    folder,
                    digest,
                )
            done = flo("study", "watch", digest, "--home", folder)
            assert "electricity of the hospitals' machines, estimated: " in done.stdout
        finally:
            second.stop()
    (emitted,) = [e["facts"] for e in told["events"] if e["kind"] == "emitted"]
    seconds = sum(e["facts"]["seconds"] for e in told["events"] if e["kind"] == "round")
    assert emitted["kwh"] == pytest.approx(seconds * 3 * 100 / 3.6e6, rel=0.01)
    assert 29 <= emitted["grams"] / emitted["kwh"] <= 900  # the hour may turn meanwhile
