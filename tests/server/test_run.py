"""A whole run in memory: who joins, who is asked, what is thrown away, and when it ends."""

from __future__ import annotations

import typing
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flo.messages import MAX_ATTEMPTS, RefusalCode, Request
from flo.server.rounds import RunState
from tests.builders import HOSPITALS, small_study, study_document
from tests.company import partner
from tests.server.memory_stage import (
    MASKED,
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
    silent,
    stage,
    training,
)

PAIR = ("north", "south")
FOUR = ("east", "north", "south", "west")
FOR_GOOD = ("not-approved", "over-budget", "rolled-back")
ABOUT_KEYS = ("stale-key", "unconfirmed")
CODES: tuple[str, ...] = typing.get_args(RefusalCode)


def same_model(one: RunState, other: RunState) -> bool:
    """Bit for bit: the model, and all that the next step would start from."""
    return all(
        getattr(one, name).tobytes() == getattr(other, name).tobytes()
        for name in ("model", "weights", "velocity", "tail_sum")
    )


# -- undisturbed -------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_an_undisturbed_run_joins_asks_every_round_once_and_settles(mode: str) -> None:
    run = stage(mode)
    assert run.run().phase == "done"
    assert [header.kind for header in run.requests] == ["join"] * 2 + ["release"] * 4 + ["finish"]
    assert run.attempts == [
        *(("training", round_, 1, HOSPITALS) for round_ in (1, 2, 3)),
        ("evaluation", 1, 1, HOSPITALS),
    ]
    assert {kind for kind, _ in run.events} == {"round"}


@pytest.mark.parametrize("hospitals", [HOSPITALS[:2], HOSPITALS, FOUR], ids=len)
def test_a_masked_run_gives_the_model_that_the_same_values_give_unmasked(
    hospitals: tuple[str, ...],
) -> None:
    clear = Stage(company_study("masking off", hospitals)).run()
    masked = Stage(company_study("local noise, masked", hospitals)).run()
    assert same_model(masked, clear)
    assert masked.estimate == clear.estimate


@pytest.mark.parametrize("mode", MODES)
def test_the_model_is_that_of_the_true_sums(mode: str) -> None:
    run = stage(mode)
    assert same_model(run.run(), model_after(run.study, run.counted))


def test_a_hospital_alone_needs_no_partners_voucher() -> None:
    named = [{"id": "north", "declared_size": 40}]
    limits = {"deadline_seconds": 10, "minimum_cohort": 1}
    study = small_study(**study_document(hospitals=named, limits=limits))
    run = Stage(study.with_fingerprints({"north": partner("north").fingerprint}))
    assert run.run().phase == "done"
    assert [cohort for *_, cohort in run.attempts] == [("north",)] * 4


@pytest.mark.parametrize("mode", MODES)
def test_every_attempt_names_a_partners_voucher_for_each_members_present_key(mode: str) -> None:
    run = stage(mode, {"west": only(training(2, 1), silent)})
    run.run()
    study = run.study
    for header in run.releases:
        assert set(header.keys) == set(header.vouchers) == set(header.cohort)
        for hospital, voucher in header.vouchers.items():
            (witness,) = (h for h in study.hospitals if h.fingerprint == voucher.fingerprint)
            assert witness.id != hospital
            voucher.check(study.digest, header.run, witness.fingerprint)
            assert voucher.key == header.keys[hospital].key


# -- one is missing ----------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MASKED)
def test_an_attempt_that_misses_one_is_thrown_away_and_the_survivors_are_asked(mode: str) -> None:
    run = stage(mode, {"west": only(training(2, 1), silent)})
    state = run.run()
    assert state.phase == "done"
    assert run.attempts == [
        ("training", 1, 1, HOSPITALS),
        ("training", 2, 1, HOSPITALS),
        ("training", 2, 2, PAIR),
        ("training", 3, 1, HOSPITALS),
        ("evaluation", 1, 1, HOSPITALS),
    ]
    (failed,) = run.of_kind("attempt-failed")
    assert (failed["round"], failed["attempt"], failed["missing"]) == (2, 1, ["west"])
    assert len(run.of_kind("round")) == 4
    assert same_model(state, model_after(run.study, run.counted))


def test_without_masks_the_round_counts_with_whoever_answered() -> None:
    run = stage("masking off", {"west": only(training(2), silent)})
    state = run.run()
    assert [(header.round, header.attempt) for header in run.releases] == [
        (1, 1), (2, 1), (3, 1), (1, 1),
    ]  # fmt: skip
    assert [len(facts["cohort"]) for facts in run.of_kind("round")] == [3, 2, 3, 3]
    assert same_model(state, model_after(run.study, run.counted))


@pytest.mark.parametrize("mode", MASKED)
@pytest.mark.parametrize("rounds_away", [0, 1])
def test_who_missed_an_attempt_is_asked_again_in_the_next_round_in_which_it_is_connected(
    mode: str, rounds_away: int
) -> None:
    run = stage(mode, {"west": only(training(2, 1), silent)})
    run.is_away = lambda hospital: (
        hospital == "west" and 2 <= len(run.of_kind("round")) < 2 + rounds_away
    )
    run.run()
    assert run.attempts[2] == ("training", 2, 2, PAIR)
    last_two = [cohort for *_, cohort in run.attempts[3:]]
    assert last_two == ([HOSPITALS, HOSPITALS] if rounds_away == 0 else [PAIR, HOSPITALS])


