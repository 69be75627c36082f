"""Runs whose sums survive dropouts: nothing is thrown away, and every sum is exact.

Removable noise is zero here, so that the true sum is known; ``tests/privacy/secure_sum`` has it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from flo.arrays import Integers
from flo.keys.claims import RunKey
from flo.privacy.accounting.plan import Plan, ring_of
from flo.privacy.secure_sum.ring import to_ring
from flo.protocol.messages import Request, decode_reply, encode_reply
from flo.server.rounds import checkpoint
from flo.server.rounds import state as rules
from flo.server.rounds.aggregation import StreamingSum
from flo.server.rounds.state import RunState
from tests.server.in_memory_run import (
    NOTHING,
    RUN,
    WHITENED_MODE,
    Answer,
    Killed,
    Site,
    Stage,
    company_study,
    honest,
    numbers,
    only,
    silent,
    training,
)

FOUR = ("east", "north", "south", "west")
SEVEN = ("ash", "bay", "cedar", "doe", "elm", "fir", "gum")


@pytest.fixture(autouse=True)
def no_removable_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(variance: int, size: int, source: Any) -> Iterator[Integers]:
        return iter([np.zeros(size, dtype=np.int64)])

    monkeypatch.setattr("flo.privacy.secure_sum.components.discrete_gaussian.blocks", nothing)


def stage(
    answers: dict[str, Answer], hospitals: tuple[str, ...] = FOUR, mode: str = "", **mechanism: Any
) -> Stage:
    mode = mode or "distributed noise"
    mechanism = {"steps": 4, "retry_allowance": 1, "dropouts": None} | mechanism
    return Stage(company_study(mode, hospitals, schema_version=4, **mechanism), answers=answers)


def ends_exactly(run: Stage, state: RunState) -> None:
    """The model is the one of the survivors' true sums, to the last bit."""
    assert run.end == "done", run.events
    clear = RunState.start(run.study)
    for purpose, number, attempt, survivors in run.counted:
        part = Plan.of(run.study).purpose(purpose)
        ring = ring_of(run.study, part, len(FOUR))
        gathered = StreamingSum(run.study, part, len(survivors))
        for name in survivors:
            made = numbers(run.study, name, purpose, number, attempt)
            gathered.add(name, to_ring(made, ring))
        gathered.is_open = True
        clear = rules.advance(run.study, clear, gathered)
    assert state.model.tobytes() == clear.model.tobytes()


def in_round(kind: str, number: int) -> Any:
    return lambda header: (header.kind, header.purpose, header.round) == (kind, "training", number)


def test_if_nobody_is_missing_nobody_signs_and_one_more_question_opens_the_sum() -> None:
    run = stage({})
    ends_exactly(run, run.run())
    kinds = [header.kind for header in run.requests if header.kind != "join"]
    assert kinds == ["release", "reveal"] * 5 + ["finish"]
    assert run.of_kind("attempt-failed") == []


@pytest.mark.parametrize("kind", ["release", "sign", "reveal"])
def test_one_hospital_is_missing_from_each_round_and_no_attempt_is_thrown_away(kind: str) -> None:
    answers = {name: only(in_round(kind, place), silent) for place, name in enumerate(FOUR, 1)}
    run = stage(answers)
    ends_exactly(run, run.run())
    assert run.of_kind("attempt-failed") == []
    assert [header.attempt for header in run.releases] == [1] * 5
    assert run.of_kind("excluded") == [], "an absence that cost nothing is not counted"


@pytest.mark.parametrize("kind", ["release", "reveal"])
@pytest.mark.parametrize("mode", ["distributed noise", *WHITENED_MODE])
def test_an_agent_that_starts_again_costs_nothing_and_deals_anew(kind: str, mode: str) -> None:
    once: set[int] = set()

    def answer(site: Site, request: Request) -> bytes | None:
        header = request.header
        if header.kind == kind and header.purpose == "training" and header.round not in once:
            once.add(header.round)
            run.restart(site.id)
            return None
        return honest(site, request)

    run = stage({"west": answer}, mode=mode)
    ends_exactly(run, run.run())
    assert run.of_kind("attempt-failed") == []
    assert len(once) == 4


def test_one_more_than_allowed_costs_an_attempt_and_the_run_goes_on() -> None:
    run = stage({name: only(training(2, 1), silent) for name in ("north", "west")})
    ends_exactly(run, run.run())
    (failed,) = run.of_kind("attempt-failed")
    assert failed["missing"] == ["north", "west"]
    assert [header.attempt for header in run.releases if header.round == 2] == [1, 2]


