"""Two sub-ledgers: training and evaluation are charged apart, a survey touches everyone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from flo.errors import BudgetError
from flo.keys.identity import Identity
from flo.privacy.accounting.life_budget import SUB_LEDGERS
from flo.privacy.accounting.plan import Plan
from flo.privacy.ledger.ledger import Ledger
from tests.privacy.ledgers import facts, new_ledger, study_of, survey_of


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with new_ledger(tmp_path / "ledger.sqlite", Identity.new()) as opened:
        yield opened


def test_training_that_is_spent_leaves_evaluation_alone(ledger: Ledger) -> None:
    life = ledger.balance().lives["main"]
    study = study_of(0.9, tested=0.1)
    reservation = ledger.reserve(study, "main")
    tested = Plan.of(study).purpose("evaluation").cost(life.order)
    assert ledger.balance().remaining("main", "training") < 1e-3 * life.renyi
    assert ledger.balance().remaining("main", "evaluation") == pytest.approx(life.renyi - tested)
    for n in range(1, 5):
        ledger.charge(reservation, "training", f"request {n}", facts(study, n))
    assert ledger.balance().charged("main", "evaluation") == 0


def test_a_survey_is_charged_to_both_sub_ledgers(ledger: Ledger) -> None:
    asked = survey_of(0.3)
    reservation = ledger.reserve(asked, "main")
    cost = Plan.of(asked).purpose("survey").cost(ledger.balance().lives["main"].order)
    assert cost > 0
    for sub_ledger in SUB_LEDGERS:
        assert ledger.balance().committed("main", sub_ledger) == pytest.approx(cost, rel=1e-12)
        assert ledger.balance().charged("main", sub_ledger) == 0
    ledger.charge(reservation, "survey", "request 1", facts(asked))
    for sub_ledger in SUB_LEDGERS:
        assert ledger.balance().charged("main", sub_ledger) == pytest.approx(cost, rel=1e-12)
    with pytest.raises(BudgetError, match="no survey release left"):
        ledger.charge(reservation, "survey", "request 2", facts(asked))


@pytest.mark.parametrize(
    ("trained", "tested", "short"), [(0.85, 0.1, "training"), (0.1, 0.85, "evaluation")]
)
def test_a_survey_that_fits_into_one_sub_ledger_only_is_refused(
    ledger: Ledger, trained: float, tested: float, short: str
) -> None:
    ledger.reserve(study_of(trained, tested=tested), "main")
    before = ledger.head()
    with pytest.raises(BudgetError, match=f"study's {short} takes"):
        ledger.reserve(survey_of(0.5), "main")
    assert ledger.head() == before


def test_a_survey_and_its_study_share_one_life(ledger: Ledger) -> None:
    life, asked = ledger.balance().lives["main"], survey_of(0.3)
    ledger.reserve(asked, "main")
    with pytest.raises(BudgetError):
        ledger.reserve(study_of(0.9), "main")
    left = life.largest_epsilon(life.renyi - Plan.of(asked).cost("training", life.order))
    ledger.reserve(study_of(left), "main")
