"""A whole run in memory: who joins and who is asked, undisturbed, with one missing, restarted."""

from __future__ import annotations

import typing

import pytest

from flo.protocol.messages import RefusalCode
from tests.builders import HOSPITALS, small_study, study_document
from tests.partners import partner
from tests.server.in_memory_run import (
    MASKED,
    MODES,
    Stage,
    company_study,
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


@pytest.mark.parametrize("mode", MODES)
def test_at_the_end_every_hospital_has_seen_its_partners_last_release(mode: str) -> None:
    """So none can cut it off the end of its ledger: its partners' extracts show it."""
    run = stage(mode)
    run.run()
    for site in run.sites.values():
        seen = site.ledger.witnessed()
        for other in run.sites.values():
            if other is not site:
                assert seen[other.identity.fingerprint].sequence == other.ledger.released


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
    run.stop_after_rounds = 1
    run.is_away = lambda hospital: hospital == "west" and run.of_kind("round") != []
    run.run()
    assert run.end == "stopped"
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