@pytest.mark.slow
def test_two_of_seven_may_be_missing_and_a_third_may_leave_before_the_sum_is_open() -> None:
    answers = {name: only(training(2), silent) for name in ("ash", "gum")}
    run = stage({**answers, "doe": only(in_round("reveal", 3), silent)}, SEVEN, dropouts=2)
    ends_exactly(run, run.run())
    assert run.of_kind("attempt-failed") == []


@pytest.mark.slow
def test_too_few_signatures_open_nothing() -> None:
    answers = {name: only(in_round("sign", 2), silent) for name in ("doe", "elm")}
    answers |= {"ash": only(training(2, 1), silent)}
    run = stage(answers, SEVEN)
    ends_exactly(run, run.run())
    (failed,) = run.of_kind("attempt-failed")
    assert failed["why"] == "4 of the 5 hospitals that are needed signed the list of survivors"


def lying(site: Site, request: Request) -> bytes | None:
    """Other shares than it was dealt."""
    data = site.answer(request)
    reply = decode_reply(data)
    shares = dict.fromkeys(reply.header.shares, "1" * 64)
    header = reply.header.model_copy(update={"shares": shares})
    return encode_reply(type(reply)(header, reply.values))


@pytest.mark.slow
def test_wrong_shares_are_left_out_by_name(caplog: pytest.LogCaptureFixture) -> None:
    run = stage({"ash": only(in_round("reveal", 2), lying)}, SEVEN)
    ends_exactly(run, run.run())
    assert run.of_kind("attempt-failed") == []
    assert "ash revealed a wrong share of bay" in caplog.text


def test_where_every_share_is_needed_a_wrong_one_costs_the_attempt() -> None:
    first = in_round("reveal", 2)
    lies = only(lambda header: first(header) and header.attempt == 1, lying)
    run = stage({"west": only(training(2, 1), silent), "east": lies})
    ends_exactly(run, run.run())
    (failed,) = run.of_kind("attempt-failed")
    assert "shares, 3 needed" in failed["why"]


@pytest.mark.slow
def test_nobody_is_ever_asked_to_sign_two_lists_of_one_attempt() -> None:
    """Even a coordinator that was killed between its list and the sum names the same one."""
    answers = {"west": only(training(2, 1), silent)}
    whole = stage(dict(answers), steps=2)
    end = whole.run()
    counts = {"save": len(whole.saves), "ask": len(whole.requests)}
    instants = [(kind, n) for kind, count in counts.items() for n in range(1, count + 1)]
    listed = 0
    for killed_after in instants:
        run = stage(dict(answers), steps=2)
        run.killed_after = killed_after
        with pytest.raises(Killed):
            run.run()
        state = run.run_again()
        assert state.model.tobytes() == end.model.tobytes(), killed_after
        assert run.of_kind("attempt-failed") == [], killed_after
        lists = {h.survivors for h in run.requests if h.kind in ("sign", "reveal") and h.round == 2}
        assert lists <= {("east", "north", "south"), FOUR}
        listed += ("east", "north", "south") in {
            checkpoint.from_bytes(save).survivors for save in run.saves
        }
    assert listed == len(instants)


@pytest.mark.slow  # 5 s
def test_twenty_hospitals_each_absent_from_one_round_in_ten() -> None:
    """Attempts are thrown away only where more than d were missing at once."""
    names, absences = tuple(f"site-{number:02}" for number in range(20)), random.Random(7)
    missing: dict[tuple[int, str], str] = {}
    for number in range(1, 11):
        for name in names:
            if absences.random() < 1 / 10:
                missing[number, name] = absences.choice(("release", "sign", "reveal"))

    def answer(site: Site, request: Request) -> bytes | None:
        header = request.header
        if header.purpose == "training" and missing.get((header.round, site.id)) == header.kind:
            return None
        return honest(site, request)

    run = stage(dict.fromkeys(names, answer), names, steps=10, dropouts=6)
    ends_exactly(run, run.run())
    assert len(missing) > 15
    assert run.of_kind("attempt-failed") == []


@pytest.mark.slow
def test_who_never_uploads_is_left_out_after_a_while_and_nothing_is_lost() -> None:
    run = stage({"west": only(lambda header: header.kind == "release", silent)}, steps=10)
    ends_exactly(run, run.run())
    assert run.of_kind("attempt-failed") == []
    (gone,) = run.of_kind("excluded")
    assert gone == {"hospital": "west"}
    asked = [header for header in run.releases if "west" in header.cohort]
    assert len(asked) == 7, "five times in a row, and two more that count"


