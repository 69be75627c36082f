"""Peers that lie during a run: nothing of it reaches the model, and the honest go on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from flo.keys.claims import HeadAttestation, RunKey
from flo.privacy.accounting.plan import Plan, reach_of
from flo.privacy.secure_sum.masking import new_run_key
from flo.protocol.messages import (
    MAX_ATTEMPTS,
    Reply,
    Request,
    RequestHeader,
    decode_reply,
    encode_reply,
)
from flo.server.rounds.state import RunState
from tests.builders import HOSPITALS
from tests.partners import partner, signed
from tests.server.in_memory_run import (
    MASKED,
    MODES,
    Answer,
    Site,
    Stage,
    joins,
    model_after,
    numbers,
    only,
    releases,
    stage,
    training,
)

PAIR = ("north", "south")
Change = Callable[[Site, Request, Reply], Reply]


def lying(change: Change) -> Answer:
    """The honest reply, changed on its way."""

    def answer(site: Site, request: Request) -> bytes:
        return encode_reply(change(site, request, decode_reply(site.answer(request))))

    return answer


def header(**changes: Any) -> Change:
    return lambda site, request, reply: replace(
        reply, header=reply.header.model_copy(update=changes)
    )


def same_model(one: RunState, other: RunState) -> bool:
    return one.model.tobytes() == other.model.tobytes()


# -- a reply that is none ----------------------------------------------------------------------


def _truncated(site: Site, request: Request) -> bytes:
    return site.answer(request)[:-3]


def _another_length(site: Site, request: Request, reply: Reply) -> Reply:
    return replace(reply, values=np.append(reply.values, reply.values[:1]))


def _another_ring(site: Site, request: Request, reply: Reply) -> Reply:
    ring = 32 if reply.header.ring != 32 else 64
    values = reply.values.astype(f"<u{ring // 8}")
    return Reply(reply.header.model_copy(update={"ring": ring}), values)


def _unsigned_head(site: Site, request: Request, reply: Reply) -> Reply:
    head = reply.header.head.model_copy(update={"sequence": 99})
    return header(head=head)(site, request, reply)


LIES: dict[str, Answer] = {
    "garbage": lambda site, request: b"\x00\x00\x00\x08not json",
    "nothing at all": lambda site, request: b"",
    "truncated": _truncated,
    "another's name": lying(header(hospital="north")),
    "another run": lying(header(run="run-0")),
    "another round": lying(header(round=77)),
    "another cohort": lying(header(cohort="e" * 64)),
    "no cohort": lying(header(cohort=None)),
    "another ring": lying(_another_ring),
    "another length": lying(_another_length),
    "an answer to something else": lying(header(kind="settled")),
    "a head that was never signed": lying(_unsigned_head),
    "a head of another hospital": lying(
        lambda site, request, reply: header(head=signed(partner("north"), 9))(site, request, reply)
    ),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("lie", LIES)
def test_a_release_that_does_not_fit_its_request_is_thrown_away(mode: str, lie: str) -> None:
    run = stage(mode, {"west": only(releases, LIES[lie])}, retry_allowance=2)
    state = run.run()
    assert state.phase == "done"
    assert all(facts["cohort"] == list(PAIR) for facts in run.of_kind("round"))
    assert [facts["hospital"] for facts in run.of_kind("bad-reply")] == ["west"] * 2
    assert [facts["hospital"] for facts in run.of_kind("excluded")] == ["west"]
    assert same_model(state, model_after(run.study, run.counted))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("lie", ["garbage", "nothing at all", "truncated", "another's name",
                                 "another run", "a head that was never signed"])  # fmt: skip
def test_a_reply_to_a_call_to_join_that_does_not_fit_joins_nobody(mode: str, lie: str) -> None:
    run = stage(mode, {"west": only(joins, LIES[lie])})
    assert run.run().phase == "done"
    assert {cohort for *_, cohort in run.attempts} == {PAIR}
    assert {facts["hospital"] for facts in run.of_kind("bad-reply")} == {"west"}


# -- run keys ----------------------------------------------------------------------------------


def _key(make: Callable[[str], RunKey]) -> Answer:
    return lying(lambda site, request, reply: header(key=make(site.study.digest))(
        site, request, reply
    ))  # fmt: skip


WRONG_KEYS: dict[str, Answer] = {
    "signed by another hospital": _key(
        lambda study: new_run_key(partner("south"), study, "run-1", 1)[1]
    ),
    "for another run": _key(lambda study: new_run_key(partner("west"), study, "run-0", 1)[1]),
    "for another study": _key(lambda study: new_run_key(partner("west"), "f" * 64, "run-1", 1)[1]),
    "with another epoch than was signed": _key(
        lambda study: new_run_key(partner("west"), study, "run-1", 1)[1].model_copy(
            update={"epoch": 2}
        )
    ),
    "exchanged under its signature": _key(
        lambda study: new_run_key(partner("west"), study, "run-1", 1)[1].model_copy(
            update={"key": "ab" * 32}
        )
    ),
    "not there": _key(lambda study: None),  # type: ignore[arg-type, return-value]
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("wrong", WRONG_KEYS)
def test_a_run_key_that_its_hospital_did_not_sign_for_this_run_joins_nobody(
    mode: str, wrong: str
) -> None:
    run = stage(mode, {"west": only(joins, WRONG_KEYS[wrong])})
    assert run.run().phase == "done"
    assert {cohort for *_, cohort in run.attempts} == {PAIR}
    assert all("west" not in asked.keys for asked in run.requests)
    blamed = {facts["hospital"] for facts in run.of_kind("bad-reply")}
    assert blamed == (set() if wrong == "not there" else {"west"})


@pytest.mark.parametrize("mode", MODES)
def test_a_wrong_key_with_a_refusal_does_not_replace_the_right_one(mode: str) -> None:
    run = stage(mode)
    stolen = new_run_key(partner("south"), run.study.digest, "run-1", 99)[1]
    run.answers["west"] = only(
        training(2, 1), lambda site, request: site.refuse(request.header, "stale-key", stolen)
    )
    assert run.run().phase == "done"
    assert stolen not in [key for asked in run.requests for key in asked.keys.values()]
    assert run.attempts[-1] == ("evaluation", 1, 1, HOSPITALS)


@pytest.mark.parametrize("mode", MODES)
def test_an_older_key_of_a_hospital_does_not_replace_its_later_one(mode: str) -> None:
    run = stage(mode, retry_allowance=2)
    older = new_run_key(partner("west"), run.study.digest, "run-1", 1)[1]
    run.answers["west"] = only(
        training(2, 1), lambda site, request: site.refuse(request.header, "stale-key", older)
    )
    run.run()
    assert older not in [key for asked in run.requests for key in asked.keys.values()]
    assert {facts["hospital"] for facts in run.of_kind("refused")} == {"west"}


# -- vouchers ----------------------------------------------------------------------------------


def _vouchers(
    make: Callable[[Site, RequestHeader, str, HeadAttestation], HeadAttestation],
) -> Answer:
    def changed(site: Site, request: Request, reply: Reply) -> Reply:
        given = {
            name: make(site, request.header, name, voucher)
            for name, voucher in reply.header.vouchers.items()
        }
        return header(vouchers=given)(site, request, reply)

    return lying(changed)


def _with_another_head(
    site: Site, asked: RequestHeader, name: str, voucher: HeadAttestation
) -> HeadAttestation:
    return voucher.model_copy(update={"head": signed(partner(name), 3)})


def _signed_by_whom_it_is_for(
    site: Site, asked: RequestHeader, name: str, voucher: HeadAttestation
) -> HeadAttestation:
    return HeadAttestation.given(partner(name), asked.study, asked.run, asked.keys[name], None)


def _for_another_run(
    site: Site, asked: RequestHeader, name: str, voucher: HeadAttestation
) -> HeadAttestation:
    return HeadAttestation.given(site.identity, asked.study, "run-0", asked.keys[name], None)


FALSE_VOUCHERS: dict[str, Answer] = {
    "edited": _vouchers(
        lambda s, a, n, voucher: voucher.model_copy(update={"head": signed(partner(n), 3)})
    ),
    "signed by whom it is for": _vouchers(_signed_by_whom_it_is_for),
    "for another run": _vouchers(_for_another_run),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("false", FALSE_VOUCHERS)
def test_a_false_voucher_does_not_count_and_an_honest_partners_does(mode: str, false: str) -> None:
    run = stage(mode, {"north": only(joins, FALSE_VOUCHERS[false])})
    state = run.run()
    assert state.phase == "done"
    assert {cohort for *_, cohort in run.attempts} == {HOSPITALS}
    assert run.releases[0].vouchers["west"].fingerprint == partner("south").fingerprint
    assert {facts["hospital"] for facts in run.of_kind("bad-reply")} == {"north"}
    assert same_model(state, model_after(run.study, run.counted))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("false", FALSE_VOUCHERS)
def test_a_hospital_for_which_all_vouchers_are_false_is_in_no_cohort(mode: str, false: str) -> None:
    run = stage(mode, dict.fromkeys(PAIR, only(joins, FALSE_VOUCHERS[false])))
    assert run.run().phase == "done"
    assert {cohort for *_, cohort in run.attempts} == {PAIR}  # for whom west vouches


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("another", ["key", "hospital"])
def test_a_voucher_for_another_key_or_hospital_does_not_count_however_much_it_saw(
    mode: str, another: str
) -> None:
    def for_another(
        site: Site, asked: RequestHeader, name: str, voucher: HeadAttestation
    ) -> HeadAttestation:
        changes = {"key": "ab" * 32} if another == "key" else {"public": site.identity.public.hex()}
        key = asked.keys[name].model_copy(update=changes)
        return HeadAttestation.given(
            site.identity, asked.study, asked.run, key, signed(partner(name), 9)
        )

    run = stage(mode, {"north": only(joins, _vouchers(for_another))})
    assert run.run().phase == "done"
    assert {cohort for *_, cohort in run.attempts} == {HOSPITALS}
    assert run.releases[0].vouchers["west"].fingerprint == partner("south").fingerprint


@pytest.mark.parametrize("mode", MODES)
def test_a_hospital_cannot_vouch_for_itself(mode: str) -> None:
    def also_itself(site: Site, request: Request, reply: Reply) -> Reply:
        asked, given = request.header, dict(reply.header.vouchers)
        if site.id in asked.keys:
            key, head = asked.keys[site.id], signed(partner(site.id), 1)
            given[site.id] = HeadAttestation.given(site.identity, asked.study, asked.run, key, head)
        return header(vouchers=given)(site, request, reply)

    def not_for_west(site: Site, request: Request, reply: Reply) -> Reply:
        given = {name: v for name, v in reply.header.vouchers.items() if name != "west"}
        return header(vouchers=given)(site, request, reply)

    run = stage(mode, dict.fromkeys(PAIR, only(joins, lying(not_for_west))))
    run.answers["west"] = only(joins, lying(also_itself))
    assert run.run().phase == "done"
    assert all("west" not in asked.vouchers for asked in run.requests)
    assert {cohort for *_, cohort in run.attempts} == {PAIR}


@pytest.mark.parametrize("mode", MODES)
def test_the_partner_who_saw_most_is_believed(mode: str) -> None:
    run = stage(mode)
    run.sites["south"].ledger.witness(signed(partner("west"), 9))  # west shows 1 row only
    run.run()
    relayed = run.releases[0].vouchers["west"]
    assert (relayed.head and relayed.head.sequence, relayed.fingerprint) == (
        9,
        partner("south").fingerprint,
    )
    assert {"hospital": "west", "code": "rolled-back"} in run.of_kind("refused")
    assert {cohort for *_, cohort in run.attempts[1:]} == {PAIR}


# -- numbers -----------------------------------------------------------------------------------


def random_vector(site: Site, request: Request, reply: Reply) -> Reply:
    """A vector of its ring, drawn uniformly: passes as a sum within reach once in 10^13."""
    bytes_ = np.random.default_rng(7).bytes(reply.values.nbytes)
    return replace(reply, values=np.frombuffer(bytes_, dtype=reply.values.dtype))


@pytest.mark.parametrize("mode", MASKED)
def test_a_random_masked_vector_spoils_one_attempt_and_never_the_model(mode: str) -> None:
    run = stage(mode, {"west": only(training(2, 1), lying(random_vector))})
    state = run.run()
    (failed,) = run.of_kind("attempt-failed")
    assert failed["missing"] == []
    assert "the limit for honest hospitals" in failed["why"]
    assert run.attempts[1:3] == [("training", 2, 1, HOSPITALS), ("training", 2, 2, HOSPITALS)]
    assert same_model(state, model_after(run.study, run.counted))


@pytest.mark.parametrize(
    ("mode", "attempts"), [("local noise, masked", MAX_ATTEMPTS), ("distributed noise", 3)]
)
def test_random_masked_vectors_without_end_end_the_run_with_the_last_saved_model(
    mode: str, attempts: int
) -> None:
    run = stage(mode, {"west": only(training(2), lying(random_vector))}, retry_allowance=2)
    state = run.run()
    assert (state.phase, state.round) == ("training", 2)
    assert [attempt for _, round_, attempt, _ in run.attempts if round_ == 2] == [
        *range(1, attempts + 1)
    ]
    assert same_model(state, model_after(run.study, [("training", 1, 1, HOSPITALS)]))
    assert run.requests[-1].kind == "finish"


def adding(run: Stage, beyond: int, sign: int) -> Answer:
    """Masks honestly, but numbers that bring the first coordinate of the sum to its very reach."""
    reach = reach_of(run.study, Plan.of(run.study).purpose("training"), 3)

    def answer(site: Site, request: Request) -> bytes:
        asked = request.header
        of_round = (asked.purpose, asked.round, asked.attempt)
        others = sum(numbers(site.study, name, *of_round)[0] for name in PAIR)
        values = numbers(site.study, site.id, *of_round)
        values[0] = sign * (reach + beyond) - others
        masked = site.masked(asked, values)
        return encode_reply(Reply(decode_reply(site.answer(request)).header, masked))

    return answer


@pytest.mark.parametrize("mode", MASKED)
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("beyond", "failed"), [(0, 0), (1, 1)], ids=["at the reach", "beyond"])
def test_a_sum_counts_up_to_what_honest_hospitals_could_reach(
    mode: str, sign: int, beyond: int, failed: int
) -> None:
    run = stage(mode)
    run.answers["west"] = only(training(2, 1), adding(run, beyond, sign))
    assert run.run().phase == "done"
    assert len(run.of_kind("attempt-failed")) == failed
