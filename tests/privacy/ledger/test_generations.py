"""A population's generations: each patient has one life, new patients have a new one."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flo.errors import BudgetError
from flo.privacy.accounting.life_budget import SUB_LEDGERS
from flo.privacy.accounting.plan import Plan
from flo.privacy.ledger.admission import Approved
from flo.privacy.ledger.generations import UNRECORDED, LaterPatients
from flo.privacy.ledger.ledger import Ledger
from flo.study.document import Study
from tests.builders import small_study
from tests.partners import signed
from tests.privacy.ledger.life_histories import KEY, side_of
from tests.privacy.ledgers import facts, new_ledger, survey_of
from tests.privacy.ledgers import study_of as older_study

FIRST_YEAR, SECOND_YEAR = {"p1", "p5", "p8"}, {"p11", "p15"}


def study_of(epsilon: float, name: str, tested: float | None = None) -> Study:
    document = older_study(epsilon, name, tested=tested).model_dump(mode="json")
    del document["evaluation"]["bins"]
    return small_study(**document | {"schema_version": 4})


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with new_ledger(tmp_path / "ledger.sqlite", KEY) as made:
        yield made


def who(ledger: Ledger, reservation: int, patients: set[str]) -> set[str]:
    inside = ledger.participants(reservation)
    return {one for one in patients if inside.include(one, side_of(one))}


# -- who takes part --------------------------------------------------------------------------------


def test_new_patients_have_a_whole_life_when_the_old_ones_are_spent(ledger: Ledger) -> None:
    """Before, a study at ε = .9 used a hospital's patients up for ever."""
    one = ledger.reserve(study_of(0.9, "first"), "main", FIRST_YEAR)
    two = ledger.reserve(study_of(0.9, "second"), "main", FIRST_YEAR | SECOND_YEAR)
    assert who(ledger, one, FIRST_YEAR) == FIRST_YEAR
    assert who(ledger, two, FIRST_YEAR | SECOND_YEAR) == SECOND_YEAR
    assert ledger.balance().generations("main") == (one, two)


def test_a_study_uses_every_generation_with_room(ledger: Ledger) -> None:
    ledger.reserve(study_of(0.3, "first"), "main", FIRST_YEAR)
    two = ledger.reserve(study_of(0.3, "second"), "main", FIRST_YEAR | SECOND_YEAR)
    assert who(ledger, two, FIRST_YEAR | SECOND_YEAR) == FIRST_YEAR | SECOND_YEAR
    three = ledger.reserve(study_of(0.9, "third"), "main", FIRST_YEAR | SECOND_YEAR)
    assert who(ledger, three, FIRST_YEAR | SECOND_YEAR) == set()


def test_room_is_decided_for_each_side_of_the_split(ledger: Ledger) -> None:
    ledger.reserve(study_of(0.9, "first", tested=0.3), "main", FIRST_YEAR | SECOND_YEAR)
    next_ = ledger.reserve(study_of(0.3, "next"), "main", FIRST_YEAR | SECOND_YEAR)
    assert who(ledger, next_, FIRST_YEAR | SECOND_YEAR) == {"p1", "p11"}  # who are held out


def test_a_survey_asks_whom_it_has_room_for(ledger: Ledger) -> None:
    one = ledger.reserve(study_of(0.9, "first", tested=0.3), "main", FIRST_YEAR)
    asked = survey_of(0.3).model_dump(mode="json") | {"schema_version": 4}
    del asked["evaluation"]["bins"]
    two = ledger.reserve(small_study(**asked), "main", FIRST_YEAR | {"p20"})
    assert who(ledger, two, FIRST_YEAR | {"p20"}) == {"p1", "p20"}
    charged = ledger.balance().reservations[two].generations
    assert charged == {"training": {two}, "evaluation": {one, two}}


def test_a_study_that_never_ran_costs_nothing(ledger: Ledger) -> None:
    one = ledger.reserve(study_of(0.9, "first"), "main", FIRST_YEAR)
    ledger.settle(one, "withdrawn")
    two = ledger.reserve(study_of(0.9, "second"), "main", FIRST_YEAR | SECOND_YEAR)
    assert who(ledger, two, FIRST_YEAR | SECOND_YEAR) == FIRST_YEAR | SECOND_YEAR


def test_a_generation_opens_even_if_nobody_is_new(ledger: Ledger) -> None:
    one = ledger.reserve(study_of(0.9, "first"), "main", FIRST_YEAR)
    two = ledger.reserve(study_of(0.9, "second"), "main", FIRST_YEAR)
    assert ledger.balance().generations("main") == (one, two)
    assert who(ledger, two, FIRST_YEAR) == set()


