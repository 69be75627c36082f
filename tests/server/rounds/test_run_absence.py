"""A whole run in memory: retries, the floor, who is left out, and when a run ends."""

from __future__ import annotations

import typing
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flo.protocol.messages import MAX_ATTEMPTS, RefusalCode, Request
from flo.server.rounds.participation import FORGIVEN_ONCE
from tests.builders import HOSPITALS
from tests.server.in_memory_run import (
    MODES,
    Answer,
    Site,
    Stage,
    company_study,
    honest,
    joins,
    model_after,
    only,
    refusing,
    releases,
    restarts_before_it_answers,
    same_model,
    silent,
    stage,
    training,
)

PAIR = ("north", "south")
FOUR = ("east", "north", "south", "west")
FOR_GOOD = ("not-approved", "over-budget", "rolled-back")
ABOUT_KEYS = ("stale-key", "unconfirmed")
CODES: tuple[str, ...] = typing.get_args(RefusalCode)


# -- retries -----------------------------------------------------------------------------------


def test_a_drawn_attempt_comes_out_of_the_allowance_and_a_used_up_one_ends_the_run() -> None:
    run = stage("distributed noise", {"west": only(releases, silent)}, retry_allowance=1)
    state = run.run()
    assert run.attempts == [
        ("training", 1, 1, HOSPITALS),
        ("training", 1, 2, PAIR),
        ("training", 2, 1, HOSPITALS),
    ]
    assert (state.phase, state.round, state.retries) == ("training", 2, 1)
    assert run.end == "ended"
    assert same_model(state, model_after(run.study, run.counted))
    assert run.requests[-1].kind == "finish"


def test_an_allowance_of_two_survives_two_drawn_attempts() -> None:
    run = stage("distributed noise", {"west": only(releases, silent)}, retry_allowance=2)
    assert run.run().phase == "done"
    assert len(run.of_kind("attempt-failed")) == 2


def test_with_local_noise_retries_cost_nothing() -> None:
    run = stage("local noise, masked", {"west": only(releases, silent)}, retry_allowance=0)
    state = run.run()
    assert state.phase == "done"
    assert state.retries == 0
    assert len(run.of_kind("attempt-failed")) == 2


# -- the floor ---------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("connected", [True, False], ids=["silent", "away"])
def test_a_run_waits_for_its_cohort(mode: str, connected: bool) -> None:
    run = stage(mode)

    def there(hospital: str) -> bool:
        return hospital == "north" or (hospital == "south" and run.clock.now >= 4)

    run.answers = dict.fromkeys(HOSPITALS, lambda s, r: s.answer(r) if there(s.id) else None)
    run.is_away = lambda hospital: not (connected or there(hospital))
    assert run.run().phase == "done"
    assert {cohort for *_, cohort in run.attempts} == {PAIR}
    assert 4 <= run.clock.now < run.study.limits.deadline_seconds


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("connected", [True, False], ids=["silent", "away"])
def test_too_few_until_the_deadline_pause_the_run_and_nobody_is_told_that_it_is_over(
    mode: str, connected: bool
) -> None:
    run = stage(mode, {"south": silent, "west": silent})
    run.is_away = lambda hospital: hospital != "north" and not connected
    state = run.run()
    assert run.releases == []
    assert (state.phase, state.round, state.attempt) == ("training", 1, 1)
    assert run.of_kind("too-few")[-1]["floor"] == 2
    assert 10 <= run.clock.now < 13  # the deadline, and one pause at most
    assert run.end == "paused"
    assert {header.kind for header in run.requests} == {"join"}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("code", FOR_GOOD)
def test_too_few_who_are_willing_pause_the_run_at_once(mode: str, code: str) -> None:
    run = stage(mode, {"south": only(joins, refusing(code)), "west": only(joins, refusing(code))})
    run.run()
    assert run.releases == []
    assert [facts["floor"] for facts in run.of_kind("too-few")] == [2]
    assert (run.end, run.clock.now) == ("paused", 0)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("rounds", [0, 2])
