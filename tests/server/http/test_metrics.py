"""What can be watched: the same numbers for Prometheus and CloudWatch, and no patient in them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from flo.host.metrics import Kind, Meter, as_embedded, as_prometheus
from flo.privacy.accounting.accounting import epsilon_of
from flo.privacy.accounting.plan import Plan
from flo.server.http.last_seen import LastSeen
from flo.server.http.metrics import KINDS, REFUSALS, Traffic, measured
from flo.server.http.tokens import issue
from flo.server.store.store import Store
from tests.builders import counting, small_study
from tests.server.real_coordinator import serving

STUDY = small_study()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with closing(Store(tmp_path / "coordinator.sqlite")) as store:
        store.add_study(STUDY, "00")
        yield store


def after_rounds(store: Store, count: int) -> dict[str, float]:
    for number in range(1, count + 1):
        facts = {"phase": "training", "round": number, "cohort": ["north", "south"], "seconds": 0.5}
        store.add_event(STUDY.digest, "round", **facts)
    return found(store)


def found(store: Store, seen: LastSeen | None = None) -> dict[str, float]:
    """The values without a label but that of the study, by name."""
    return {
        metric.name: metric.value
        for metric in measured(store, Traffic(), seen or LastSeen(), Path("/"))
        if {name for name, _ in metric.labels} <= {"study"}
    }


def test_a_study_without_a_round_has_no_numbers_of_its_own(store: Store) -> None:
    assert "rounds" not in found(store)
    assert found(store)["rounds_planned"] > 0


def test_rounds_cohort_seconds_and_epsilon_are_what_the_events_and_the_plan_say(
    store: Store,
) -> None:
    now, part = after_rounds(store, 3), Plan.of(STUDY).purposes["training"]
    assert (now["rounds"], now["cohort"], now["round_seconds"]) == (3, 2, 0.5)
    assert now["epsilon_spent"] == epsilon_of(part.mechanism, 3, part.delta)
    planned = epsilon_of(part.mechanism, part.planned, part.delta)
    assert now["epsilon_planned"] == planned >= now["epsilon_spent"]
    assert 0 <= now["round_age_seconds"] < 60
    assert (now["study_hospitals"], now["study_approvals"]) == (len(STUDY.hospitals), 0)
    assert now["study_expires_seconds"] > 0


def test_rounds_of_every_kind_are_planned(store: Store) -> None:
    plan = Plan.of(STUDY)
    every = sum(plan.purpose(one).planned for one in plan.purposes)
    assert "evaluation" in plan.purposes
    assert after_rounds(store, every)["rounds"] == found(store)["rounds_planned"] == every


def test_a_study_of_statistics_has_its_numbers_too(store: Store) -> None:
    study = counting(STUDY, 0.5, [STUDY.data.columns[0].name])
    store.add_study(study, "00")
    facts = {"phase": "statistics", "round": 1, "cohort": ["north"], "seconds": 0.5}
    store.add_event(study.digest, "round", **facts)
    several = measured(store, Traffic(), LastSeen(), Path("/"))
    of = (("study", f"{study.name} v{study.version}"),)
    now = {one.name: one.value for one in several if one.labels == of}
    assert (now["rounds"], now["rounds_planned"]) == (1, 1)
    assert now["epsilon_spent"] == now["epsilon_planned"] == pytest.approx(0.5, rel=0.01)


def test_refusals_of_every_kind_count(store: Store) -> None:
    for kind in (*REFUSALS, "approved", "job-over"):
        store.add_event(None, kind)
    assert (found(store)["refusals"], found(store)["jobs_over"]) == (4, 1)
    assert found(store)["events"] == 6


def test_every_metric_is_of_a_known_kind_and_every_label_is_named(store: Store) -> None:
    after_rounds(store, 1)
    seen = LastSeen()
    for metric in measured(store, Traffic(), seen, Path("/")):
        assert metric.kind in KINDS
        assert tuple(name for name, _ in metric.labels) == metric.kind.labels
    names = [kind.name for kind in KINDS]
    assert len(names) == len(set(names))


def test_prometheus_reads_it(store: Store) -> None:
    after_rounds(store, 1)
    text = as_prometheus(measured(store, Traffic(), LastSeen(), Path("/")))
    assert "# TYPE flo_rounds counter\n" in text
    assert f'flo_rounds{{study="{STUDY.name} v{STUDY.version}"}} 1\n' in text
    for line in text.splitlines():
        assert line.startswith("#") or line.startswith("flo_")
        if not line.startswith("#"):
            float(line.rpartition(" ")[2])


def test_cloudwatch_reads_it() -> None:
    given = [
        Kind("refusals", "counter", "Count", "").of(2),
        Kind("rounds", "counter", "Count", "", ("study",)).of(7, "heart v1"),
    ]
    whole, study = as_embedded(given, 1_700_000_000.5)
    assert whole["refusals"] == 2
    assert whole["_aws"]["CloudWatchMetrics"][0]["Dimensions"] == [[]]
    assert (study["rounds"], study["study"]) == (7, "heart v1")
    (directive,) = study["_aws"]["CloudWatchMetrics"]
    assert directive["Namespace"] == "FLO"
    assert directive["Dimensions"] == [["study"]]
    assert directive["Metrics"] == [{"Name": "rounds", "Unit": "Count"}]
    assert study["_aws"]["Timestamp"] == 1_700_000_000_500


def test_the_log_has_what_came_since_the_line_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = iter([5.0, 8.0, 8.0])
    path = tmp_path / "log" / "metrics.jsonl"
    kind = Kind("refusals", "counter", "Count", "")
    meter = Meter(lambda: [kind.of(next(values))], path, path.with_suffix(".prom"))
    for _ in range(3):
        monkeypatch.setattr(meter, "_due", 0.0)
        meter.write_if_due()
        meter.write_if_due()  # a minute has not passed
    assert [json.loads(line)["refusals"] for line in path.read_text().splitlines()] == [0, 3, 0]


@pytest.mark.processes
def test_a_viewer_scrapes_a_real_coordinator(tmp_path: Path) -> None:
    with serving(tmp_path / "home") as real:
        real.enrol(tmp_path / "north", "north")
        assert real.private("GET", "/v1/flo/metrics").status == 401
        text, _ = issue(real.home.open_identity(), "prometheus", "viewer", 60)
        headers = {"authorization": f"Bearer {text}"}
        answer = real.private("GET", "/v1/flo/metrics", headers=headers)
        assert answer.status == 200
        lines = dict(line.rsplit(" ", 1) for line in answer.body.decode().splitlines())
        assert lines["flo_hospitals"] == "1"
        assert float(lines["flo_received_bytes"]) > 100
        assert float(lines["flo_sent_bytes"]) > 100
    line = json.loads((real.home.directory / "log" / "metrics.jsonl").read_text().splitlines()[0])
    assert "hospitals" in line
