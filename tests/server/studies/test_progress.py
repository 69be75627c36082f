"""What is told of a study, from its events: the same on the console and on a terminal."""

from __future__ import annotations

from typing import Any

import pytest

from flo.server.studies.progress import StudyProgress
from tests.builders import HOSPITALS, small_study, study_document

EVERYONE = list(HOSPITALS)


def told(*events: tuple[str, dict[str, Any]], **mechanism: Any) -> StudyProgress:
    document = study_document()
    document["mechanism"] |= mechanism
    following = StudyProgress(small_study(**document))
    for number, (kind, facts) in enumerate(events, start=1):
        following.apply({"number": number, "time": f"t{number}", "kind": kind, "facts": facts})
    return following


def done(number: int, phase: str = "training", cohort: list[str] = EVERYONE) -> Any:
    return "round", {"phase": phase, "round": number, "cohort": cohort, "seconds": 0.5}


def failed(number: int, missing: list[str]) -> Any:
    facts = {
        "phase": "training",
        "round": number,
        "attempt": 1,
        "why": "not all hospitals of the cohort replied",
    }
    return "attempt-failed", facts | {"cohort": EVERYONE, "missing": missing}


def test_approvals_are_counted_by_hospital_and_taken_back() -> None:
    yes = [("approved", {"hospital": name}) for name in ("north", "north", "south")]
    assert told(*yes).approved == {"north", "south"}
    no = ("declined", {"hospital": "south", "decision": "withdraw"})
    story = told(*yes, no)
    assert story.approved == {"north"}
    assert story.hospitals["south"].status == "withdrawn by its steward"


def test_rounds_spend_by_the_schedule_and_the_last_spends_the_studys_epsilon_or_less() -> None:
    story = told(*(done(number) for number in (1, 2, 3)))
    assert (story.done, story.planned) == (3, 3)
    assert story.spent("north") == pytest.approx(story.spent_after(3))
    assert 0 < story.spent_after(1) < story.spent_after(3) <= story.budget


def test_who_was_left_out_of_a_round_spends_nothing_on_it() -> None:
    story = told(done(1, cohort=["north", "south"]))
    assert story.spent("west") == 0 < story.spent("north")


def test_an_attempt_that_failed_is_counted_for_all_who_may_have_answered_it() -> None:
    """With distributed noise: one that answered too late has paid all the same."""
    distributed = {"noise": "distributed", "masking": "on"}
    story = told(failed(1, ["west"]), done(1), **distributed)
    assert {seat.releases for seat in story.hospitals.values()} == {2}
    assert (story.retries, story.rounds[0].retries) == (1, 1)


def test_with_local_noise_a_retry_costs_nothing() -> None:
    story = told(failed(1, ["west"]), done(1))
    assert {seat.releases for seat in story.hospitals.values()} == {1}


def test_it_says_what_is_under_way() -> None:
    assert told().doing == "approvals"
    assert told(("started", {"run": "r"})).doing == "waiting for hospitals"
    assert told(done(1)).doing == "training, round 2 of 3"
    assert told(done(1), done(2), done(3)).doing == "evaluation"
    assert told(done(1), done(2), done(3), done(1, "evaluation")).doing == "being published"
    assert told(("paused", {"why": "too few"})).doing == "paused: too few"


def test_a_name_that_is_not_in_the_study_changes_nothing() -> None:
    story = told(done(1, cohort=["nobody"]), ("refused", {"hospital": "nobody", "code": "x"}))
    assert {seat.releases for seat in story.hospitals.values()} == {0}
    assert set(story.hospitals) == set(HOSPITALS)
