"""``flo demo`` once, and everything that its folder must and must not show afterwards."""

from __future__ import annotations

import json
import re
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from flo.documents import canonical
from flo.privacy.accounting.plan import Plan
from flo.privacy.report.report import verify
from flo.study.loading import load
from tests.commands import flo, flo_process
from tests.paths import EXAMPLES

DEMO_SECONDS = 240
HOSPITALS = ("cleveland", "hungary", "switzerland", "va-long-beach")
STUDY = load(EXAMPLES / "heart" / "study.toml")
KEYS = {
    "auc",
    "auc_interval",
    "epsilon",
    "delta",
    "trust_model",
    "rounds",
    "seconds_per_round",
    "seconds_total",
    "report",
    "sites",
}


@dataclass(frozen=True)
class Demo:
    directory: Path
    result: dict[str, Any]
    screen: str


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    folder = tmp_path_factory.mktemp("demo")
    directory, json_file = folder / "stage", folder / "demo.json"
    done = flo_process("demo", "--dir", directory, "--json", json_file, seconds=DEMO_SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr
    return Demo(directory, json.loads(json_file.read_text()), done.stdout)


@pytest.mark.slow
@pytest.mark.processes
def test_the_result_has_the_documented_keys(demo: Demo) -> None:
    assert set(demo.result) >= KEYS
    assert set(demo.result["sites"]) == set(HOSPITALS)
    for site in demo.result["sites"].values():
        assert set(site) == {"declared_size", "epsilon", "delta", "rounds"}


@pytest.mark.processes
def test_every_round_ran_and_the_model_was_measured(demo: Demo) -> None:
    assert demo.result["status"] == "done"
    assert demo.result["rounds"] == STUDY.mechanism.steps
    low, high = demo.result["auc_interval"]
    assert 0 <= low <= demo.result["auc"] <= high <= 1
    assert 0 < demo.result["seconds_per_round"] < demo.result["seconds_total"]


@pytest.mark.processes
def test_epsilon_is_below_one_and_is_said_with_its_delta_and_trust_model(demo: Demo) -> None:
    assert 0 < demo.result["epsilon"] < 1
    assert demo.result["delta"] == STUDY.mechanism.delta
    assert demo.result["trust_model"] == "distributed noise"
    for site in demo.result["sites"].values():
        assert 0 < site["epsilon"] <= STUDY.mechanism.epsilon
        assert site["delta"] <= 1e-6


@pytest.mark.processes
def test_the_last_screen_says_how_to_verify_the_report(demo: Demo) -> None:
    text = " ".join(demo.screen.split())
    assert "audit verify" in text
    assert "noisy AUC" in text


@pytest.mark.processes
@pytest.mark.parametrize("hospital", HOSPITALS)
def test_a_ledger_has_one_release_for_each_attempt_that_its_hospital_answered(
    demo: Demo, hospital: str
) -> None:
    failed = sum(event["kind"] == "attempt-failed" for event in events(demo))  # a busy machine
    path = demo.directory / "sites" / hospital / "ledger.sqlite"
    with closing(sqlite3.connect(path)) as database:
        rows = [json.loads(row[0]) for row in database.execute("SELECT public FROM rows")]
    kinds = Counter(row["kind"] for row in rows)
    planned = sum(part.planned for part in Plan.of(STUDY).purposes.values())
    assert kinds["release"] == planned + failed
    assert kinds == {**kinds, "birth": 1, "reserve": 1, "settle": 1}


def events(demo: Demo) -> list[dict[str, Any]]:
    with closing(
        sqlite3.connect(demo.directory / "coordinator" / "coordinator.sqlite")
    ) as database:
        return [{"kind": row[0]} for row in database.execute("SELECT kind FROM events")]


@pytest.mark.processes
def test_the_model_scores_a_hospitals_patients_offline(demo: Demo, tmp_path: Path) -> None:
    (card,) = (demo.directory / "coordinator" / "models").glob("*.card.json")
    site, data = demo.directory / "sites" / "hungary", demo.directory / "data" / "hungary.csv"
    scores = tmp_path / "scores.csv"
    done = flo("model", "predict", card, "--data", data, "--out", scores, "--home", site)
    assert done.returncode == 0, done.stderr
    assert len(scores.read_text().splitlines()) == len(data.read_text().splitlines())
    shown = flo("model", "show", card, "--home", site)
    assert "every hospital's ledger is in the report" in shown.stdout


@pytest.mark.processes
def test_the_report_that_the_model_card_names_verifies(demo: Demo) -> None:
    models = demo.directory / "coordinator" / "models"
    (card,), (report,) = models.glob("*.card.json"), models.glob("*.report.json")
    assert json.loads(card.read_text())["report"] == canonical.digest(report.read_bytes())
    assert flo("audit", "verify", report).returncode == 0


@pytest.mark.processes
def test_the_report_verifies(demo: Demo) -> None:
    done = flo("audit", "verify", demo.directory / "report.json")
    assert done.returncode == 0, done.stderr
    assert all(hospital in done.stdout for hospital in HOSPITALS)


@pytest.mark.processes
def test_the_coordinator_and_every_partner_saw_all_that_a_hospital_released(demo: Demo) -> None:
    """Neither a hospital nor two of them could have left a release out of this report."""
    for site in verify((demo.directory / "report.json").read_bytes())["hospitals"]:
        assert site["kept_by_coordinator"] == site["ledger_rows"]
        assert site["rows_after_that"] == 0
        assert len(site["witnessed_by"]) == len(HOSPITALS) - 1


@pytest.mark.processes
@pytest.mark.parametrize("place", [0.1, 0.5, 0.9])
def test_a_report_with_one_flipped_byte_does_not_verify(
    demo: Demo, tmp_path: Path, place: float
) -> None:
    data = bytearray((demo.directory / "report.json").read_bytes())
    data[int(place * len(data))] ^= 1
    (tmp_path / "report.json").write_bytes(data)
    done = flo("audit", "verify", tmp_path / "report.json")
    assert done.returncode == 4, done.stdout + done.stderr


@pytest.mark.processes
def test_the_report_page_needs_nothing_from_elsewhere(demo: Demo) -> None:
    page = Path(demo.result["report"]).read_text(encoding="utf-8")
    assert not re.search(r"""(?i)<script|<iframe|@import|\bon\w+\s*=\s*["']""", page)
    assert not re.search(r"""(?i)(src|href|action)\s*=\s*["']?\s*(https?:)?//""", page)
    assert not re.search(r"""(?i)url\(\s*["']?\s*(https?:)?//""", page)
    assert all(hospital in page for hospital in HOSPITALS)


@pytest.mark.processes
@pytest.mark.parametrize("hospital", ["cleveland", "hungary", "va-long-beach"])
def test_a_hospital_with_enough_patients_has_finished_the_model(demo: Demo, hospital: str) -> None:
    folder = demo.directory / "sites" / hospital / "finished"
    assert len(list(folder.glob("heart-disease-*.finished"))) == 1


@pytest.mark.processes
def test_no_process_of_the_demo_is_left(demo: Demo) -> None:
    end = time.monotonic() + 10
    while (left := list(_processes_that_mention(demo.directory))) and time.monotonic() < end:
        time.sleep(0.1)
    assert left == []


def _processes_that_mention(directory: Path) -> Iterator[str]:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes()
        except OSError:
            continue  # it ended while we looked
        if str(directory).encode() in command:
            yield command.replace(b"\0", b" ").decode(errors="replace")


@pytest.mark.processes
def test_no_patient_id_stands_anywhere_but_in_the_data_and_its_snapshots(demo: Demo) -> None:
    looked_at = 0
    for path in demo.directory.rglob("*"):
        inside = path.relative_to(demo.directory).parts
        if not path.is_file() or inside[0] == "data" or "snapshots" in inside:
            continue
        looked_at += 1
        assert b"uci-" not in path.read_bytes(), path
    assert looked_at > 50
    ids = (demo.directory / "data" / "cleveland.csv").read_bytes()
    assert b"uci-" in ids, "the search would find nothing"


@pytest.mark.processes
def test_keys_and_tokens_are_readable_by_their_owner_only(demo: Demo) -> None:
    secrets = [
        path
        for pattern in ("*.key", "*.token", "*.secret", "*.sqlite", "*.invitation.json")
        for path in demo.directory.rglob(pattern)
    ]
    assert len(secrets) > 20
    assert [path for path in secrets if path.stat().st_mode & 0o077] == []


def test_the_demo_does_not_empty_a_folder_that_is_not_its_own(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    done = flo("demo", "--dir", tmp_path)
    assert done.returncode != 0
    assert "not an earlier demo" in done.stderr
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
