"""What a run keeps: enough to go on from any instant, and no single hospital's numbers."""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from flo.documents import canonical
from flo.privacy.accounting.plan import Plan
from flo.protocol.messages import Request, decode_reply, model_digest
from flo.server.rounds import checkpoint
from flo.server.rounds.state import RunState
from flo.study.document import Study, from_document
from tests.builders import HOSPITALS, counting
from tests.server.in_memory_run import (
    MASKED,
    MODES,
    WHITENED_MODE,
    Killed,
    Stage,
    company_study,
    model_after,
    numbers,
    only,
    refusing,
    releases,
    silent,
    stage,
    training,
)

DISTURBED = {
    "a dropout": {"west": only(training(2, 1), silent)},
    "two dropouts": {"west": only(training(1, 1), silent), "north": only(training(3, 1), silent)},
    "a refusal": {"south": only(training(2, 1), refusing("not-ready"))},
}


# -- saved before asked ------------------------------------------------------------------------


def states_and_requests(run: Stage) -> Iterator[tuple[RunState, Request]]:
    """Each release request with the state that was saved just before it."""
    for before, entry in pairwise(run.history):
        if isinstance(entry, Request) and entry.header.kind == "release":
            assert isinstance(before, bytes), "asked for a release without saving first"
            yield checkpoint.from_bytes(before), entry


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("disturbed", DISTURBED)
def test_the_state_is_saved_before_every_request_for_a_release(mode: str, disturbed: str) -> None:
    run = stage(mode, dict(DISTURBED[disturbed]), retry_allowance=2)
    run.run()
    seen = 0
    for saved, request in states_and_requests(run):
        header = request.header
        assert (saved.phase, saved.round, saved.attempt) == (
            header.purpose, header.round, header.attempt,
        )  # fmt: skip
        assert saved.cohort == header.cohort
        assert saved.heads == header.heads
        assert {name: saved.keys[name] for name in saved.cohort} == header.keys
        assert {name: saved.vouchers[name] for name in saved.cohort} == header.vouchers
        assert model_digest(saved.asked) == header.model
        seen += 1
    assert seen == len(run.releases)


@pytest.mark.parametrize("mode", MODES)
def test_what_is_returned_is_what_was_saved_last(mode: str) -> None:
    run = stage(mode, {"west": only(releases, silent)}, retry_allowance=0)
    state = run.run()
    assert run.saves[-1] == checkpoint.to_bytes(state)


@pytest.mark.parametrize("mode", MODES)
def test_a_round_that_is_told_of_is_saved(mode: str) -> None:
    run = stage(mode, {"west": only(training(2, 1), silent)})

    def look(rounds: int) -> None:
        saved, expected = checkpoint.from_bytes(run.saves[-1]), model_after(run.study, run.counted)
        assert len(run.counted) == rounds
        assert (saved.phase, saved.round, saved.cohort) == (expected.phase, expected.round, ())
        assert saved.model.tobytes() == expected.model.tobytes()

    run.after_round = look
    assert run.run().phase == "done"


# -- killed anywhere ---------------------------------------------------------------------------


def instants(run: Stage) -> list[tuple[str, int]]:
    """After each save of this run, and after each question before its answers were seen."""
    counts = {"save": len(run.saves), "ask": len(run.requests)}
    return [(kind, number) for kind, count in counts.items() for number in range(1, count + 1)]


def rounds(run: Stage) -> list[tuple[str, int]]:
    """Rounds that were told of, in order."""
    return [(facts["phase"], facts["round"]) for facts in run.of_kind("round")]


@pytest.mark.slow
@pytest.mark.parametrize("mode", [*MODES, *WHITENED_MODE])
@pytest.mark.parametrize("disturbed", DISTURBED)
def test_a_run_killed_at_any_instant_asks_the_same_again_and_ends_as_if_undisturbed(
    mode: str, disturbed: str
) -> None:
    whole = stage(mode, dict(DISTURBED[disturbed]), retry_allowance=2)
    end = whole.run()
    assert end.phase == "done"
    asked_twice = 0
    for killed_after in instants(whole):
        run = stage(mode, dict(DISTURBED[disturbed]), retry_allowance=2)
        run.killed_after = killed_after
        with pytest.raises(Killed):
            run.run()
        before, last = len(run.requests), run.history[-1]
        state = run.run_again()
        again = run.requests[before]

        assert state.phase == "done", killed_after
        assert state.model.tobytes() == end.model.tobytes(), killed_after
        assert state.retries == end.retries, killed_after
        assert set(run.attempts) == set(whole.attempts), killed_after
        assert rounds(run) == rounds(whole), killed_after
        if isinstance(last, bytes) and (saved := checkpoint.from_bytes(last)).cohort:
            assert (again.kind, again.cohort) == ("release", saved.cohort), killed_after
            assert again.keys == {name: saved.keys[name] for name in saved.cohort}, killed_after
        if isinstance(last, Request) and last.header.kind == "release":
            assert again == last.header, killed_after
            asked_twice += 1
    assert asked_twice == len(whole.attempts)


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("rounds", [0, 1, 2, 3])
def test_a_stopped_run_continued_from_its_checkpoint_ends_with_the_same_model(
    mode: str, rounds: int
) -> None:
    whole = stage(mode).run()
    run = stage(mode)
    run.stop_after_rounds = rounds
    assert run.run().phase != "done"
    run.stop_after_rounds = 1_000_000
    continued = run.run_again()
    assert continued.model.tobytes() == whole.model.tobytes()
    assert continued.estimate == whole.estimate


