"""The coordinator's rules: what it does with replies, with silence, and with lies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from flo.claims import Head
from flo.errors import MessageError
from flo.messages import (
    MAX_ATTEMPTS,
    Reply,
    ReplyHeader,
    Request,
    RequestHeader,
    decode_request,
    encode_reply,
)
from flo.models import parameter_count
from flo.privacy.mechanisms import GRID
from flo.privacy.plan import Plan
from flo.server import checkpoint
from flo.server.rounds import (
    RunState,
    advance,
    check_reply,
    request_header,
    retried,
)
from flo.server.run import run_study
from flo.study import Study
from tests.builders import HOSPITALS, small_study

RUN = "run-1"
HEAD = Head(sequence=1, hash="0" * 64, signature="00", public="00")
Integers = npt.NDArray[np.int64]


# -- the arithmetic, by hand -------------------------------------------------------------------


def grid(study: Study, clips: float) -> Integers:
    """A release that means ``clips`` clip norms in every coordinate."""
    return np.full(parameter_count(study), round(clips * GRID), dtype=np.int64)


def test_three_rounds_give_the_weights_that_a_person_computes() -> None:
    # clip .5, learning rate .5, momentum .5, three hospitals that declare 40 patients each.
    study = small_study()
    state = RunState.start(study)

    state = advance(study, state, dict.fromkeys(HOSPITALS, grid(study, 80)))
    assert state.velocity == pytest.approx(1.0)  # 3 · 80 · .5 / 120
    assert state.weights == pytest.approx(-0.5)
    assert (state.round, state.attempt, state.tail_count) == (2, 1, 0)

    state = advance(study, state, dict.fromkeys(HOSPITALS, grid(study, 80)))
    assert state.velocity == pytest.approx(1.5)  # .5 · 1 + 1
    assert state.weights == pytest.approx(-1.25)
    assert (state.round, state.tail_count) == (3, 1)

    state = advance(study, state, dict.fromkeys(HOSPITALS, grid(study, 0)))
    assert state.velocity == pytest.approx(0.75)
    assert state.weights == pytest.approx(-1.625)
    assert state.model == pytest.approx((-1.25 - 1.625) / 2)  # the last half of three rounds
    assert (state.phase, state.round, state.attempt) == ("evaluation", 1, 1)


def test_the_evaluation_asks_about_the_model_that_is_published() -> None:
    study = small_study()
    state = RunState.start(study)
    for clips in (80, 80, 0):
        state = advance(study, state, dict.fromkeys(HOSPITALS, grid(study, clips)))
    assert np.array_equal(state.asked, state.model)
    counts = np.array([9, 5, 2, 1, 1, 2, 5, 9], dtype=np.int64) * GRID * 100
    state = advance(study, state, dict.fromkeys(HOSPITALS, counts))
    assert state.phase == "done"
    assert state.estimate is not None
    assert state.estimate.low <= state.estimate.auc <= state.estimate.high
    assert state.estimate.auc > 0.75


@pytest.mark.parametrize(
    ("cohort", "declared"),
    [(("north",), 40), (("north", "west"), 60), (("south", "west"), 60), (HOSPITALS, 100)],
    ids=lambda value: "+".join(value) if isinstance(value, tuple) else str(value),
)
def test_a_partial_cohort_is_divided_by_its_own_declared_size(
    cohort: tuple[str, ...], declared: int
) -> None:
    sizes = {"north": 40, "south": 40, "west": 20}
    study = small_study(hospitals=[{"id": h, "declared_size": n} for h, n in sizes.items()])
    state = advance(study, RunState.start(study), dict.fromkeys(cohort, grid(study, 10)))
    assert state.weights == pytest.approx(-0.5 * len(cohort) * 10 * 0.5 / declared)


# -- who answers what --------------------------------------------------------------------------


def _reply(header: RequestHeader, sender: str, values: Integers, **changes: Any) -> Reply:
    facts = header.model_dump(include={"study", "run", "purpose", "round", "attempt", "model"})
    document = {"kind": "release", "hospital": sender, "head": HEAD, **facts, **changes}
    return Reply(ReplyHeader.model_validate(document), values)


@pytest.mark.parametrize(
    ("changes", "length", "named"),
    [
        ({"study": "1" * 64}, 0, "another study"),
        ({"run": "run-2"}, 0, "another run"),
        ({"purpose": "evaluation"}, 0, "another purpose"),
        ({"round": 2}, 0, "another round"),
        ({"attempt": 2}, 0, "another attempt"),
        ({"model": "2" * 64}, 0, "another model"),
        ({"hospital": "south"}, 0, "in the name of south"),
        ({}, 1, "values"),
        ({}, -1, "values"),
        ({"kind": "refused", "code": "not-ready", "run": "run-2"}, 0, "another run"),
    ],
    ids=["study", "run", "purpose", "round", "attempt", "model", "hospital", "long", "short",
         "refusal"],
)  # fmt: skip
def test_a_reply_that_answers_something_else_is_refused(
    changes: dict[str, Any], length: int, named: str
) -> None:
    study = small_study()
    header = request_header(study, RUN, RunState.start(study), HOSPITALS)
    right = np.zeros(parameter_count(study), dtype=np.int64)
    check_reply(study, header, "north", _reply(header, "north", right))
    values = np.zeros(parameter_count(study) + length, dtype=np.int64)
    with pytest.raises(MessageError, match=named):
        check_reply(study, header, "north", _reply(header, "north", values, **changes))


def test_local_noise_may_be_asked_again_until_patience_ends() -> None:
    study = small_study()
    state: RunState | None = RunState.start(study)
    attempts = []
    while state is not None:
        attempts.append(state.attempt)
        state = retried(study, state)
    assert attempts == list(range(1, MAX_ATTEMPTS + 1))


@pytest.mark.parametrize("allowance", [0, 1, 3])
def test_distributed_noise_may_be_asked_again_as_often_as_the_study_allows(allowance: int) -> None:
    study = small_study().with_mechanism(
        noise="distributed", masking="on", retry_allowance=allowance
    )
    state: RunState | None = RunState.start(study)
    asked = 0
    while state is not None:
        asked += 1
        state = retried(study, state)
    assert asked == 1 + allowance


def test_the_allowance_is_for_the_whole_training_not_for_each_round() -> None:
    study = small_study().with_mechanism(noise="distributed", masking="on", retry_allowance=1)
    again = retried(study, RunState.start(study))
    assert again is not None
    second = advance(study, again, dict.fromkeys(HOSPITALS, grid(study, 1)))
    assert (second.round, second.attempt, second.retries) == (2, 1, 1)
    assert retried(study, second) is None


# -- a whole run -------------------------------------------------------------------------------

Behaviour = Callable[[Study, Request, str], bytes | None]


def honest(study: Study, request: Request, hospital: str) -> bytes | None:
    header = request.header
    if header.kind == "finish":
        return encode_reply(_reply(header, hospital, np.zeros(0, dtype=np.int64), kind="settled"))
    length = Plan.of(study).part(header.purpose).mechanism.length
    values = np.arange(length, dtype=np.int64) * GRID * (header.round + len(hospital))
    return encode_reply(_reply(header, hospital, values))


def silent(study: Study, request: Request, hospital: str) -> bytes | None:
    return None


def garbage(study: Study, request: Request, hospital: str) -> bytes | None:
    return b"\x00\x00\x00\x08not json"


def truncated(study: Study, request: Request, hospital: str) -> bytes | None:
    return (honest(study, request, hospital) or b"")[:-3]


def impostor(study: Study, request: Request, hospital: str) -> bytes | None:
    return honest(study, request, "north")


def of_yesterday(study: Study, request: Request, hospital: str) -> bytes | None:
    old = request.header.model_copy(update={"run": "run-0"})
    return honest(study, replace(request, header=old), hospital)


def unwilling(study: Study, request: Request, hospital: str) -> bytes | None:
    header = request.header
    nothing = np.zeros(0, dtype=np.int64)
    return encode_reply(_reply(header, hospital, nothing, kind="refused", code="not-approved"))


@dataclass
class Stage:
    """Exchange and store in memory: hospitals that behave as told, and a diary of what happened."""

    study: Study
    behaviours: dict[str, Behaviour] = field(default_factory=dict)
    stop_after_rounds: int = 1_000_000
    diary: list[tuple[str, str, int, int]] = field(default_factory=list)
    events: list[tuple[str, dict[str, object]]] = field(default_factory=list)
    cohorts: list[tuple[str, ...]] = field(default_factory=list)
    saved: RunState | None = None

    def ask(self, requests: dict[str, bytes], deadline_seconds: float) -> dict[str, bytes]:
        request = decode_request(next(iter(requests.values())))
        header = request.header
        self.diary.append((header.kind, header.purpose, header.round, header.attempt))
        self.cohorts.append(header.cohort)
        assert header.kind == "finish" or (self.saved and self.saved.cohort == header.cohort)
        replies = {
            hospital: self.behaviours.get(hospital, honest)(self.study, request, hospital)
            for hospital in requests
        }
        return {hospital: data for hospital, data in replies.items() if data is not None}

    def save(self, state: RunState) -> None:
        self.saved = state
        self.diary.append(("save", state.phase, state.round, state.attempt))

    def heads(self) -> dict[str, Head]:
        return {}

    def keep_head(self, hospital: str, head: Head) -> None:
        pass

    def event(self, kind: str, **facts: object) -> None:
        self.events.append((kind, facts))

    def stop_requested(self) -> bool:
        return len(self.of_kind("round")) >= self.stop_after_rounds

    def of_kind(self, kind: str) -> list[dict[str, object]]:
        return [facts for name, facts in self.events if name == kind]

    def run(self, state: RunState | None = None) -> RunState:
        return run_study(self.study, RUN, state or RunState.start(self.study), self, self)


def test_an_undisturbed_run_asks_every_round_once_and_then_settles() -> None:
    stage = Stage(small_study())
    assert stage.run().phase == "done"
    assert [entry for entry in stage.diary if entry[0] != "save"] == [
        ("release", "training", 1, 1),
        ("release", "training", 2, 1),
        ("release", "training", 3, 1),
        ("release", "evaluation", 1, 1),
        ("finish", "evaluation", 1, 1),
    ]


@pytest.mark.parametrize(
    ("behaviour", "bad_replies"),
    [(silent, 0), (garbage, 5), (truncated, 5), (impostor, 5), (of_yesterday, 5)],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_one_bad_hospital_neither_stops_nor_changes_the_run(
    behaviour: Behaviour, bad_replies: int
) -> None:
    stage = Stage(small_study(), {"west": behaviour})
    without_west = Stage(small_study(), {"west": silent}).run()
    state = stage.run()
    assert state.phase == "done"
    assert np.array_equal(state.model, without_west.model)
    assert all(facts["cohort"] == ["north", "south"] for facts in stage.of_kind("round"))
    assert len(stage.of_kind("bad-reply")) == bad_replies
    assert all(facts["hospital"] == "west" for facts in stage.of_kind("bad-reply"))


def test_a_late_hospital_is_welcome_in_the_next_round() -> None:
    def late(study: Study, request: Request, hospital: str) -> bytes | None:
        return None if request.header.round == 2 else honest(study, request, hospital)

    stage = Stage(small_study(), {"west": late})
    assert stage.run().phase == "done"
    assert [len(facts["cohort"]) for facts in stage.of_kind("round")] == [3, 2, 3, 3]  # type: ignore[arg-type]


def test_a_hospital_that_refuses_for_good_is_not_asked_again() -> None:
    stage = Stage(small_study(), {"west": unwilling})
    assert stage.run().phase == "done"
    assert stage.cohorts[0] == HOSPITALS
    assert stage.cohorts[1:4] == [("north", "south")] * 3
    assert stage.cohorts[-1] == HOSPITALS  # the end of the run is told to everyone


def test_too_small_a_cohort_ends_the_run_with_the_last_saved_state() -> None:
    def gone(study: Study, request: Request, hospital: str) -> bytes | None:
        return honest(study, request, hospital) if request.header.round == 1 else None

    stage = Stage(small_study(), {"south": gone, "west": gone})
    state = stage.run()
    assert (state.phase, state.round, state.attempt) == ("training", 2, MAX_ATTEMPTS)
    assert stage.saved is state
    assert len(stage.of_kind("attempt-failed")) == MAX_ATTEMPTS
    after_one = Stage(small_study(), stop_after_rounds=1).run()
    assert np.array_equal(state.model, after_one.model)
    assert stage.diary[-2][0] == "finish"


def test_too_few_willing_hospitals_end_the_run_at_once() -> None:
    stage = Stage(small_study(), {"south": unwilling, "west": unwilling})
    assert stage.run().round == 1
    assert len(stage.of_kind("attempt-failed")) == 1


@pytest.mark.parametrize("behaviours", [{}, {"west": silent}, {"west": silent, "south": silent}])
def test_the_state_is_saved_before_every_question(behaviours: dict[str, Behaviour]) -> None:
    stage = Stage(small_study(), behaviours)
    stage.run()
    for before, entry in zip(stage.diary, stage.diary[1:], strict=False):
        if entry[0] == "release":
            assert before == ("save", *entry[1:])


@pytest.mark.parametrize("rounds", [0, 1, 2, 3])
def test_a_run_continued_from_its_checkpoint_ends_with_the_same_model(rounds: int) -> None:
    study = small_study()
    whole = Stage(study).run()
    stopped = Stage(study, stop_after_rounds=rounds).run()
    assert stopped.phase != "done"
    continued = Stage(study).run(checkpoint.from_bytes(checkpoint.to_bytes(stopped)))
    assert np.array_equal(continued.model, whole.model)
    assert continued.estimate == whole.estimate
