"""Rules of absence, row by row of the table in ``participation``, and what always holds."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flo.server.rounds.participation import (
    FORGIVEN_ONCE,
    GONE_FOR_GOOD,
    MOST_MISSES,
    ParticipationPolicy,
)
from flo.study.document import Study
from tests.builders import small_study

NAMES = ("east", "north", "south", "west")
OTHER_CODES = ("not-ready", "settled", "malformed")
MISSES: dict[str, Callable[[ParticipationPolicy, str], None]] = {
    "missed": ParticipationPolicy.missed,
    **{code: partial(ParticipationPolicy.refused, code=code) for code in OTHER_CODES},
}
every_miss = pytest.mark.parametrize("miss", MISSES.values(), ids=MISSES.keys())


def study(hospitals: int = 4, floor: int = 2) -> Study:
    return small_study(
        hospitals=[{"id": name, "declared_size": 40} for name in NAMES[:hospitals]],
        limits={"deadline_seconds": 10, "minimum_cohort": floor},
    )


def participation(floor: int = 2) -> ParticipationPolicy:
    return ParticipationPolicy(study(floor=floor))


def present(those: ParticipationPolicy) -> set[str]:
    return set(those.present(NAMES))


# -- refused for good ------------------------------------------------------------------------------


@pytest.mark.parametrize("code", sorted(GONE_FOR_GOOD))
def test_who_refuses_for_good_is_gone_for_the_rest_of_the_run(code: str) -> None:
    those = participation()
    those.refused("north", code)
    for _ in range(3):
        assert those.is_gone("north")
        assert present(those) == {"east", "south", "west"}
        those.next_round()


@pytest.mark.parametrize("code", sorted(GONE_FOR_GOOD))
def test_who_refuses_for_good_is_gone_even_below_the_floor(code: str) -> None:
    those = participation(floor=4)
    before = those.can_reach_the_floor
    those.refused("north", code)
    assert (before, those.can_reach_the_floor) == (True, False)
    assert present(those) == {"east", "south", "west"}


def test_the_floor_can_be_reached_until_one_more_is_gone() -> None:
    those = participation(floor=2)
    for name, reachable in (("east", True), ("north", True), ("south", False)):
        those.refused(name, "over-budget")
        assert those.can_reach_the_floor is reachable


# -- missed ----------------------------------------------------------------------------------------


@every_miss
def test_who_misses_is_out_for_the_round_and_asked_in_the_next(
    miss: Callable[[ParticipationPolicy, str], None],
) -> None:
    those = participation()
    miss(those, "north")
    assert present(those) == {"east", "south", "west"}
    assert not those.is_gone("north")
    those.next_round()
    assert present(those) == set(NAMES)


@every_miss
def test_who_misses_is_asked_again_in_the_round_if_too_few_are_left(
    miss: Callable[[ParticipationPolicy, str], None],
) -> None:
    those = participation(floor=4)
    miss(those, "north")
    assert present(those) == set(NAMES)


def test_only_those_who_are_connected_count_as_enough() -> None:
    those = participation(floor=2)
    those.missed("north")
    assert those.present(("north", "south")) == ["north", "south"]
    assert those.present(("north", "south", "west")) == ["south", "west"]


@every_miss
def test_who_misses_in_two_rounds_is_gone(miss: Callable[[ParticipationPolicy, str], None]) -> None:
    assert MOST_MISSES == 2
    those = participation()
    miss(those, "north")
    those.next_round()
    assert not those.is_gone("north")
    miss(those, "north")
    assert those.is_gone("north")
    those.next_round()
    assert present(those) == {"east", "south", "west"}


def test_rounds_need_not_follow_each_other_to_be_counted() -> None:
    those = participation()
    those.missed("north")
    for _ in range(3):
        those.next_round()
    those.missed("north")
    assert those.is_gone("north")


def test_several_misses_in_one_round_count_once() -> None:
    those = participation()
    for _ in range(5):
        those.missed("north")
        those.refused("north", "not-ready")
    assert not those.is_gone("north")
    those.next_round()
    assert "north" in present(those)


def test_misses_are_each_hospitals_own() -> None:
    those = participation()
    those.missed("north")
    those.next_round()
    those.missed("south")
    assert not those.is_gone("north")
    assert not those.is_gone("south")


def test_misses_make_nobody_gone_when_too_few_would_be_left() -> None:
    those = participation(floor=3)
    for _ in range(5):
        for name in NAMES:
            those.missed(name)
        those.next_round()
    assert [name for name in NAMES if those.is_gone(name)] == ["east"]
    assert those.can_reach_the_floor


# -- joins again -----------------------------------------------------------------------------------


@pytest.mark.parametrize("code", sorted(FORGIVEN_ONCE))
def test_what_is_no_fault_of_the_hospital_costs_nothing_once_a_round(code: str) -> None:
    those = participation()
    for _ in range(5):
        those.refused("north", code)
        assert present(those) == set(NAMES)
        those.next_round()
    assert not those.is_gone("north")


@pytest.mark.parametrize("again", sorted(FORGIVEN_ONCE))
@pytest.mark.parametrize("code", sorted(FORGIVEN_ONCE))
def test_the_second_time_in_a_round_counts_as_a_miss(code: str, again: str) -> None:
    those = participation()
    for rounds in range(1, 3):
        those.refused("north", code)
        assert "north" in present(those)
        those.refused("north", again)
        assert "north" not in present(those)
        assert those.is_gone("north") is (rounds == MOST_MISSES)
        those.next_round()


def test_joining_again_is_each_hospitals_own() -> None:
    those = participation()
    those.refused("north", "stale-key")
    those.refused("south", "stale-key")
    assert present(those) == set(NAMES)


# -- not connected ---------------------------------------------------------------------------------


def test_who_is_not_connected_is_not_asked_until_it_is() -> None:
    those = participation()
    assert those.present(()) == []
    assert those.present({"west", "east"}) == ["east", "west"]  # in the study's order
    assert those.present((*NAMES, "stranger")) == list(NAMES)
    those.next_round()
    assert present(those) == set(NAMES)


# -- what always holds -----------------------------------------------------------------------------

hospital = st.sampled_from(NAMES)
codes = st.sampled_from(sorted(GONE_FOR_GOOD | FORGIVEN_ONCE) + list(OTHER_CODES))
happening = st.one_of(
    st.tuples(hospital, st.just("missed")), st.tuples(hospital, codes), st.just(("", "next round"))
)


def live(those: ParticipationPolicy, happenings: list[tuple[str, str]]) -> None:
    for who, what in happenings:
        if what == "next round":
            those.next_round()
        elif what == "missed":
            those.missed(who)
        else:
            those.refused(who, what)


@given(st.integers(2, 4), st.lists(happening, max_size=30), st.sets(hospital))
def test_enough_are_asked_whenever_enough_are_there(
    floor: int, happenings: list[tuple[str, str]], connected: set[str]
) -> None:
    those = participation(floor)
    live(those, happenings)
    there = {name for name in connected if not those.is_gone(name)}
    asked = those.present(connected)
    assert len(asked) >= min(floor, len(there))
    assert set(asked) <= there
    assert len(set(asked)) == len(asked)
    those.next_round()
    assert set(those.present(connected)) == there  # a new round forgives everyone who is not gone


@given(st.integers(2, 4), st.lists(happening, max_size=40))
def test_nobody_is_gone_by_misses_below_the_floor(
    floor: int, happenings: list[tuple[str, str]]
) -> None:
    those = participation(floor)
    for one in happenings:
        before = {name for name in NAMES if those.is_gone(name)}
        live(those, [one])
        after = {name for name in NAMES if those.is_gone(name)}
        assert before <= after
        assert after - before <= {one[0]}
        if one[1] not in GONE_FOR_GOOD and after != before:
            assert len(NAMES) - len(after) >= floor
    assert those.can_reach_the_floor is (
        len(NAMES) - sum(those.is_gone(name) for name in NAMES) >= floor
    )
