"""``flo aws advise``, as it is typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flo.clients.home.site_home import SiteHome
from flo.clients.serving.answer_log import AnswerLog, minutes
from tests.builders import make_site
from tests.commands import flo_process
from tests.infra.aws.scaling.test_advice import working_days

pytestmark = pytest.mark.processes


def trace_file(folder: Path, peak: float) -> Path:
    path, trace = folder / "trace.csv", working_days(7, peak)
    rows = [f"2026-03-{2 + at // 24:02}T{at % 24:02}:00," for at in range(30 * 24)]
    later = [f"2026-04-{1 + at // 24:02}T{at % 24:02}:00," for at in range(19 * 24)]
    counts = [round(rate * 3600) for rate in trace.hourly]
    lines = [f"{time}{count}" for time, count in zip([*rows, *later], counts, strict=True)]
    path.write_text("time,requests\n" + "\n".join(lines) + "\n")
    return path


def test_it_prints_what_to_write_and_writes_json(tmp_path: Path) -> None:
    path, told = trace_file(tmp_path, 5000), tmp_path / "advice.json"
    done = flo_process(
        *("aws", "advise", str(path), "--zone", "Europe/Berlin", "--model", "heart"),
        *("--json", str(told)),
    )
    assert done.returncode == 0, done.stderr
    screen = " ".join(done.stdout.split())
    assert "in aws/heart.toml of the site's folder, under [endpoint]:" in screen
    assert "[endpoint.scaling]" in screen
    found = json.loads(told.read_text())
    by_name = {one["name"]: one for one in found["ways"]}
    advised = by_name[found["advised"]]
    assert found["least_cost"] <= advised["cost"] < by_name["fixed machines"]["cost"]
    assert advised["unserved"] <= 0.001
    assert found["settings"] in done.stdout


def test_few_requests_are_the_functions(tmp_path: Path) -> None:
    done = flo_process("aws", "advise", str(trace_file(tmp_path, 1)), "--zone", "UTC")
    assert done.returncode == 0, done.stderr
    assert "advised: function only" in done.stdout
    assert "flo model deploy MODEL --on lambda" in done.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["x.csv"], "need a time zone"),
        (["--zone", "UTC"], "give either a trace file or --home"),
        (["x.csv", "--zone", "Mars"], "the time zone 'Mars' is not known"),
        (["x.csv", "--zone", "UTC"], "x.csv cannot be read"),
        (["x.csv", "--zone", "UTC", "--machine", "big"], "no big in [endpoint_hour]"),
        (["x.csv", "--zone", "UTC", "--machine-ms", "99"], "no machine answers within 200 ms"),
    ],
)
def test_what_is_missing_is_said(tmp_path: Path, words: list[str], said: str) -> None:
    done = flo_process("aws", "advise", *words)
    assert done.returncode == 2
    assert said in " ".join(done.stderr.split())


def test_a_hospitals_own_log_of_answers_is_a_trace(tmp_path: Path) -> None:
    site = make_site(tmp_path / "north")
    identity = SiteHome.open(site.directory).open_identity()
    log = AnswerLog(site.directory, identity)
    log.append_answers([("1", "ehr", "heart", 2, "scored"), ("2", "ehr", "sepsis", 1, "scored")])
    log.append_answers([("3", "ehr", "heart", 2, "invalid")])
    log.close()
    assert sum(minutes(site.directory, identity, "heart").values()) == 2
    asked = ("aws", "advise", "--zone", "UTC", "--home", str(site.directory))
    short = flo_process(*asked, "--model", "heart")
    assert "the trace has 0.0 weeks, and an advice needs 6" in " ".join(short.stderr.split())
    other = flo_process(*asked, "--model", "stroke")
    assert "the log of answers of stroke" in " ".join(other.stderr.split())