def test_a_rehearsal_or_a_refusal_opens_none(ledger: Ledger) -> None:
    found = ledger.check_reservation(study_of(0.5, "first"), "main", FIRST_YEAR)
    assert all(found.include(one, side_of(one)) for one in FIRST_YEAR)
    with pytest.raises(BudgetError, match=r"100\.0% remains"):
        ledger.reserve(study_of(1.2, "greedy"), "main", FIRST_YEAR)
    assert ledger.balance().generations("main") == ()
    assert ledger.known_patients("main") == set()


def test_who_leaves_and_comes_back_has_the_same_life(ledger: Ledger) -> None:
    one = ledger.reserve(study_of(0.9, "first"), "main", FIRST_YEAR)
    ledger.reserve(study_of(0.9, "second"), "main", SECOND_YEAR)
    three = ledger.reserve(study_of(0.1, "third"), "main", FIRST_YEAR | SECOND_YEAR)
    assert who(ledger, three, FIRST_YEAR | SECOND_YEAR) == set()
    assert ledger.participants(three).generations["p1"] == one


def test_an_approval_that_was_cut_off_takes_nobody_who_came_since(ledger: Ledger) -> None:
    study = study_of(0.5, "first")
    one = ledger.reserve(study, "main", FIRST_YEAR)
    assert ledger.reserve(study, "main", FIRST_YEAR | SECOND_YEAR) == one
    assert who(ledger, one, FIRST_YEAR | SECOND_YEAR) == FIRST_YEAR
    two = ledger.reserve(study_of(0.5, "second"), "main", FIRST_YEAR | SECOND_YEAR)
    assert {ledger.participants(two).generations[new] for new in SECOND_YEAR} == {two}


# -- older studies and older ledgers ---------------------------------------------------------------


def test_an_older_study_needs_room_in_every_generation(ledger: Ledger) -> None:
    ledger.reserve(study_of(0.9, "first"), "main", FIRST_YEAR)
    with pytest.raises(BudgetError, match=r"0\.0% remains"):
        ledger.reserve(older_study(0.1, "older"), "main", FIRST_YEAR | SECOND_YEAR)


def test_whom_an_older_study_froze_first_is_of_generation_0(ledger: Ledger) -> None:
    older = ledger.reserve(older_study(0.5, "older"), "main", FIRST_YEAR)
    assert ledger.balance().generations("main") == (UNRECORDED,)
    two = ledger.reserve(study_of(0.9, "second"), "main", FIRST_YEAR | SECOND_YEAR)
    assert who(ledger, two, FIRST_YEAR | SECOND_YEAR) == SECOND_YEAR
    three = ledger.reserve(study_of(0.2, "third"), "main", FIRST_YEAR | SECOND_YEAR)
    assert who(ledger, three, FIRST_YEAR | SECOND_YEAR) == FIRST_YEAR
    assert who(ledger, older, FIRST_YEAR | SECOND_YEAR) == FIRST_YEAR


# -- restored ledgers ------------------------------------------------------------------------------


def restored(ledger: Ledger, *studies: Study) -> None:
    """Rows that approved these studies are lost."""
    head = signed(KEY, ledger.head().sequence + 1 + 3 * len(studies))
    ledger.restore([Approved(study, "main", worst_case=False) for study in studies], head)


def test_unknown_ids_pay_for_what_lost_rows_can_have_spent(ledger: Ledger) -> None:
    ledger.reserve(study_of(0.3, "first"), "main", FIRST_YEAR)
    restored(ledger, study_of(0.8, "lost"))
    next_ = ledger.reserve(study_of(0.5, "next"), "main", SECOND_YEAR)
    assert who(ledger, next_, SECOND_YEAR) == set()
    next_ = ledger.reserve(study_of(0.1, "small"), "main", SECOND_YEAR)
    assert who(ledger, next_, SECOND_YEAR) == SECOND_YEAR
    assert {ledger.participants(next_).generations[one] for one in SECOND_YEAR} == {UNRECORDED}


def test_who_came_after_the_recovery_is_born_anew_once_the_steward_signed(ledger: Ledger) -> None:
    ledger.reserve(study_of(0.3, "first"), "main", FIRST_YEAR)
    restored(ledger, study_of(0.9, "lost"))
    later = LaterPatients(str(ledger.recovery()), frozenset({"p11"}))
    two = ledger.reserve(study_of(0.9, "second"), "main", SECOND_YEAR, later=later)
    assert who(ledger, two, SECOND_YEAR) == {"p11"}