def changed_deal(change: dict[str, Any]) -> Answer:
    """Whatever this hospital deals, with changes that no partner can use."""

    def answer(site: Site, request: Request) -> bytes | None:
        data = site.answer(request)
        assert data is not None
        reply = decode_reply(data)
        if reply.header.deal is None:
            return data
        deal = reply.header.deal.model_copy(update=change)
        return encode_reply(type(reply)(reply.header.model_copy(update={"deal": deal}), NOTHING))

    return answer


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"sealed": {}}, "a deal to other run keys"),
        ({"checks": {}}, "a deal with hashes for other hospitals"),
        ({"commitments": ("a" * 64,)}, "a deal of 1 seeds, 2 expected"),
        ({"signature": "0" * 128}, "is not signed for this request"),
        ({"number": 77}, "is not signed for this request"),
        ({"key": "0" * 64}, "not a usable X25519 key"),
    ],
    ids=["sealed", "checks", "commitments", "signature", "number", "low order"],
)
def test_a_hospital_that_deals_badly_is_done_without_by_name(
    change: dict[str, Any], why: str
) -> None:
    run = stage({"west": changed_deal(change)})
    ends_exactly(run, run.run())
    assert run.of_kind("attempt-failed") == []
    assert {found["hospital"] for found in run.of_kind("bad-reply")} == {"west"}
    assert any(why in found["why"] for found in run.of_kind("bad-reply"))
    assert all("west" not in header.cohort for header in run.releases)


def test_a_hospital_that_shows_anothers_run_key_is_done_without() -> None:
    def copying(site: Site, request: Request) -> bytes | None:
        data = site.answer(request)
        assert data is not None
        reply = decode_reply(data)
        stolen = request.header.keys.get("east")
        if reply.header.key is None or stolen is None:
            return None
        key = RunKey.signed(site.identity, site.study.digest, RUN, 10**6, stolen.key, stolen.deals)
        return encode_reply(type(reply)(reply.header.model_copy(update={"key": key}), NOTHING))

    late = [False]

    def is_away(hospital: str) -> bool:
        return hospital == "west" and not late[0]

    run = stage({"west": copying})
    run.is_away = is_away
    run.after_round = lambda rounds: late.__setitem__(0, True)
    ends_exactly(run, run.run())
    assert any("the same run key" in found["why"] for found in run.of_kind("bad-reply"))
    assert all("west" not in header.cohort for header in run.releases)


def garbage(site: Site, request: Request) -> bytes | None:
    """Deals whose shares decrypt to nobody."""
    data = site.answer(request)
    assert data is not None
    reply = decode_reply(data)
    if reply.header.deal is None:
        return data
    sealed = dict.fromkeys(reply.header.deal.sealed, "ab" * 100)
    deal = reply.header.deal.model_copy(update={"sealed": sealed})
    header = reply.header.model_copy(update={"deal": deal})
    return encode_reply(type(reply)(header, reply.values))


@pytest.mark.parametrize("hospitals", [FOUR, SEVEN], ids=["four", "seven"])
def test_a_hospital_whose_shares_nobody_can_read_is_excluded_by_name(
    hospitals: tuple[str, ...],
) -> None:
    liar = hospitals[-1]
    run = stage({liar: garbage}, hospitals)
    ends_exactly(run, run.run())
    assert run.of_kind("excluded") == [{"hospital": liar}]
    (failed,) = run.of_kind("attempt-failed")
    assert failed["why"].startswith(f"{liar}: more hospitals have no right share")


@pytest.mark.parametrize("after", [2, 4], ids=["in training", "before the evaluation"])
def test_agents_that_started_anew_while_a_run_waited_cost_it_nothing(after: int) -> None:
    run = stage({})
    run.stop_after_rounds = after
    state = run.run()
    assert run.end == "stopped"
    run.stop_after_rounds = 1_000_000
    for name in ("north", "west"):
        run.sites[name].restart()
    ends_exactly(run, run.run(checkpoint.from_bytes(checkpoint.to_bytes(state))))
    assert run.of_kind("attempt-failed") == []


@pytest.mark.slow
def test_a_coordinator_killed_while_it_relays_new_keys_goes_on() -> None:
    """Every ledger has seen the new keys by then, and would refuse the older ones."""
    once: list[str] = []

    def answer(site: Site, request: Request) -> bytes | None:
        header = request.header
        if header.kind == "release" and header.round == 2 and site.id not in once:
            once.append(site.id)
            run.restart(site.id)
        return honest(site, request)

    ends = 0
    for killed_after in range(1, 16):
        once.clear()
        run = stage({"north": answer, "west": answer}, steps=2)
        run.killed_after = ("ask", killed_after)
        try:
            state = run.run()
        except Killed:
            state = run.run_again()
        ends_exactly(run, state)
        ends += 1
    assert ends == 15