def test_a_paused_run_goes_on_from_where_it_was_and_ends_like_an_undisturbed_one(
    mode: str, rounds: int
) -> None:
    run = stage(mode)
    run.is_away = lambda hospital: (
        hospital != "north" and len(run.of_kind("round")) >= rounds and not back
    )
    back = False
    run.run()
    assert (run.end, len(run.of_kind("round"))) == ("paused", rounds)
    back = True
    state = run.run_again()
    assert (run.end, state.phase) == ("done", "done")
    assert same_model(state, model_after(run.study, run.counted))
    assert all(attempt == 1 for _, _, attempt, _ in run.attempts)  # nothing was drawn in vain


@pytest.mark.parametrize("mode", MODES)
def test_a_paused_run_that_is_stopped_ends_with_the_model_so_far(mode: str) -> None:
    run = stage(mode)
    run.is_away = lambda hospital: hospital != "north" and len(run.of_kind("round")) >= 2
    before = run.run()
    assert run.end == "paused"
    run.stop_after_rounds = 0
    state = run.run_again()
    assert run.end == "stopped"
    assert same_model(state, before)
    assert [(h.kind, h.cohort) for h in run.requests[-1:]] == [("finish", ("north",))]


@pytest.mark.parametrize("mode", MODES)
def test_a_run_that_waits_ends_when_it_is_stopped(mode: str) -> None:
    run = stage(mode)
    run.answers = {"south": silent, "west": silent}
    run.stop_requested = lambda: run.clock.now > 2  # type: ignore[method-assign]
    run.run()
    assert run.releases == []
    assert run.of_kind("too-few") == []
    assert 2 < run.clock.now < 6


@pytest.mark.parametrize("mode", MODES)
def test_who_came_back_before_the_deadline_is_asked_again_if_the_floor_needs_it(mode: str) -> None:
    run = stage(mode, retry_allowance=2)
    run.answers = dict.fromkeys(("south", "west"), only(training(2, 1), silent))
    run.is_away = lambda hospital: hospital != "north" and 0 < run.clock.now < 1
    assert run.run().phase == "done"
    assert len(run.of_kind("round")) == 4


@pytest.mark.parametrize("mode", MODES)
def test_too_few_in_the_middle_end_the_run_with_the_last_saved_model(mode: str) -> None:
    run = stage(
        mode, {name: only(training(2), silent) for name in ("south", "west")}, retry_allowance=2
    )
    state = run.run()
    assert (state.phase, state.round) == ("training", 2)
    attempts = 1 + 2 if mode == "distributed noise" else MAX_ATTEMPTS
    assert len(run.of_kind("attempt-failed")) == attempts
    assert same_model(state, model_after(run.study, [("training", 1, 1, HOSPITALS)]))


# -- who is left out ---------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_who_misses_twice_is_not_asked_again(mode: str) -> None:
    run = stage(mode, {"west": only(releases, silent)}, retry_allowance=2)
    assert run.run().phase == "done"
    assert run.of_kind("excluded") == [{"hospital": "west"}]
    assert sum("west" in header.cohort for header in run.releases) == 2
    assert run.joins_of("west") == 2 + 1


@pytest.mark.parametrize("mode", MODES)
def test_who_is_connected_and_never_answers_a_call_to_join_is_given_up(mode: str) -> None:
    run = stage(mode, {"west": silent}, steps=8)
    assert run.run().phase == "done"
    assert run.joins_of("west") <= 4