@pytest.mark.parametrize("mode", MASKED)
def test_who_was_silent_joins_again_before_it_is_asked(mode: str) -> None:
    run = stage(mode, {"west": only(training(2, 1), silent)})
    run.run()
    assert run.joins_of("west") == 2 + 1
    missed, again = run.releases[1].vouchers["west"], run.releases[3].vouchers["west"]
    assert again != missed


@pytest.mark.parametrize("mode", MODES)
def test_the_end_is_told_to_everyone_who_is_connected_even_if_left_out(mode: str) -> None:
    run = stage(mode, {"south": refusing("not-approved")})
    run.is_away = lambda hospital: hospital == "west" and run.of_kind("round") != []
    run.run()
    assert run.requests[-1].kind == "finish"
    assert run.requests[-1].cohort == PAIR


# -- a hospital restarts -----------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_who_restarted_between_two_rounds_joins_again_and_no_attempt_is_wasted(mode: str) -> None:
    run = stage(mode)
    run.after_round = lambda rounds: run.restart("west") if rounds == 1 else None
    state = run.run()
    assert run.attempts == stage_attempts(mode)
    assert run.of_kind("attempt-failed") == []
    first, second, *_ = run.releases
    assert first.keys["west"] != second.keys["west"]
    assert run.joins_of("west") == 2 + 1
    assert same_model(state, model_after(run.study, run.counted))


def stage_attempts(mode: str) -> list[tuple[str, int, int, tuple[str, ...]]]:
    run = stage(mode)
    run.run()
    return run.attempts


def restarts_before_it_answers(run: Stage) -> Answer:
    def answer(site: Site, request: Request) -> bytes:
        run.restart(site.id)
        return site.answer(request)

    return answer


@pytest.mark.parametrize("mode", MASKED)
def test_who_restarts_in_the_middle_of_an_attempt_is_in_the_next_with_its_new_key(
    mode: str,
) -> None:
    run = stage(mode, retry_allowance=2)
    stale = only(training(2, 1), restarts_before_it_answers(run))
    run.answers["west"] = lambda s, r: (silent if training(3, 1)(r.header) else stale)(s, r)
    state = run.run()
    assert run.attempts[1:4] == [
        ("training", 2, 1, HOSPITALS),
        ("training", 2, 2, HOSPITALS),
        ("training", 3, 1, HOSPITALS),
    ]
    old, new = run.releases[1].keys["west"], run.releases[2].keys["west"]
    assert new.key != old.key
    assert new.epoch > old.epoch
    assert run.of_kind("refused") == [{"hospital": "west", "code": "stale-key"}]
    # A stale key was no miss: the silence in round 3 is the first, and evaluation has it again.
    assert run.of_kind("excluded") == []
    assert run.attempts[-1] == ("evaluation", 1, 1, HOSPITALS)
    assert same_model(state, model_after(run.study, run.counted))


@pytest.mark.parametrize("mode", MASKED)
@pytest.mark.parametrize("code", ABOUT_KEYS)
def test_who_says_again_in_a_round_that_its_key_is_not_good_has_missed_it(
    mode: str, code: str
) -> None:
    run = stage(mode, {"west": only(releases, refusing(code))}, retry_allowance=4)
    assert run.run().phase == "done"
    assert [cohort for *_, cohort in run.attempts] == [
        *(HOSPITALS, HOSPITALS, PAIR),  # in each of two rounds, and then it is left out
        *(HOSPITALS, HOSPITALS, PAIR),
        *(PAIR, PAIR),
    ]


def test_without_masks_a_stale_key_leaves_its_hospital_out_of_one_round() -> None:
    run = stage("masking off")
    run.answers["west"] = only(training(2), restarts_before_it_answers(run))
    assert run.run().phase == "done"
    assert [len(facts["cohort"]) for facts in run.of_kind("round")] == [3, 2, 3, 3]


@pytest.mark.parametrize("mode", MASKED)
def test_everyone_may_restart_at_once(mode: str) -> None:
    run = stage(mode, retry_allowance=0)
    run.answers = dict.fromkeys(HOSPITALS, only(training(2, 1), restarts_before_it_answers(run)))
    state = run.run()
    assert state.phase == "done"  # nobody drew noise, so not even an allowance of 0 was touched
    assert run.attempts[1:3] == [("training", 2, 1, HOSPITALS), ("training", 2, 2, HOSPITALS)]
    assert same_model(state, model_after(run.study, run.counted))


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
def test_too_few_until_the_deadline_end_the_run(mode: str, connected: bool) -> None:
    run = stage(mode, {"south": silent, "west": silent})
    run.is_away = lambda hospital: hospital != "north" and not connected
    state = run.run()
    assert run.releases == []
    assert (state.phase, state.round, state.attempt) == ("training", 1, 1)
    assert run.of_kind("too-few")[-1]["floor"] == 2
    assert 10 <= run.clock.now < 13  # the deadline, and one pause at most
    assert run.requests[-1].kind == "finish"
    assert run.requests[-1].cohort == (HOSPITALS if connected else ("north",))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("code", FOR_GOOD)
def test_too_few_who_are_willing_end_the_run_at_once(mode: str, code: str) -> None:
    run = stage(mode, {"south": only(joins, refusing(code)), "west": only(joins, refusing(code))})
    run.run()
    assert run.releases == []
    assert [facts["floor"] for facts in run.of_kind("too-few")] == [2]
    assert run.clock.now == 0


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
        assert in_this_round is (code in ABOUT_KEYS)
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
