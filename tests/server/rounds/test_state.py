"""The coordinator's rules of one round: what a sum does to the model, and what answers what."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from flo.arrays import Integers
from flo.errors import MessageError
from flo.keys.claims import HeadAttestation, RunKey
from flo.privacy.accounting.plan import Plan, combined_variance, reach_of, ring_of
from flo.privacy.mechanisms.mechanisms import GRID
from flo.privacy.releases import calibration
from flo.privacy.releases.score_waves import vectors
from flo.privacy.secure_sum.ring import to_ring
from flo.protocol.messages import MAX_ATTEMPTS, Reply, ReplyHeader, RequestHeader, model_digest
from flo.server.rounds.relayed import for_one
from flo.server.rounds.state import (
    NO_WEIGHTS,
    RunState,
    check_reply,
    is_complete,
    request_header,
    retried,
)
from flo.study.document import Study
from flo.study.models import parameter_count
from tests.builders import HOSPITALS, small_study, study_document
from tests.partners import partner, run_key, signed
from tests.secure_sums import advance, gathered
from tests.server.in_memory_run import MASKED, MODES, RUN, cohort_of, company_study, reply_facts

# -- the arithmetic, by hand -------------------------------------------------------------------


def grid(study: Study, clips: float) -> Integers:
    """A release that means ``clips`` clip norms in every coordinate."""
    return np.full(parameter_count(study), round(clips * GRID), dtype=np.int64)


def test_three_rounds_give_the_weights_that_a_person_computes() -> None:
    # clip .5, learning rate .5, momentum .5, three hospitals that declare 40 patients each.
    study = small_study()
    state = RunState.start(study)

    state = advance(study, state, dict.fromkeys(HOSPITALS, grid(study, 40)))
    assert state.velocity == pytest.approx(0.5)  # 3 · 40 · .5 / 120
    assert state.weights == pytest.approx(-0.25)
    assert (state.round, state.attempt, state.tail_count) == (2, 1, 0)

    state = advance(study, state, dict.fromkeys(HOSPITALS, grid(study, 40)))
    assert state.velocity == pytest.approx(0.75)  # .5 · .5 + .5
    assert state.weights == pytest.approx(-0.625)
    assert (state.round, state.tail_count) == (3, 1)

    state = advance(study, state, dict.fromkeys(HOSPITALS, grid(study, 0)))  # to -.8125
    assert state.model == pytest.approx((-0.625 - 0.8125) / 2)  # the last half of three rounds
    assert state.model is state.weights, "what evaluation asks about is kept once"
    assert (len(state.velocity), len(state.tail_sum), state.tail_count) == (0, 0, 0)
    assert (state.phase, state.round, state.attempt) == ("evaluation", 1, 1)


def test_the_evaluation_asks_about_the_model_that_is_published() -> None:
    study = small_study()
    state = RunState.start(study)
    for clips in (80, 80, 0):
        state = advance(study, state, dict.fromkeys(HOSPITALS, grid(study, clips)))
    assert np.array_equal(state.asked, state.model)
    told = [7 * vectors(np.array([place]))[0] for place in (0.4, 0.6)]
    sums = np.rint(np.concatenate(told) * GRID).astype(np.int64)
    state = advance(study, state, dict.fromkeys(HOSPITALS, sums))
    assert state.phase == "done"
    assert state.estimate is not None
    assert state.estimate.low <= state.estimate.auc <= state.estimate.high
    assert state.estimate.auc > 0.75
    total, part = len(HOSPITALS) * np.concatenate(told), Plan.of(study).purpose("evaluation")
    variance = combined_variance(study, part, len(HOSPITALS))
    rounded = np.rint(total / len(HOSPITALS) * GRID) * len(HOSPITALS) / GRID
    expected = calibration.fit(study, state.model, rounded, variance)
    assert expected is not None
    assert state.calibration is not None
    assert state.calibration.risk == pytest.approx(expected.risk)


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


# -- who is asked what -------------------------------------------------------------------------


def joined(study: Study, *hospitals: str, **changes: Any) -> RunState:
    """The first attempt, with a run key, a ledger head and a voucher for each of these."""
    heads = {name: signed(partner(name), 1) for name in hospitals}
    keys: dict[str, RunKey] = {}
    vouchers: dict[str, HeadAttestation] = {}
    for name, witness in zip(hospitals, hospitals[1:] + hospitals[:1], strict=True):
        keys[name] = run_key(partner(name), study.digest, RUN)[1]
        vouchers[name] = HeadAttestation.given(
            partner(witness), study.digest, RUN, keys[name], None
        )
    return replace(RunState.start(study), heads=heads, keys=keys, vouchers=vouchers, **changes)


def test_a_call_to_join_relays_every_known_key_and_no_model() -> None:
    study = company_study("local noise, masked")
    state = joined(study, *HOSPITALS)
    header = request_header(study, RUN, state, "join", ("west",))
    assert (header.kind, header.cohort) == ("join", ("west",))
    assert header.keys == state.keys
    assert (header.vouchers, header.heads) == ({}, {})
    assert header.model == model_digest(NO_WEIGHTS)


def test_an_attempt_names_the_keys_of_its_cohort_and_to_each_its_own_voucher() -> None:
    study = company_study("local noise, masked")
    pair = ("north", "west")
    state = joined(study, *HOSPITALS)
    state = replace(state, heads={name: state.heads[name] for name in pair})
    header = request_header(study, RUN, state, "release", pair)
    assert header.heads == state.heads
    assert header.keys == {name: state.keys[name] for name in pair}
    assert header.vouchers == {}
    state = replace(state, cohort=pair)
    for name in pair:
        assert for_one(state, name) == {"sealed": {}, "vouchers": {name: state.vouchers[name]}}
    assert header.model == model_digest(state.asked)


def test_the_end_of_a_run_names_no_key_and_relays_the_heads() -> None:
    study = company_study("local noise, masked")
    state = joined(study, *HOSPITALS)
    header = request_header(study, RUN, state, "finish", HOSPITALS)
    assert (header.keys, header.heads, header.vouchers) == ({}, state.heads, {})
    assert set(state.heads) == set(HOSPITALS)
    assert header.model == model_digest(NO_WEIGHTS)


# -- what answers it ---------------------------------------------------------------------------

ANSWERS = {"join": "joined", "release": "release", "finish": "settled"}
KINDS = ("joined", "release", "settled", "refused")


def request(mode: str, kind: str = "release") -> tuple[Study, RequestHeader]:
    study = company_study(mode)
    return study, request_header(study, RUN, joined(study, *HOSPITALS), kind, HOSPITALS)


def right_values(study: Study, header: RequestHeader) -> npt.NDArray[Any]:
    part = Plan.of(study).purpose(header.purpose)
    zeros = np.zeros(part.mechanism.length, dtype=np.int64)
    ring = ring_of(study, part, len(header.cohort))
    return to_ring(zeros, ring) if ring else zeros


def reply(
    header: RequestHeader, sender: str, values: npt.NDArray[Any], kind: str, **changes: Any
) -> Reply:
    document = reply_facts(header, kind, sender, signed(partner(sender), 1), values)
    document |= {"cohort": cohort_of(header)} if header.kind == kind == "release" else {}
    return Reply(ReplyHeader.model_validate(document | changes), values)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("asked", ANSWERS)
def test_each_question_has_one_kind_of_answer_or_a_refusal(
    mode: str, asked: str, kind: str
) -> None:
    study, header = request(mode, asked)
    values = right_values(study, header) if kind == "release" else np.zeros(0, dtype=np.int64)
    answer = reply(header, "north", values, kind)
    if kind in (ANSWERS[asked], "refused"):
        check_reply(study, header, "north", answer)
        return
    with pytest.raises(MessageError, match=f"a reply '{kind}' to a request '{asked}'"):
        check_reply(study, header, "north", answer)


ANOTHER: dict[str, tuple[dict[str, Any], str]] = {
    "study": ({"study": "1" * 64}, "another study"),
    "run": ({"run": "run-2"}, "another run"),
    "purpose": ({"purpose": "evaluation"}, "another purpose"),
    "round": ({"round": 2}, "another round"),
    "attempt": ({"attempt": 2}, "another attempt"),
    "model": ({"model": "2" * 64}, "another model"),
    "hospital": ({"hospital": "south"}, "in the name of south"),
}
ONLY_A_RELEASE: dict[str, tuple[dict[str, Any], str]] = {
    "cohort": ({"cohort": "3" * 64}, "another cohort"),
    "no cohort": ({"cohort": None}, "another cohort"),
    "ring": ({"ring": 64}, "another ring"),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("asked", ANSWERS)
@pytest.mark.parametrize("what", ANOTHER)
@pytest.mark.parametrize("refused", [False, True], ids=["answer", "refusal"])
def test_a_reply_to_something_else_is_refused_whatever_it_says(
    mode: str, asked: str, what: str, refused: bool
) -> None:
    study, header = request(mode, asked)
    values = right_values(study, header) if asked == "release" else np.zeros(0, dtype=np.int64)
    kind = "refused" if refused else ANSWERS[asked]
    check_reply(study, header, "north", reply(header, "north", values, kind))
    changes, named = ANOTHER[what]
    with pytest.raises(MessageError, match=named):
        check_reply(study, header, "north", reply(header, "north", values, kind, **changes))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("what", ONLY_A_RELEASE)
def test_a_release_for_another_cohort_or_ring_is_refused(mode: str, what: str) -> None:
    study, header = request(mode)
    values = right_values(study, header)
    changes, named = ONLY_A_RELEASE[what]
    with pytest.raises(MessageError, match=named):
        check_reply(study, header, "north", reply(header, "north", values, "release", **changes))


@pytest.mark.parametrize("mode", MASKED)
def test_numbers_in_the_clear_are_no_answer_where_masks_are_on(mode: str) -> None:
    study, header = request(mode)
    clear = np.zeros(parameter_count(study), dtype=np.int64)
    with pytest.raises(MessageError, match="another ring"):
        check_reply(study, header, "north", reply(header, "north", clear, "release"))


def test_masked_numbers_are_no_answer_where_masks_are_off() -> None:
    study, header = request("masking off")
    masked = to_ring(np.zeros(parameter_count(study), dtype=np.int64), 32)
    with pytest.raises(MessageError, match="another ring"):
        check_reply(study, header, "north", reply(header, "north", masked, "release"))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("later", ["keys", "heads"])
def test_a_release_for_the_cohort_with_an_older_key_or_head_is_for_another_cohort(
    mode: str, later: str
) -> None:
    study, header = request(mode)
    old = request_header(study, RUN, joined(study, *HOSPITALS), "release", HOSPITALS)
    new = {
        "keys": run_key(partner("west"), study.digest, RUN, 2)[1],
        "heads": signed(partner("west"), 2),
    }[later]
    header = header.model_copy(update={later: getattr(header, later) | {"west": new}})
    answer = reply(old, "north", right_values(study, old), "release")
    with pytest.raises(MessageError, match="another cohort"):
        check_reply(study, header, "north", answer)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("length", [-1, 1], ids=["short", "long"])
def test_a_release_of_another_length_is_refused(mode: str, length: int) -> None:
    study, header = request(mode)
    right = right_values(study, header)
    values = np.resize(right, len(right) + length)
    with pytest.raises(MessageError, match=f"{len(values)} values, {len(right)} expected"):
        check_reply(study, header, "north", reply(header, "north", values, "release"))


# -- which attempts count ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "there", "counts"),
    [
        ("masking off", 3, True),
        ("masking off", 2, True),
        ("masking off", 1, False),
        *((mode, there, there == 3) for mode in MASKED for there in (3, 2, 1)),
    ],
)
def test_a_masked_attempt_counts_only_if_everyone_answered(
    mode: str, there: int, counts: bool
) -> None:
    study = company_study(mode)
    state = replace(RunState.start(study), cohort=HOSPITALS)
    values = dict.fromkeys(HOSPITALS[:there], grid(study, 1))
    assert is_complete(study, state, gathered(study, state, values)) is counts


@pytest.mark.parametrize("declared", [40, 20_000], ids=["ring of 32 bits", "ring of 64 bits"])
@pytest.mark.parametrize("noise", ["local", "distributed"])
@pytest.mark.parametrize("side", [1, -1], ids=["above", "below"])
def test_a_sum_beyond_what_honest_hospitals_could_reach_is_refused(
    declared: int, noise: str, side: int
) -> None:
    hospitals = [{"id": name, "declared_size": declared} for name in HOSPITALS]
    document = study_document(hospitals=hospitals)
    document["mechanism"] |= {"noise": noise, "masking": "on", "delta": 1e-7}
    study = small_study(**document)
    part = Plan.of(study).purpose("training")
    ring, reach = ring_of(study, part, 3), reach_of(study, part, 3)
    assert ring == (32 if declared == 40 else 64)
    start = replace(RunState.start(study), cohort=HOSPITALS)

    def added(last: int) -> RunState:
        parts = {"north": side * (reach - 10), "south": side * 7, "west": side * last}
        vectors = {h: np.zeros(part.mechanism.length, dtype=np.int64) for h in HOSPITALS}
        for hospital, value in parts.items():
            vectors[hospital][-1] = value  # one coordinate is enough
        return advance(study, start, {h: to_ring(v, ring) for h, v in vectors.items()})

    assert added(3).round == 2
    with pytest.raises(MessageError, match="the limit for honest hospitals"):
        added(4)


@pytest.mark.parametrize("drawn", [False, True])
@pytest.mark.parametrize("mode", ["masking off", "local noise, masked"])
def test_local_noise_may_be_asked_again_until_patience_ends(mode: str, drawn: bool) -> None:
    study = company_study(mode)
    state: RunState | None = RunState.start(study)
    attempts = []
    while state is not None:
        attempts.append(state.attempt)
        assert state.retries == 0
        state = retried(study, state, drawn=drawn)
    assert attempts == list(range(1, MAX_ATTEMPTS + 1))


@pytest.mark.parametrize("allowance", [0, 1, 3])
def test_distributed_noise_may_be_drawn_again_as_often_as_the_study_allows(allowance: int) -> None:
    study = company_study("distributed noise", retry_allowance=allowance)
    state: RunState | None = RunState.start(study)
    asked = 0
    while state is not None:
        asked += 1
        state = retried(study, state, drawn=True)
    assert asked == 1 + allowance


def test_an_attempt_in_which_nobody_drew_noise_costs_patience_only() -> None:
    study = company_study("distributed noise", retry_allowance=0)
    state: RunState | None = RunState.start(study)
    attempts = []
    while state is not None:
        attempts.append(state.attempt)
        assert state.retries == 0
        state = retried(study, state, drawn=False)
    assert attempts == list(range(1, MAX_ATTEMPTS + 1))


def test_the_allowance_is_for_the_whole_training_not_for_each_round() -> None:
    study = company_study("distributed noise", retry_allowance=1)
    again = retried(study, RunState.start(study), drawn=True)
    assert again is not None
    second = advance(study, again, dict.fromkeys(HOSPITALS, to_ring(grid(study, 1), 32)))
    assert (second.round, second.attempt, second.retries) == (2, 1, 1)
    assert retried(study, second, drawn=True) is None


def test_evaluation_has_an_allowance_of_its_own() -> None:
    study = company_study("distributed noise", retry_allowance=1, steps=1)
    again = retried(study, RunState.start(study), drawn=True)
    assert again is not None
    tested = advance(study, again, dict.fromkeys(HOSPITALS, to_ring(grid(study, 1), 32)))
    assert (tested.phase, tested.attempt, tested.retries) == ("evaluation", 1, 0)


def test_a_retry_chooses_its_cohort_anew_and_keeps_all_else() -> None:
    study = company_study("local noise, masked")
    state = joined(study, *HOSPITALS, cohort=HOSPITALS)
    again = retried(study, state, drawn=True)
    assert again == replace(state, attempt=2, cohort=())


@pytest.mark.parametrize("mode", MODES)
def test_the_next_round_chooses_its_cohort_anew_and_keeps_keys_and_vouchers(mode: str) -> None:
    study = company_study(mode)
    state = joined(study, *HOSPITALS, cohort=HOSPITALS)
    steps = grid(study, 1)
    values = to_ring(steps, 32) if study.masked else steps
    after = advance(study, state, dict.fromkeys(HOSPITALS, values))
    assert after.cohort == ()
    assert (after.keys, after.vouchers) == (state.keys, state.vouchers)