# -- no single hospital's numbers --------------------------------------------------------------


def numbers_in(value: Any) -> Iterator[float]:
    """Every number that stands in a document, also in vectors of bytes in base64."""
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from numbers_in(item)
    elif isinstance(value, str):
        try:
            raw = base64.b64decode(value, validate=True)
        except ValueError:
            return
        for size, kind in ((8, "d"), (8, "q"), (8, "Q"), (4, "i"), (4, "I")):
            whole = len(raw) // size * size
            yield from (float(found) for (found,) in struct.iter_unpack(f"<{kind}", raw[:whole]))
    elif isinstance(value, (int, float)):
        yield float(value)


def what_a_hospital_released(run: Stage) -> set[float]:
    """Its numbers of every attempt, before masks and as they were sent, as steps and as reals."""
    found: set[float] = set()
    for purpose, round_, attempt, cohort in run.attempts:
        part = Plan.of(run.study).purpose(purpose)
        for hospital in cohort:
            steps = numbers(run.study, hospital, purpose, round_, attempt)
            found |= {*map(float, steps), *map(float, part.mechanism.to_real(steps))}
    for _, data in run.replies:
        values = decode_reply(data).values
        found |= {*map(float, values), *map(float, values.astype(np.int32))}
    return found


def what_is_kept_or_told(run: Stage) -> set[float]:
    kept = [canonical.decode(data, limit=1 << 30, what="checkpoint") for data in run.saves]
    return {*numbers_in(kept), *numbers_in([facts for _, facts in run.events])}


def survey_of(mode: str) -> Study:
    study = company_study(mode)
    document = counting(study, 0.5, ["age", "ward"]).model_dump(mode="json")
    document["statistics"]["retry_allowance"] = 1
    return from_document(document)


@pytest.mark.parametrize("mode", MASKED)
@pytest.mark.parametrize("disturbed", DISTURBED)
def test_nothing_kept_or_told_of_a_masked_run_is_a_number_of_one_hospital(
    mode: str, disturbed: str
) -> None:
    run = stage(mode, dict(DISTURBED[disturbed]), retry_allowance=2)
    assert run.run().phase == "done"
    released = what_a_hospital_released(run)
    assert len(released) > 200
    assert not released & what_is_kept_or_told(run)


@pytest.mark.parametrize("mode", MASKED)
@pytest.mark.parametrize("drops_out", [False, True])
def test_of_a_masked_survey_only_the_sum_is_kept(mode: str, drops_out: bool) -> None:
    run = Stage(survey_of(mode), {
        "west": only(lambda header: releases(header) and header.attempt == 1, silent)
    } if drops_out else {})  # fmt: skip
    state = run.run()
    assert state.phase == "done"
    assert state.sums.size == Plan.of(run.study).purpose("statistics").mechanism.length
    assert not what_a_hospital_released(run) & what_is_kept_or_told(run)


def test_of_an_unmasked_survey_only_the_sum_is_kept_too() -> None:
    run = Stage(survey_of("masking off"))
    assert set(run.run().sums_of) == set(HOSPITALS)
    assert not what_a_hospital_released(run) & what_is_kept_or_told(run), "only the sum is kept"


@pytest.mark.parametrize("mode", MODES)
def test_events_tell_nothing_but_public_facts(mode: str) -> None:
    run = stage(mode, {"west": only(training(2, 1), silent)}, retry_allowance=2)
    run.run()
    for kind, facts in run.events:
        assert (
            set(facts)
            == {
                "round": {"phase", "round", "cohort", "seconds"},
                "attempt-failed": {"phase", "round", "attempt", "cohort", "missing", "why"},
            }[kind]
        )
