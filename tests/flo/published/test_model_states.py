"""Which version may be used: decisions, their signatures, and what follows at a hospital."""

from __future__ import annotations

from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flo.errors import FloError, StudyError, TrustError, UsageError
from flo.published.model_states import (
    MOST_DECISIONS,
    MOST_PROMOTIONS,
    ModelStates,
    ModelVersion,
    Said,
    digest_of_all,
    in_use,
    obeyed,
    withdrawal,
)
from tests.flo.published_models import COORDINATOR, MALLORY

TIME = "2026-11-29T10:00:00.000+00:00"
SAID = Said("Ada", "validated on last year's patients", TIME)
V1, V2, V3 = (
    ModelVersion(version=number, study=f"{number:064x}", card=f"{number + 100:064x}")
    for number in (1, 2, 3)
)
EMPTY = ModelStates(name="heart")


def used(*versions: ModelVersion, states: ModelStates = EMPTY) -> ModelStates:
    """Each of these was approved and then made current, in this order."""
    for version in versions:
        states = states.approved(version, SAID).promoted(version, SAID)
    return states


def test_a_version_goes_up_in_two_steps_and_replaces_the_current_one() -> None:
    states = used(V1)
    assert states.state_of(V2.study) == "candidate"
    with pytest.raises(StudyError, match="only an approved version can be made current"):
        states.promoted(V2, SAID)
    states = states.approved(V2, SAID)
    assert (states.state_of(V2.study), states.current) == ("approved", V1)
    with pytest.raises(StudyError, match="version 2 of heart is approved already"):
        states.approved(V2, SAID)
    states = states.promoted(V2, SAID)
    assert (states.current, states.state_of(V1.study)) == (V2, "approved")
    with pytest.raises(StudyError, match="version 2 of heart is current already"):
        states.promoted(V2, SAID)


def test_a_rollback_withdraws_and_puts_the_version_before_back() -> None:
    states = used(V1, V2).rolled_back(V2, SAID)
    assert (states.current, states.state_of(V2.study)) == (V1, "withdrawn")
    with pytest.raises(StudyError, match="no version of heart that can be used was in use"):
        states.rolled_back(V1, SAID)


def test_nobody_goes_back_twice() -> None:
    """A second person, a second click, or a retry after a lost answer."""
    states = used(V1, V2, V3).rolled_back(V3, SAID)
    with pytest.raises(StudyError, match="version 3 of heart is withdrawn already") as caught:
        states.rolled_back(V3, SAID)
    assert caught.value.hint == "version 2 is in use"
    assert states.current == V2


def test_a_rollback_skips_what_was_withdrawn_meanwhile() -> None:
    states = used(V1, V2, V3).withdrawn(V2, SAID).rolled_back(V3, SAID)
    assert states.current == V1


def test_without_a_version_in_use_there_is_nothing_to_go_back_from() -> None:
    with pytest.raises(StudyError, match="version 1 of heart is not in use: none is"):
        EMPTY.rolled_back(V1, SAID)


def test_after_a_withdrawal_no_version_is_current_until_one_is_promoted() -> None:
    states = used(V1, V2).withdrawn(V2, SAID)
    assert states.current is None
    with pytest.raises(StudyError, match="version 2 of heart is withdrawn already"):
        states.withdrawn(V2, SAID)
    assert states.approved(V2, SAID).state_of(V2.study) == "approved", "not current at once"


def test_another_card_of_a_withdrawn_version_is_withdrawn_too() -> None:
    """A version is its study: it may be published again, or its card signed again."""
    states = used(V1, V2).withdrawn(V2, SAID)
    assert withdrawal([states], V2.study) is not None
    again = V2.model_copy(update={"card": "ab" * 32})
    with pytest.raises(StudyError, match="withdrawn already"):
        states.withdrawn(again, SAID)
    assert states.approved(again, SAID).versions == [V1, again]


@pytest.mark.parametrize("why", ["", "x" * 501, "two\nlines", "\u202ereversed"])
def test_a_reason_is_said_and_can_be_shown(why: str) -> None:
    with pytest.raises(UsageError, match="the decision:\n  why"):
        EMPTY.approved(V1, Said("Ada", why, TIME))


