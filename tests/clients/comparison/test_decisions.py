"""Which versions may be compared at a hospital, with a coordinator that may withdraw one."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from flo.clients.comparison import decisions
from flo.clients.home.site_home import SiteHome
from flo.clients.prediction import flag_decisions, version_decisions
from flo.clients.records import compared_answers
from flo.clients.records.compared_answers import ComparedAnswer, ComparedAnswers
from flo.errors import RefusedError, TrustError, UsageError
from tests.builders import make_site, pretend_enrolled
from tests.clients.prediction.told import (
    ONE,
    TWO,
    V1,
    V9,
    WHY,
    Told,
    api,
    approved,
    ask,
    both_in_use,
    told_of_both,
    version_of,
    withdrawn,
)
from tests.flo.published_models import COORDINATOR, made


@pytest.fixture
def told() -> Told:
    return told_of_both()


@pytest.fixture
def site(tmp_path: Path, told: Told) -> SiteHome:
    """Version 9 is in use."""
    home = make_site(tmp_path / "north")
    pretend_enrolled(home, COORDINATOR)
    both_in_use(home, told)
    return home


def compare(home: SiteHome, told: Told, share: int, **more: Any) -> Any:
    return decisions.compare(home, api(told), "tiny:1", share, WHY, **more)


def facts(home: SiteHome) -> list[dict[str, Any]]:
    with closing(home.open_audit_log()) as log:
        return [one.facts for one in log.entries() if one.kind == "versions-compared"]


def test_a_version_is_compared_in_shadow_and_then_as_a_canary(site: SiteHome, told: Told) -> None:
    began = compare(site, told, 0)
    assert (began.baseline, began.versions[0].model) == (V9, V1)
    assert began.follow_up_days == 30
    raised = compare(site, told, 10)
    assert raised.id == began.id, "the same comparison: no patient changes sides"
    found = decisions.in_force(site, "tiny")
    assert found == raised
    assert [one.share for one in raised.versions] == [10]
    assert [one["shares"] for one in facts(site)] == [{"1": 0}, {"1": 10}]
    assert decisions.running(site, "tiny") == raised


def test_a_comparison_is_over_once_another_version_is_in_use(site: SiteHome, told: Told) -> None:
    compare(site, told, 10)
    withdrawn(told, V9)
    ask(site, told)
    assert decisions.running(site, "tiny") is None
    with pytest.raises(UsageError, match="version 1 of tiny is in use"):
        compare(site, told, 10)


@pytest.mark.parametrize(
    ("change", "error", "why"),
    [
        (lambda home, told: withdrawn(told, V1), RefusedError, "it is withdrawn"),
        (lambda home, told: None, UsageError, "would get 91 % of the patients, limit 90 %"),
    ],
)
def test_what_may_not_be_compared_is_refused_and_changes_nothing(
    site: SiteHome, told: Told, change: Any, error: type[Exception], why: str
) -> None:
    change(site, told)
    share = 91 if "91" in why else 10
    with pytest.raises(error, match=why):
        compare(site, told, share)
    assert decisions.in_force(site, "tiny") is None
    assert not facts(site)


def test_a_reason_that_is_too_long_deletes_nothing(site: SiteHome, told: Told) -> None:
    first = compare(site, told, 10)
    ComparedAnswers(site, first.id).close()
    decisions.end(site, "tiny:1", WHY)
    with pytest.raises(UsageError, match="why"):
        decisions.compare(site, api(told), "tiny:1", 10, "x" * 501)
    assert compared_answers.comparisons(site) == [first.id]


def test_the_version_in_use_is_not_compared_with_itself(site: SiteHome, told: Told) -> None:
    with pytest.raises(UsageError, match="version 9 of tiny is in use"):
        decisions.compare(site, api(told), "tiny:9", 10, WHY)


def test_the_follow_up_of_a_comparison_does_not_change(site: SiteHome, told: Told) -> None:
    compare(site, told, 0, follow_up_days=7)
    with pytest.raises(UsageError, match="counts outcomes after 7 days"):
        compare(site, told, 5, follow_up_days=8)
    assert compare(site, told, 5, follow_up_days=7).follow_up_days == 7


def test_an_end_keeps_the_rows_and_erasing_deletes_them(site: SiteHome, told: Told) -> None:
    began = compare(site, told, 10)
    with closing(ComparedAnswers(site, began.id)) as rows:
        rows.add([ComparedAnswer("a" * 36, "f" * 64, "ehr", 1.0, 1, {1: 0.5, 9: 0.25})])
    assert decisions.end(site, "tiny:1", WHY) is None
    assert decisions.in_force(site, "tiny") is None
    assert decisions.latest(site, "tiny") == began
    assert compared_answers.comparisons(site) == [began.id]
    with pytest.raises(UsageError, match="version 1 of tiny is not compared here"):
        decisions.end(site, "tiny:1", WHY)
    decisions.erase(site, "tiny")
    assert decisions.latest(site, "tiny") is None
    assert not list((site.directory / "answers").glob("compared-*"))
    with pytest.raises(UsageError, match="no versions of tiny were compared"):
        decisions.erase(site, "tiny")


def test_a_comparison_does_not_go_on_when_its_baseline_comes_back(
    site: SiteHome, told: Told
) -> None:
    """Nobody gets a version's answers who was not told so, and old rows are deleted."""
    first = compare(site, told, 10)
    ComparedAnswers(site, first.id).close()
    version_decisions.rollback(site, "tiny:9", WHY)
    version_decisions.promote(site, api(told), "tiny:9", WHY)
    assert decisions.running(site, "tiny") is None
    second = compare(site, told, 5)
    assert second.id != first.id
    assert not compared_answers.comparisons(site)
    assert decisions.running(site, "tiny") == second


def test_a_comparison_that_was_changed_by_hand_is_refused(site: SiteHome, told: Told) -> None:
    began = compare(site, told, 10)
    path = site.directory / "models" / f"{began.digest}.comparison.json"
    path.write_text(path.read_text().replace('"share":10', '"share":90'))
    with pytest.raises(TrustError, match="is not the comparison that was decided"):
        decisions.in_force(site, "tiny")
    path.unlink()
    with pytest.raises(TrustError, match="is missing"):
        decisions.in_force(site, "tiny")


def test_an_older_comparison_that_is_put_back_has_no_effect(site: SiteHome, told: Told) -> None:
    compare(site, told, 10)
    lowered = compare(site, told, 0)
    assert decisions.in_force(site, "tiny") == lowered


@pytest.mark.parametrize("place", [0, 1])
def test_versions_without_risks_are_not_compared(tmp_path: Path, place: int) -> None:
    several = [ONE, TWO]
    kind = ("logistic", "gated")[place]
    several[place] = made(kind, calibration=None, run=several[place].card.run)
    told, home = Told(*several), make_site(tmp_path / "north")
    told.show(approved(*map(version_of, several)))
    pretend_enrolled(home, COORDINATOR)
    both_in_use(home, told)
    with pytest.raises(RefusedError, match="has no calibration, so it states no risk"):
        compare(home, told, 0)


def test_a_canary_flags_whom_the_version_in_use_would_flag(site: SiteHome, told: Told) -> None:
    """Or somebody has to decide from which risk on it flags."""
    for model in (TWO, ONE):
        if model is ONE:
            with pytest.raises(RefusedError, match="nobody decided from which risk on"):
                compare(site, told, 10)
            assert compare(site, told, 0).versions[0].share == 0
        rule = flag_decisions.rule_for(model.open(), 0.3, "Ada", WHY)
        flag_decisions.decide(site, rule, None)
    assert compare(site, told, 10).versions[0].share == 10
