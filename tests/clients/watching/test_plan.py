"""A plan for alarms: the strictest of what alarms ask for, signed."""

from __future__ import annotations

from pathlib import Path

import pytest

from flo.clients.watching import plan_decisions
from flo.clients.watching.alarm import Key
from flo.clients.watching.kept import Watched
from flo.clients.watching.plan import WatchPlan
from flo.errors import FloError, RefusedError, TrustError
from tests.builders import make_site
from tests.flo.published_models import made

COLUMN, RISK, SLOW, DEATHS = Key("column", "crea"), Key("risk"), Key("slow"), Key("outcomes", "x")


def plan_of(**responses: str) -> WatchPlan:
    several = [{"about": about, "action": action} for about, action in responses.items()]
    said = {"by": "Ada", "why": "the board", "time": "2026-11-30"}
    return WatchPlan.model_validate({"name": "tiny", "responses": several} | said)


def test_the_strictest_action_of_all_alarms_is_done() -> None:
    plan = plan_of(outcomes="fall back", columns="stop", risks="finish")
    assert plan.action([RISK]) == "finish"
    assert plan.action([RISK, DEATHS]) == "fall back"
    assert plan.action([DEATHS, COLUMN, RISK]) == "stop"
    assert plan.action([SLOW]) == plan.action([Key("late")]) == "tell", "nothing was decided"


def test_two_responses_to_one_kind_are_refused() -> None:
    several = [{"about": "risks", "action": "tell"}, {"about": "risks", "action": "stop"}]
    facts = {"name": "tiny", "responses": several, "by": "A", "why": "w", "time": ""}
    with pytest.raises(ValueError, match="two responses"):
        WatchPlan.model_validate(facts)


def test_a_plan_of_another_hospital_does_not_count(tmp_path: Path) -> None:
    one, other = make_site(tmp_path / "one"), make_site(tmp_path / "other")
    plan_decisions.decide(other, "tiny", 30, {"columns": "stop"}, "Ada", "the board")
    plan_decisions.decide(one, "tiny", 30, {"columns": "tell"}, "Ada", "the board")
    (theirs,) = (other.directory / "models").glob("*.watch.json")
    (ours,) = (one.directory / "models").glob("*.watch.json")
    ours.write_bytes(theirs.read_bytes())
    with pytest.raises(TrustError, match="is not the plan that was decided"):
        plan_decisions.read(one, "tiny")


def test_no_plan_is_no_action_and_another_model_has_none(tmp_path: Path) -> None:
    home = make_site(tmp_path / "north")
    plan_decisions.decide(home, "tiny", 30, {"columns": "stop"}, "Ada", "the board")
    assert plan_decisions.read(home, "other") is None


@pytest.mark.parametrize("words", ["", "two\nlines", "x" * 501])
def test_a_reason_that_is_none_is_refused_and_nothing_is_entered(
    tmp_path: Path, words: str
) -> None:
    home = make_site(tmp_path / "north")
    with pytest.raises(FloError):
        plan_decisions.decide(home, "tiny", 30, {"columns": "stop"}, "Ada", words)
    assert plan_decisions.read(home, "tiny") is None


def test_a_finished_model_has_no_plan() -> None:
    finished = Watched.of(made("logistic").open(), "2026-11-30")
    with pytest.raises(RefusedError, match="alarms of finished models only tell"):
        plan_decisions.refuse_finished(finished)