def test_a_list_has_an_end() -> None:
    states = EMPTY.model_copy(update={"decisions": used(V1).decisions * (MOST_DECISIONS // 2)})
    with pytest.raises(StudyError, match="1000 decisions were made on heart"):
        states.withdrawn(V2, SAID)


def test_promotions_leave_room_for_withdrawals() -> None:
    states = EMPTY.model_copy(update={"decisions": used(V1).decisions * (MOST_PROMOTIONS // 2)})
    with pytest.raises(StudyError, match="900 decisions were made on heart"):
        states.approved(V2, SAID)
    assert states.withdrawn(V1, SAID).current is None


# -- signatures and copies -------------------------------------------------------------------------


def test_only_the_party_that_decided_can_have_signed() -> None:
    signed = used(V1).signed(COORDINATOR)
    signed.check([COORDINATOR.fingerprint])
    with pytest.raises(TrustError, match="signed by another party"):
        signed.check([MALLORY.fingerprint])
    with pytest.raises(TrustError):
        signed.model_copy(update={"decisions": signed.decisions[:1]}).check(
            [COORDINATOR.fingerprint]
        )
    with pytest.raises(TrustError):
        signed.model_copy(update={"name": "lung"}).check([COORDINATOR.fingerprint])


def test_an_unsigned_list_is_nobodys() -> None:
    with pytest.raises(TrustError):
        used(V1).check([COORDINATOR.fingerprint])


def test_a_list_that_takes_a_decision_back_does_not_continue() -> None:
    states = used(V1, V2).rolled_back(V2, SAID)
    assert states.continues(used(V1, V2))
    assert not used(V1, V2).continues(states)
    other = used(V1, V2).withdrawn(V1, SAID)
    assert not other.continues(states)
    assert not states.model_copy(update={"name": "lung"}).continues(used(V1))


def test_what_is_new_is_seen_by_a_digest_in_any_order() -> None:
    lung = ModelStates(name="lung")
    assert digest_of_all([EMPTY, lung]) == digest_of_all([lung, EMPTY])
    assert digest_of_all([EMPTY]) != digest_of_all([used(V1)])


# -- at a hospital ---------------------------------------------------------------------------------


def test_the_coordinators_word_puts_nothing_into_use_at_a_hospital() -> None:
    assert in_use(EMPTY, used(V1)) is None
    assert in_use(EMPTY.put_into_use(V1, SAID), used(V1, V2)) == V1


def test_its_withdrawal_counts_at_once_and_the_version_before_answers() -> None:
    theirs = used(V1, V2)
    own = EMPTY.put_into_use(V1, SAID).put_into_use(V2, SAID)
    assert obeyed(own, theirs, time=TIME) == own
    theirs = theirs.withdrawn(V2, Said("Ada", "wrong units", TIME))
    assert in_use(own, theirs) == V1, "also before this hospital's list says so"
    after = obeyed(own, theirs, time=TIME)
    assert (in_use(after, theirs), after.state_of(V2.study)) == (V1, "withdrawn")
    assert after.decisions[-2].why == "Ada withdrew it: wrong units"
    assert obeyed(after, theirs, time=TIME) == after


def test_a_withdrawal_counts_in_whichever_list_it_is() -> None:
    own = EMPTY.put_into_use(V1, SAID).put_into_use(V2, SAID)
    fork = used(V2).withdrawn(V2, SAID)
    assert in_use(own, used(V1, V2), fork) == V1
    assert in_use(obeyed(own, used(V1, V2), fork, time=TIME), used(V1, V2), fork) == V1


def test_what_it_approves_again_returns_only_if_the_hospital_says_so() -> None:
    own = EMPTY.put_into_use(V1, SAID).put_into_use(V2, SAID)
    theirs = used(V1, V2).withdrawn(V2, SAID)
    own = obeyed(own, theirs, time=TIME)
    theirs = used(V2, states=theirs)
    assert theirs.current == V2
    assert in_use(own, theirs) == V1
    assert withdrawal((theirs, own), V2.study) is not None
    assert in_use(own.put_into_use(V2, SAID), theirs) == V2


def test_no_version_answers_if_all_are_withdrawn() -> None:
    theirs = used(V1, V2).withdrawn(V1, SAID).withdrawn(V2, SAID)
    own = EMPTY.put_into_use(V1, SAID).put_into_use(V2, SAID)
    assert in_use(obeyed(own, theirs, time=TIME), theirs) is None


def test_a_longest_reason_fits_when_it_is_passed_on() -> None:
    theirs = used(V1).withdrawn(V1, Said("A" * 80, "w" * 500, TIME))
    own = EMPTY.put_into_use(V1, SAID)
    assert in_use(obeyed(own, theirs, time=TIME), theirs) is None


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["their approve", "their promote", "their withdraw", "their rollback"])
        | st.sampled_from(["own promote", "own withdraw", "own rollback"]),
        st.sampled_from([V1, V2, V3]),
    ),
    max_size=25,
)


@given(steps=STEPS)
def test_a_withdrawn_version_never_answers(steps: list[tuple[str, ModelVersion]]) -> None:
    """Whatever both sides decide in whatever order: the version in use is one that the hospital
    chose and that neither side's last word is against; one version at most is current."""
    theirs, own = EMPTY, EMPTY
    clock = count()
    for step, version in steps:
        said = Said("Ada", f"step {next(clock)}", TIME)
        try:
            if step == "their approve":
                theirs = theirs.approved(version, said)
            elif step == "their promote":
                theirs = theirs.promoted(version, said)
            elif step == "their withdraw":
                theirs = theirs.withdrawn(version, said)
            elif step == "their rollback":
                theirs = theirs.rolled_back(version, said)
            elif step == "own promote" and withdrawal([theirs], version.study) is None:
                own = own.put_into_use(version, said)
            elif step == "own withdraw":
                own = own.withdrawn(version, said)
            elif step == "own rollback":
                own = own.rolled_back(version, said, theirs)
        except FloError:
            pass  # this step was not possible
        before = in_use(own, theirs)
        own = obeyed(own, theirs, time=TIME)
        for states in (theirs, own):
            assert list(states.states.values()).count("current") <= 1
        answering = in_use(own, theirs)
        if before is not None:
            assert answering == before, "obeying changes nothing that is sound"
        if answering is not None:
            assert own.state_of(answering.study) == "current"
            assert theirs.state_of(answering.study) != "withdrawn"