def test_a_list_that_was_signed_before_another_recovery_is_void(ledger: Ledger) -> None:
    restored(ledger)
    later = LaterPatients(str(ledger.recovery()), frozenset(SECOND_YEAR))
    restored(ledger, study_of(0.9, "lost"))
    two = ledger.reserve(study_of(0.9, "second"), "main", SECOND_YEAR, later=later)
    assert who(ledger, two, SECOND_YEAR) == set()


def test_a_lost_approval_is_charged_to_every_generation_and_over(ledger: Ledger) -> None:
    ledger.reserve(study_of(0.3, "first"), "main", FIRST_YEAR)
    lost = study_of(0.3, "lost")
    restored(ledger, lost)
    number = max(ledger.balance().reservations)
    for sub_ledger in SUB_LEDGERS:
        for generation in ledger.balance().generations("main"):
            paid = ledger.balance().charged("main", sub_ledger, generation)
            assert paid >= Plan.of(lost).cost(sub_ledger, ledger.balance().lives["main"].order)
    with pytest.raises(BudgetError, match="no open reservation"):
        ledger.charge(number, "training", "a request", facts(lost))


def test_an_open_approval_pays_for_lost_rows_that_may_be_of_a_hidden_one(ledger: Ledger) -> None:
    """The coordinator shows no approval of the lost rows, which an open approval can explain."""
    open_ = study_of(0.9, "open")
    ledger.reserve(open_, "main", FIRST_YEAR)
    head = signed(KEY, ledger.head().sequence + 7)  # of a hidden study, which froze SECOND_YEAR
    ledger.restore([Approved(open_, "main", worst_case=False)], head)
    assert ledger.balance().remaining("main", "training", UNRECORDED) < 1e-3
    two = ledger.reserve(study_of(0.3, "next"), "main", FIRST_YEAR | SECOND_YEAR)
    assert who(ledger, two, FIRST_YEAR | SECOND_YEAR) == set()


# -- a neighbouring data set -----------------------------------------------------------------------


def play(folder: Path, arrivals: dict[str, int], seed: int) -> tuple[dict[str, Any], list[Any]]:
    """Five approvals at random ε; a patient is in the data from their arrival on.

    Returns patient -> (generation, studies), and the rows without times, salts and signatures.
    """
    folder.mkdir()
    chosen, took_part = random.Random(seed), dict[str, list[int]]()
    with new_ledger(folder / "ledger.sqlite", KEY) as ledger:
        for turn in range(5):
            here = {one for one, since in arrivals.items() if since <= turn}
            study = study_of(chosen.choice((0.3, 0.5, 0.9)), f"study-{turn}")
            number = ledger.reserve(study, "main", here)
            for one in who(ledger, number, here):
                took_part.setdefault(one, []).append(number)
            if chosen.random() < 0.4:
                ledger.settle(number, "ended")
        born = ledger.participants(number).generations
        rows = [
            {name: value for name, value in row.public.items() if name not in ("time", "born")}
            for row in ledger.rows()
        ]
    return {one: (born.get(one), took_part.get(one)) for one in arrivals}, rows


@pytest.mark.parametrize("seed", range(60))
def test_a_neighbour_changes_nobody_else_and_no_row(tmp_path: Path, seed: int) -> None:
    neighbours(tmp_path, seed)


def neighbours(tmp_path: Path, seed: int) -> None:
    """One patient is added, removed, or arrives at another time."""
    chosen = random.Random(seed)
    arrivals = {f"p{n}": chosen.randrange(6) for n in range(12)}
    others = dict(arrivals)
    moved = chosen.choice([*arrivals, "p99"])
    if moved in arrivals and chosen.random() < 0.5:
        del others[moved]
    else:
        others[moved] = chosen.randrange(6)
    here, rows = play(tmp_path / "one", arrivals, seed)
    there, other_rows = play(tmp_path / "two", others, seed)
    here.pop(moved, None)
    there.pop(moved, None)
    assert here == there
    assert rows == other_rows


def test_nobody_can_test_whether_a_row_gave_anybody_a_generation(tmp_path: Path) -> None:
    """The digest of nobody is salted, too, and the salt is not in the row's private part."""
    with new_ledger(tmp_path / "ledger.sqlite", KEY) as ledger:
        for name in ("first", "second"):
            ledger.reserve(study_of(0.1, name), "main", ())
        one, two = [row for row in ledger.rows() if row.public["kind"] == "reserve"]
    assert one.public["born"] != two.public["born"]
    assert set(one.private or {}) == {"study", "name", "version"}
