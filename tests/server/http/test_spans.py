"""The way of a study as spans: what took how long, in one trace also over a restart."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from flo.errors import UsageError
from flo.server.home.coordinator_home import CoordinatorConfig, CoordinatorHome, TracesConfig
from flo.server.http.spans import Event, Span, StudyTrace
from tests.builders import small_study
from tests.otlp_receiver import Receiver, facts, receiving
from tests.ports import free_ports
from tests.server.real_coordinator import RealCoordinator, served

DIGEST = "ab" * 32
COHORT = ["north", "south"]


def events() -> list[Event]:
    given: list[tuple[str, str, dict[str, Any]]] = [
        ("00.000", "offered", {"name": "heart", "version": 2, "by": "Ada", "place": "here"}),
        ("01.000", "approved", {"hospital": "north", "code": "c", "people": []}),
        ("02.000", "approved", {"hospital": "south", "code": "c", "people": []}),
        ("02.100", "started", {"run": "run-1"}),
        ("02.500", "online", {"hospitals": COHORT}),
        ("03.000", "round", {"phase": "training", "round": 1, "cohort": COHORT, "seconds": 0.4}),
        (
            "04.000",
            "attempt-failed",
            {
                **{"phase": "training", "round": 2, "attempt": 1, "cohort": COHORT},
                **{"missing": ["south"], "why": "not all hospitals of the cohort replied"},
            },
        ),
        ("04.500", "paused", {"why": "too few hospitals are connected"}),
        ("06.000", "resumed", {"run": "run-1"}),
        ("07.000", "round", {"phase": "training", "round": 2, "cohort": COHORT, "seconds": 0.2}),
        ("08.000", "done", {"rounds": 2}),
        ("09.000", "published", {"card": "x"}),
    ]
    return [
        (10 + number, f"2026-01-02T03:04:{when}+00:00", kind, said)
        for number, (when, kind, said) in enumerate(given)
    ]


def seconds(span: Span) -> float:
    return (span.ended - span.begun) / 1e9


def test_every_part_of_a_study_has_its_time() -> None:
    found = list(StudyTrace(DIGEST).spans(events()))
    assert [(one.name, round(seconds(one), 3)) for one in found] == [
        ("approval", 1.0),
        ("approval", 2.0),
        ("waiting", 0.4),
        ("round", 0.4),
        ("attempt", 0.0),
        ("run", 2.4),
        ("round", 0.2),
        ("run", 2.0),
        ("study", 8.0),
        ("publishing", 1.0),
    ]
    assert {one.trace for one in found} == {StudyTrace(DIGEST).trace}
    assert len({one.id for one in found}) == len(found)


def test_parts_are_within_what_they_are_a_part_of() -> None:
    found = list(StudyTrace(DIGEST).spans(events()))
    (study,) = [one for one in found if one.name == "study"]
    runs = {one.id: one for one in found if one.name == "run"}
    assert study.parent == 0
    for one in found:
        if one.name in ("round", "waiting", "attempt"):
            assert runs[one.parent].begun <= one.begun <= one.ended <= runs[one.parent].ended
        elif one is not study:
            assert one.parent == study.id
    assert [one.facts["flo.hospital"] for one in found if one.name == "approval"] == COHORT
    (failed,) = [one for one in found if one.failed]
    assert (failed.facts["flo.missing"], failed.facts["flo.round"]) == (("south",), 2)


def test_after_a_restart_the_trace_goes_on() -> None:
    """Whoever begins in the middle ends with the same spans."""
    whole, again = list(StudyTrace(DIGEST).spans(events())), StudyTrace(DIGEST)
    before = list(again.spans(events()[:6]))
    assert before + list(again.spans(events()[6:])) == whole


def test_a_study_that_never_ran_has_no_run() -> None:
    kinds = [events()[0], events()[1]]
    stopped: Event = (99, "2026-01-02T03:05:00+00:00", "stopped", {})
    assert [one.name for one in StudyTrace(DIGEST).spans([*kinds, stopped])] == [
        *("approval", "study"),
    ]


@pytest.mark.parametrize("endpoint", ["127.0.0.1:4318", "file:///tmp/x", "http://a b"])
def test_what_is_no_address_is_refused(endpoint: str, tmp_path: Path) -> None:
    home = CoordinatorHome.create(tmp_path / "c", CoordinatorConfig())
    text = home.config_path.read_text()
    home.config_path.write_text(f'{text}\n[traces]\nendpoint = "{endpoint}"\n')
    with pytest.raises(UsageError, match="an address like"):
        home.read_config()


@pytest.fixture
def collector() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


@pytest.mark.processes
def test_a_coordinator_sends_them_to_a_collector_also_after_a_restart(
    collector: Receiver, tmp_path: Path
) -> None:
    port, private = free_ports(2)
    traces = TracesConfig(endpoint=collector.url)
    config = CoordinatorConfig(port=port, private_port=private, traces=traces)
    home, study = CoordinatorHome.create(tmp_path / "c", config), small_study(name="traced")
    middle = 7
    with served(RealCoordinator(home)), closing(home.open_store()) as store:
        store.add_study(study, home.open_identity().sign("study", study.canonical_bytes))
        for _, _, kind, said in events()[:middle]:
            store.add_event(study.digest, kind, **said)
        collector.wait_for("attempt")
    with served(RealCoordinator(home)), closing(home.open_store()) as store:
        for _, _, kind, said in events()[middle:]:
            store.add_event(study.digest, kind, **said)
        ended = collector.wait_for("publishing")
    names = [span.name for span in collector.spans]
    assert sorted(names) == sorted(one.name for one in StudyTrace(DIGEST).spans(events()))
    assert {span.trace_id for span in collector.spans} == {ended.trace_id}
    (whole,) = [span for span in collector.spans if span.name == "study"]
    assert whole.parent_span_id == b""
    assert ended.parent_span_id == whole.span_id
    assert facts(whole) == {
        "flo.study": study.digest,
        **{"flo.study.name": "heart", "flo.study.version": 2, "flo.ended": "done"},
    }
    failed = next(span for span in collector.spans if span.name == "attempt")
    assert facts(failed)["flo.missing"] == ["south"]
    assert failed.status.message == "not all hospitals of the cohort replied"


@pytest.mark.processes
def test_a_collector_that_does_not_answer_stops_nothing(tmp_path: Path) -> None:
    port, private, nobody = free_ports(3)
    traces = TracesConfig(endpoint=f"http://127.0.0.1:{nobody}")
    home = CoordinatorHome.create(
        tmp_path / "c", CoordinatorConfig(port=port, private_port=private, traces=traces)
    )
    with served(RealCoordinator(home)) as coordinator, closing(home.open_store()) as store:
        study = small_study(name="traced")
        store.add_study(study, home.open_identity().sign("study", study.canonical_bytes))
        for _, _, kind, said in events():
            store.add_event(study.digest, kind, **said)
        assert coordinator.private("GET", "/health").status == 204