@pytest.mark.parametrize("mode", MODES)
def test_nobody_is_excluded_whom_the_floor_needs(mode: str) -> None:
    study = company_study(mode, FOUR, retry_allowance=3)
    document = study.model_dump(mode="json")
    document["limits"]["minimum_cohort"] = 3
    run = Stage(type(study).model_validate(document))
    run.answers = {
        "east": only(lambda h: training(1, 1)(h) or training(3, 1)(h), silent),
        "west": only(training(2, 1), refusing("not-approved")),
    }
    run.run()
    assert sum("east" in h.cohort for h in run.releases if h.round in (1, 3)) >= 2
    assert run.of_kind("excluded") == [{"hospital": "west"}]  # which refused for good


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("code", CODES)
def test_what_a_refused_release_means_for_the_rest_of_the_run(mode: str, code: str) -> None:
    run = stage(mode, {"west": only(training(2, 1), refusing(code))}, retry_allowance=2)
    state = run.run()
    assert state.phase == "done"
    assert run.of_kind("refused") == [{"hospital": "west", "code": code}]
    later = [("west" in cohort) for *_, cohort in run.attempts[2:]]
    if run.study.masked:
        in_this_round, *later = later
        assert in_this_round is (code in FORGIVEN_ONCE)
    assert later == [code not in FOR_GOOD] * 2
    assert run.joins_of("west") == (3 if code in ABOUT_KEYS else 2)
    assert run.requests[-1].cohort == HOSPITALS  # the end of the run is told to everyone
    assert same_model(state, model_after(run.study, run.counted))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("code", FOR_GOOD)
def test_who_refuses_for_good_when_it_is_asked_to_vouch_is_not_in_the_cohort(
    mode: str, code: str
) -> None:
    run = stage(mode)
    run.after_round = lambda rounds: run.restart("west") if rounds == 1 else None
    run.answers["south"] = only(lambda h: joins(h) and h.round == 2, refusing(code))
    assert run.run().phase == "done"
    assert {cohort for *_, cohort in run.attempts[1:]} == {("north", "west")}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("code", CODES)
def test_who_refuses_to_join_is_never_asked_for_a_release(mode: str, code: str) -> None:
    run = stage(mode, {"west": only(joins, refusing(code))})
    assert run.run().phase == "done"
    assert {cohort for *_, cohort in run.attempts} == {PAIR}
    assert run.joins_of("west") <= 5  # for good at once, or after missing two rounds


# -- whatever happens --------------------------------------------------------------------------

DEEDS: dict[str, Callable[[Stage], Answer]] = {
    "honest": lambda run: honest,
    "silent": lambda run: silent,
    "restarts": restarts_before_it_answers,
    "not-ready": lambda run: refusing("not-ready"),
    "over-budget": lambda run: refusing("over-budget"),
    "garbage": lambda run: lambda site, request: b"\x00\x00\x00\x08not json",
}
MOSTLY_HONEST = st.sampled_from(["honest"] * 6 + list(DEEDS))

OFTEN_THERE = st.sampled_from([False, False, False, True])


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_whatever_hospitals_do_the_rules_of_a_run_hold(mode: str, data: st.DataObject) -> None:
    run = Stage(company_study(mode, FOUR, retry_allowance=2, dropouts=1))
    floor, gone = run.study.cohort_floor, dict[str, int]()

    def answer(site: Site, request: Request) -> bytes | None:
        if request.header.kind == "finish":
            return site.answer(request)
        deed = data.draw(MOSTLY_HONEST, label=f"{site.id} {request.header.kind}")
        if deed == "over-budget" and request.header.kind == "release":
            gone.setdefault(site.id, len(run.releases))
        return DEEDS[deed](run)(site, request)

    run.answers = dict.fromkeys(FOUR, answer)
    run.is_away = lambda hospital: data.draw(OFTEN_THERE, label=f"{hospital} is away")
    state = run.run()

    assert all(len(header.cohort) >= floor for header in run.releases)
    assert all(len(facts["cohort"]) >= floor for facts in run.of_kind("round"))
    seen = [attempt[:3] for attempt in run.attempts]
    assert len(set(seen)) == len(seen), "an attempt was asked twice"
    assert len(run.of_kind("attempt-failed")) + len(run.of_kind("round")) == len(seen)
    assert same_model(state, model_after(run.study, run.counted))
    assert state.retries <= 2
    for hospital, asked_before in gone.items():
        assert all(hospital not in header.cohort for header in run.releases[asked_before:])
