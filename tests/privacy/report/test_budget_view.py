"""A life budget as its steward sees it: the picture says what the ledger says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flo.cli import app
from flo.clients.home.site_home import SiteHome
from flo.errors import BudgetError
from flo.keys.identity import Identity
from flo.privacy.accounting.life_budget import SUB_LEDGERS, LifetimeBudget
from flo.privacy.accounting.plan import Plan
from flo.privacy.ledger.ledger import Ledger
from flo.privacy.report.budget_view import affordable, by_study, over_time
from flo.study.document import Study
from tests.builders import make_site
from tests.privacy.ledgers import facts, new_ledger, register, study_of, survey_of


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with new_ledger(tmp_path / "ledger.sqlite", Identity.new()) as opened:
        yield opened


def use(ledger: Ledger, study: Study, releases: int, *, settled: bool = False) -> None:
    """Approve a study and make that many releases of its first purpose."""
    reservation = ledger.reserve(study, "main")
    for n in range(releases):
        request = f"{study.name} {n}"
        ledger.charge(reservation, study.purposes[0], request, facts(study, n + 1))
    if settled:
        ledger.settle(reservation, "ended")


def three_studies(ledger: Ledger) -> None:
    use(ledger, study_of(0.3, "ended"), 2, settled=True)
    use(ledger, survey_of(0.3, "asked"), 1)
    use(ledger, study_of(0.3, "open"), 1)


# -- by study -------------------------------------------------------------------------------------


def test_the_studies_add_up_to_the_balance(ledger: Ledger) -> None:
    three_studies(ledger)
    balance = ledger.balance()
    life = balance.lives["main"]
    uses = by_study(ledger.rows(), balance, "main")
    assert [use.study for use in uses] == ["ended v1", "asked v1", "open v1"]
    assert [use.settled for use in uses] == [True, False, False]
    for sub_ledger in SUB_LEDGERS:
        spent = sum(use.spent[sub_ledger] for use in uses)
        held = sum(use.reserved[sub_ledger] for use in uses)
        assert spent == pytest.approx(life.share(balance.charged("main", sub_ledger)), rel=1e-9)
        committed = life.share(balance.committed("main", sub_ledger))
        assert spent + held == pytest.approx(committed, rel=1e-9)
        assert committed + life.share(balance.remaining("main", sub_ledger)) == pytest.approx(1)


def test_a_study_shows_what_it_made_of_what_was_reserved(ledger: Ledger) -> None:
    three_studies(ledger)
    ended, asked, still_open = by_study(ledger.rows(), ledger.balance(), "main")
    assert ended.releases == {"training": (2, 4), "evaluation": (0, 1)}
    assert ended.reserved == dict.fromkeys(SUB_LEDGERS, 0.0)
    assert asked.releases == {"survey": (1, 1)}
    assert asked.spent["training"] == asked.spent["evaluation"] > 0
    assert asked.reserved == dict.fromkeys(SUB_LEDGERS, 0.0)
    assert still_open.releases == {"training": (1, 4), "evaluation": (0, 1)}
    assert still_open.reserved["training"] == pytest.approx(3 * still_open.spent["training"])
    assert still_open.spent["evaluation"] == 0 < still_open.reserved["evaluation"]


def test_another_populations_studies_are_not_shown(ledger: Ledger) -> None:
    register(ledger, "other")
    ledger.reserve(study_of(0.3, "theirs"), "other")
    assert by_study(ledger.rows(), ledger.balance(), "main") == []
    (use,) = by_study(ledger.rows(), ledger.balance(), "other")
    assert use.study == "theirs v1"


# -- over time ------------------------------------------------------------------------------------


@pytest.mark.parametrize("points", [1, 3, 5, 60])
def test_the_last_moment_is_now_and_nothing_spent_ever_comes_back(
    ledger: Ledger, points: int
) -> None:
    three_studies(ledger)
    moments = over_time(list(ledger.rows()), "main", points)
    assert 1 <= len(moments) <= points
    balance = ledger.balance()
    life = balance.lives["main"]
    for sub_ledger in SUB_LEDGERS:
        spent = [moment.spent[sub_ledger] for moment in moments]
        assert spent == sorted(spent)
        assert spent[-1] == pytest.approx(life.share(balance.charged("main", sub_ledger)))
        assert moments[-1].committed[sub_ledger] == pytest.approx(
            life.share(balance.committed("main", sub_ledger))
        )
        assert all(moment.spent[sub_ledger] <= moment.committed[sub_ledger] for moment in moments)


def test_every_row_is_a_moment_where_there_are_few(ledger: Ledger) -> None:
    use(ledger, study_of(0.3), 1, settled=True)
    training = [m.committed["training"] for m in over_time(list(ledger.rows()), "main", 60)]
    assert training[0] == 0  # birth
    assert training[1] == training[2] > training[3] > 0  # reserve, release, settle


# -- what still fits ------------------------------------------------------------------------------


@pytest.mark.parametrize("life", [LifetimeBudget.create(e, 1e-6) for e in (0.3, 0.9, 3.0)])
@pytest.mark.parametrize("epsilon", [0.05, 0.1, 0.2, 0.3])
def test_the_cost_of_an_epsilon_inverts_the_largest_epsilon_of_a_cost(
    life: LifetimeBudget, epsilon: float
) -> None:
    cost = life.cost_of(epsilon)
    assert life.largest_epsilon(cost * (1 + 1e-9)) == pytest.approx(epsilon, abs=1.01e-4)
    assert life.largest_epsilon(cost * 0.98) < epsilon
    assert life.cost_of(epsilon, 1e-8) < cost < life.cost_of(epsilon * 1.1)


def test_the_cost_of_an_epsilon_is_what_such_a_study_takes(ledger: Ledger) -> None:
    life = ledger.balance().lives["main"]
    for epsilon in (0.1, 0.3, 0.5, 0.9):
        taken = Plan.of(study_of(epsilon)).cost("training", life.order)
        assert taken == pytest.approx(life.cost_of(epsilon), rel=1e-3)
        assert taken <= life.cost_of(epsilon)  # σ is rounded up


@pytest.mark.parametrize("taken", [0.1, 0.5, 0.7])
def test_as_many_studies_fit_as_the_picture_says_and_not_one_more(
    ledger: Ledger, taken: float
) -> None:
    ledger.reserve(study_of(taken, "first"), "main")
    life, remaining = ledger.balance().lives["main"], ledger.balance().remaining("main", "training")
    fits = affordable(life, remaining)
    assert set(fits.studies) == {0.1, 0.3, 0.5}
    for n in range(fits.studies[0.3]):
        ledger.reserve(study_of(0.3, f"next-{n}"), "main")
    with pytest.raises(BudgetError):
        ledger.reserve(study_of(0.3, "one-more"), "main")


def test_one_study_of_the_largest_epsilon_fits_and_a_larger_one_does_not(ledger: Ledger) -> None:
    ledger.reserve(study_of(0.5, "first"), "main")
    life, remaining = ledger.balance().lives["main"], ledger.balance().remaining("main", "training")
    largest = affordable(life, remaining).largest_epsilon
    with pytest.raises(BudgetError):
        ledger.reserve(study_of(largest + 0.001, "larger"), "main")
    ledger.reserve(study_of(largest, "largest"), "main")


@pytest.mark.parametrize("share", [0.0, 1e-6, -1e-12, 9e-4])
def test_nothing_is_affordable_when_the_budget_is_spent(share: float) -> None:
    life = LifetimeBudget.create(0.9, 1e-6)
    fits = affordable(life, share * life.renyi)
    assert fits.largest_epsilon == 0
    assert set(fits.studies.values()) == {0}


# -- on the screen --------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path) -> SiteHome:
    return make_site(tmp_path)


def shown(home: SiteHome, *more: str) -> str:
    done = CliRunner().invoke(
        app,
        ["site", "budget", "--home", str(home.directory), *more],
        env={"COLUMNS": "120"},
        catch_exceptions=False,
    )
    assert done.exit_code == 0
    return done.output


def spend(home: SiteHome, *studies: Study) -> None:
    ledger = home.open_ledger()
    for study in studies:
        use(ledger, study, 1)
    ledger.close()


def test_the_budget_is_drawn(home: SiteHome) -> None:
    spend(home, study_of(0.5, "heart"), survey_of(0.3, "asked"))
    text = shown(home)
    assert "population main: life ε = 0.9 at δ = 1e-06" in text
    for sub_ledger in SUB_LEDGERS:
        (bar,) = [line for line in text.splitlines() if line.startswith(f"  {sub_ledger}")]
        assert sum(bar.count(mark) for mark in "█▒░") == 40
        assert all(word in bar for word in ("spent", "reserved", "free"))
        assert f"still affordable in {sub_ledger}: one study of ε up to 0." in text
    assert "over time" in text
    assert "heart v1" in text
    assert "1 of 4 training" in text
    assert "0 of 1 evaluation" in text
    assert "1 of 1 survey" in text
    assert "of ε = 0.1" in text


def test_a_new_budget_is_all_free(home: SiteHome) -> None:
    text = shown(home)
    assert text.count("░" * 40) == 2
    assert text.count("spent 0.0%, reserved 0.0%, free 100.0%") == 2
    assert "one study of ε up to 0.900" in text


def test_a_spent_budget_says_that_nothing_fits(home: SiteHome) -> None:
    spend(home, study_of(0.9, "greedy"))
    text = shown(home)
    for sub_ledger in SUB_LEDGERS:
        assert (
            f"still affordable in {sub_ledger}: no study, this budget is spent permanently" in text
        )
    assert "one study" not in text


def test_the_same_numbers_are_written_as_json(home: SiteHome, tmp_path: Path) -> None:
    spend(home, study_of(0.5, "heart"), survey_of(0.3, "asked"))
    shown(home, "--json", str(tmp_path / "budget.json"))
    document: dict[str, Any] = json.loads((tmp_path / "budget.json").read_text())
    assert set(document) == {"schema_version", "populations"}
    assert document["schema_version"] == 2
    (main,) = document["populations"]
    older = {"population", "epsilon", "delta", "sub_ledgers", "studies"}
    assert set(main) == older | {"generations", "rooms"}
    assert [one["number"] for one in main["generations"]] == [0]
    assert [room["epsilon"] for room in main["rooms"]] == [0.1, 0.3, 0.5, 0.9]
    ledger = home.open_ledger()
    balance = ledger.balance()
    ledger.close()
    life = balance.lives["main"]
    for sub_ledger in SUB_LEDGERS:
        numbers = main["sub_ledgers"][sub_ledger]
        assert set(numbers) == {
            "spent",
            "reserved",
            "free",
            "largest_epsilon",
            "studies_that_fit",
        }
        assert numbers["spent"] == pytest.approx(life.share(balance.charged("main", sub_ledger)))
        assert numbers["spent"] + numbers["reserved"] + numbers["free"] == pytest.approx(1)
        assert set(numbers["studies_that_fit"]) == {"0.1", "0.3", "0.5"}
    assert [set(study) for study in main["studies"]] == [
        {"study", "approved", "settled", "spent", "reserved"}
    ] * 2
