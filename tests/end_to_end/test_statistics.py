"""Questions before models: three real hospitals answer tables, a curve and a regression."""

from __future__ import annotations

import contextlib
import csv
import json
from pathlib import Path
from typing import Any

import pytest

from flo.cli.coordinator.operator import Operator
from flo.clients.home.site_home import SiteHome
from flo.documents import canonical
from flo.privacy.report.report import verify
from flo.server.console.sign_in import COOKIE
from flo.server.http.tokens import issue
from flo.study.document import from_document
from flo.study.statistics import ROUNDS
from tests.builders import study_document
from tests.commands import flo
from tests.end_to_end.agents import agent
from tests.end_to_end.running import SITES, releases, wait_for
from tests.server.real_coordinator import RealCoordinator, ask, serving

pytestmark = pytest.mark.slow
PARTS = [
    {"kind": "table", "name": "table-one", "columns": ["age", "ward"], "by": "ill", "bins": 10},
    {"kind": "survival", "name": "time", "time": "age", "event": "ill", "edges": [30, 60, 90]},
    {
        **{"kind": "regression", "name": "risk", "family": "logistic", "outcome": "ill"},
        "predictors": ["age", "ward"],
    },
    {
        **{"kind": "catalogue", "name": "later", "columns": ["ward", "ill"], "share": 20},
        "pairs": [["ward", "ill"]],
    },
]


def done(*words: str | Path) -> str:
    said = flo(*words)
    assert said.returncode == 0, said.stderr
    return said.stdout


def document(sites: list[SiteHome], **changes: Any) -> dict[str, Any]:
    """A study of statistics as a person writes it: it says nothing about training."""
    found = study_document(
        schema_version=4,
        name="questions",
        hospitals=[{"id": site.read_config().hospital, "declared_size": 40} for site in sites],
        mechanism={"noise": "distributed", "masking": "on", "delta": 1e-6},
        statistics={"epsilon": 0.5, "parts": PARTS},
    )
    del found["model"], found["evaluation"]
    return found | changes


def assert_console_shows(coordinator: RealCoordinator, digest: str) -> None:
    text, _ = issue(coordinator.home.open_identity(), "Vera", "viewer", 600)
    study = f"/console/studies/{digest}"

    def get(path: str) -> tuple[int, str]:
        anyone = coordinator.anonymous()
        with coordinator.connection(coordinator.private_port, anyone) as connection:
            answer = ask(connection, "GET", path, headers={"cookie": f"{COOKIE}={text}"})
            return answer.status, answer.body.decode()

    assert "Tables and curves" in get(study)[1]
    assert "Kaplan-Meier curves" in get(f"{study}/statistics")[1]
    assert get(f"{study}/statistics/csv")[1].startswith("part,group,column,statistic")
    assert json.loads(get(f"{study}/statistics/json")[1])["hospitals"] == sorted(SITES)
    assert "Hospital by hospital" in get(f"{study}/statistics/report")[1]
    assert get(f"{study}/statistics/tensors")[0] == 403
    status, said = get(f"/console/studies/{'0' * 64}/statistics")
    assert (status, "does not exist" in said) == (400, True)


def assert_it_answers_later_questions(home: Path, signed: Path, folder: Path) -> None:
    """From the file alone, which is all that a statistician needs."""
    said = " ".join(done("study", "ask", signed, "ward = a and ill = 1", "--home", home).split())
    assert "patients" in said
    assert "later patients are not in it" in said
    answer = folder / "answer.json"
    done("study", "ask", "questions", "ill = 1", "--home", home, "--json", answer)
    found = json.loads(answer.read_bytes())
    value, low, high = found["patients"]
    assert low <= value <= high
    assert 0 <= value <= 400, "of 120 patients, with noise"
    refused = flo("study", "ask", signed, "age >= 40", "--home", home)
    assert (refused.returncode, "no column 'age'" in refused.stderr) == (2, True)
    rows = folder / "rows.csv"
    done("study", "synthesize", signed, "--out", rows, "--rows", "30", "--home", home)
    lines = rows.read_text().splitlines()
    assert lines[0] == "patient_id,ward,ill"
    assert lines[1].startswith("synthetic-000000,")
    assert len(lines) == 31
    again = flo("study", "synthesize", signed, "--out", rows, "--home", home)
    assert (again.returncode, "already exists" in again.stderr) == (2, True)


def test_from_a_question_to_a_page_and_a_verified_report(tmp_path: Path) -> None:
    with serving(tmp_path / "coordinator") as coordinator, contextlib.ExitStack() as stack:
        home = coordinator.home.directory
        sites = [coordinator.enrol(tmp_path / name, name) for name in SITES]
        for site in sites:
            stack.enter_context(agent(site))
        asked = from_document(document(sites))
        with Operator(home) as operator:
            offered = operator.call("POST", "studies", body=asked.canonical_bytes)
        digest = str(offered["digest"])
        keys = [f"{s.read_config().hospital}={s.open_identity().fingerprint}" for s in sites]
        for site in sites:
            done("site", "confirm", *keys, "--home", site.directory)
            sheet = " ".join(done("site", "review", digest, "--home", site.directory).split())
            assert "1 noisy sum of" in sheet
            assert "A count is right within ±" in sheet
            assert "logistic regression of ill on age, ward" in sheet
            done("site", "approve", digest, "--yes", "--home", site.directory)
        found = wait_for(lambda f: any(e["kind"] == "published" for e in f["events"]), home, digest)
        assert found["status"] == "done"
        assert "statistics" not in found["result"], "the long sum is in the signed file only"
        for site in sites:
            assert releases(site) == {"statistics": 1, "regression": ROUNDS}
        out = tmp_path / "results"
        said = " ".join(done("study", "results", "questions", "--out", out, "--home", home).split())
        assert "table-one" in said
        (signed,) = out.glob("*.statistics.json")
        (page,) = out.glob("*.html")
        (table,) = out.glob("*.csv")
        assert "Kaplan-Meier curves" in page.read_text()
        rows = list(csv.DictReader(table.read_text().splitlines()))
        assert {row["part"] for row in rows} == {"table-one", "time", "risk", "later"}
        assert_it_answers_later_questions(home, signed, tmp_path)
        report = (coordinator.home.directory / "models").glob("questions-*.report.json")
        (facts,) = [verify(path.read_bytes()) for path in report]
        assert len(facts["hospitals"]) == 3
        stated = json.loads(signed.read_bytes())
        assert sorted(stated["hospitals"]) == sorted(SITES)
        assert_console_shows(coordinator, digest)
        # The file alone gives everything again, and one changed number is found.
        again = tmp_path / "again"
        done("study", "results", signed, "--out", again, "--home", home)
        assert {p.name: p.read_bytes() for p in out.iterdir()} == {
            p.name: p.read_bytes() for p in again.iterdir()
        }
        stated["values"][0] += 1.0
        signed.write_bytes(canonical.encode(stated))
        refused = flo("study", "results", signed, "--out", again, "--home", home)
        assert refused.returncode == 4
        done("study", "shred", "questions", "--yes", "--home", home)
        assert not list((coordinator.home.directory / "models").glob("*.statistics.json"))
        with contextlib.closing(coordinator.home.open_store()) as store:
            record = store.last_run(digest)
        assert record is not None
        assert record.result is not None
        assert "statistics" not in record.result
