"""What is told of a study, from its events: the same on the console and on a terminal."""

from __future__ import annotations

from typing import Any

import pytest

from flo.privacy.accounting.plan import Plan
from flo.server.studies.progress import StudyProgress
from tests.builders import HOSPITALS, WHITENED, small_study, study_document

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
    (_, none), (_, one), (_, all_three) = story.spent_by_release([0, 1, 3])
    assert story.spent("north") == pytest.approx(all_three)
    assert none == 0 < one < all_three <= story.budget


def test_who_was_left_out_of_a_round_spends_nothing_on_it() -> None:
    story = told(done(1, cohort=["north", "south"]))
    assert story.spent("west") == 0 < story.spent("north")


def test_an_attempt_that_failed_is_counted_for_all_who_may_have_answered_it() -> None:
    """With distributed noise: one that answered too late has paid all the same."""
    distributed = {"noise": "distributed", "masking": "on"}
    story = told(failed(1, ["west"]), done(1), **distributed)
    assert [seat.releases for seat in story.hospitals.values()] == 3 * [{"training": 2}]
    assert (story.retries, story.rounds[0].retries) == (1, 1)


def test_with_local_noise_a_retry_costs_nothing() -> None:
    story = told(failed(1, ["west"]), done(1))
    assert [seat.releases for seat in story.hospitals.values()] == 3 * [{"training": 1}]


def test_second_moments_and_training_are_paid_by_the_same_patients() -> None:
    rounds = [done(1, "moments"), *(done(number) for number in (1, 2, 3, 4))]
    story = told(*rounds, **WHITENED)
    assert (story.purpose, story.done, story.planned) == ("training", 5, 5)
    assert story.hospitals["north"].releases == {"moments": 1, "training": 4}
    spent = [epsilon for _, epsilon in story.spent_by_release(range(6))]
    assert spent == sorted(set(spent))
    assert spent[-1] == story.spent("north")
    alone = [Plan.of(story.study).purpose(p).epsilon for p in ("moments", "training")]
    assert max(alone) < 0.9
    assert 0.75 < story.spent("north") < story.budget == 0.9, "two retries were not needed"
    assert told(("online", {"hospitals": EVERYONE}), **WHITENED).doing == (
        "second moments, round 1 of 1"
    )
    assert told(*rounds[:1], **WHITENED).doing == "training, round 1 of 4"


def test_it_says_what_is_under_way() -> None:
    assert told().doing == "approvals"
    assert told(("started", {"run": "r"})).doing == "waiting for hospitals"
    assert told(done(1)).doing == "training, round 2 of 3"
    assert told(done(1), done(2), done(3)).doing == "evaluation"
    assert told(done(1), done(2), done(3), done(1, "evaluation")).doing == "being published"
    assert told(("paused", {"why": "too few"})).doing == "paused: too few"


def test_a_name_that_is_not_in_the_study_changes_nothing() -> None:
    story = told(done(1, cohort=["nobody"]), ("refused", {"hospital": "nobody", "code": "x"}))
    assert story.most_releases == 0
    assert set(story.hospitals) == set(HOSPITALS)
