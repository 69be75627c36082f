"""What a site approved in the last 365 days, and the limit that its policy sets to that."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flo.clients.approvals.yearly_budget import a_year_before
from flo.errors import BudgetError
from flo.keys.identity import Identity
from flo.privacy.accounting.life_budget import CHARGES, SUB_LEDGERS
from flo.privacy.accounting.plan import Plan
from flo.privacy.ledger.balance import Balance
from flo.privacy.ledger.ledger import Ledger
from flo.privacy.ledger.rows import LedgerRow
from flo.study.document import Study
from tests.clients.approving_site import Site, enrolled_site
from tests.privacy.ledgers import facts, new_ledger, register, study_of, survey_of

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
LONG_AGO = NOW - timedelta(days=10_000)
ORDER = 20
STUDIES = (study_of(0.3, "first"), survey_of(0.2), study_of(0.25, "third", tested=0.1))


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    """A study with two releases that is settled, a survey, and a study with one release."""
    path = tmp_path_factory.mktemp("year") / "ledger.sqlite"
    with new_ledger(path, Identity.new()) as opened:
        for study, releases in zip(STUDIES, (2, 0, 1), strict=True):
            reservation = opened.reserve(study, "main")
            for n in range(releases):
                request = f"{study.name} {n}"
                opened.charge(reservation, "training", request, facts(study, n + 1))
            if study is STUDIES[0]:
                opened.settle(reservation, "ended")
        yield opened


def dated(ledger: Ledger, days_ago: list[float]) -> list[LedgerRow]:
    """The ledger's rows as if its studies had been approved so many days before NOW."""
    ages = iter(days_ago)
    return [
        replace(row, public={**row.public, "time": (NOW - timedelta(days=next(ages))).isoformat()})
        if row.public["kind"] == "reserve"
        else row
        for row in ledger.rows()
    ]


def by_hand(study: Study, sub_ledger: str, order: int = ORDER) -> float:
    """Reserved for a study that is open, released for the first one, which is settled."""
    plan = Plan.of(study)
    if study is STUDIES[0]:
        return (
            2 * plan.purpose("training").mechanism.rdp(order) if sub_ledger == "training" else 0.0
        )
    return sum(plan.purpose(p).cost(order) for p in plan.purposes if sub_ledger in CHARGES[p])


def since(ledger: Ledger, rows: list[LedgerRow], moment: datetime, sub_ledger: str) -> float:
    return summed(rows).committed_since("main", sub_ledger, 0, moment, ORDER)


def summed(rows: Iterable[LedgerRow]) -> Balance:
    balance = Balance()
    for row in rows:
        balance.add(row)
    return balance


@given(st.lists(st.integers(0, 730), min_size=3, max_size=3), st.sampled_from(SUB_LEDGERS))
def test_whatever_was_approved_within_the_year_counts_and_nothing_else(
    ledger: Ledger, days_ago: list[float], sub_ledger: str
) -> None:
    found = since(ledger, dated(ledger, days_ago), a_year_before(NOW), sub_ledger)
    within = [study for study, days in zip(STUDIES, days_ago, strict=True) if days <= 365]
    assert found == pytest.approx(sum(by_hand(study, sub_ledger) for study in within), rel=1e-12)


@pytest.mark.parametrize(("seconds", "counts"), [(-1, True), (0, True), (1, False)])
def test_the_year_ends_to_the_second(ledger: Ledger, seconds: int, counts: bool) -> None:
    rows = dated(ledger, [1000, 1000, 365 + seconds / 86_400])
    found = since(ledger, rows, a_year_before(NOW), "training")
    assert found == (pytest.approx(by_hand(STUDIES[2], "training")) if counts else 0)


def test_all_that_was_ever_approved_is_what_the_balance_says(ledger: Ledger) -> None:
    balance = ledger.balance()
    order = balance.lives["main"].order
    for sub_ledger in SUB_LEDGERS:
        found = balance.committed_since("main", sub_ledger, 0, LONG_AGO, order)
        assert found == pytest.approx(balance.committed("main", sub_ledger), rel=1e-12)


def test_a_later_settlement_does_not_make_an_approval_younger(ledger: Ledger) -> None:
    rows = dated(ledger, [366, 1000, 1000])
    settled = [row for row in rows if row.public["kind"] == "settle"]
    assert [datetime.fromisoformat(row.public["time"]) > a_year_before(NOW) for row in settled] == [
        True
    ]
    assert since(ledger, rows, a_year_before(NOW), "training") == 0


def test_another_populations_approvals_do_not_count(tmp_path: Path) -> None:
    with new_ledger(tmp_path / "ledger.sqlite", Identity.new()) as ledger:
        register(ledger, "clinic")
        ledger.reserve(study_of(0.3), "clinic")
        rows = list(ledger.rows())
        assert since(ledger, rows, LONG_AGO, "training") == 0
        balance = ledger.balance()
        assert balance.committed_since("clinic", "training", 0, LONG_AGO, ORDER) > 0


def test_nothing_was_approved_in_a_new_ledger(tmp_path: Path) -> None:
    with new_ledger(tmp_path / "ledger.sqlite", Identity.new()) as ledger:
        assert since(ledger, list(ledger.rows()), LONG_AGO, "training") == 0


# -- the policy's limit ---------------------------------------------------------------------------


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return enrolled_site(tmp_path)


def test_the_largest_epsilon_that_a_refusal_names_fits(site: Site) -> None:
    site.allow(largest_epsilon_a_year=0.4)
    site.approve(site.offer(study_of(0.3, "first")))
    with pytest.raises(BudgetError) as refused:
        site.approve(site.offer(study_of(0.3, "second")))
    fits = float(str(refused.value).rsplit(" ", 1)[1])
    with pytest.raises(BudgetError):
        site.approve(site.offer(study_of(fits + 0.002, "larger")))
    site.approve(site.offer(study_of(fits, "fitting")))


def test_an_approval_that_was_cut_off_is_not_counted_against_itself(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.allow(largest_epsilon_a_year=0.9)
    offer = site.offer()

    def power_cut(*_: object) -> None:
        raise OSError("power cut")

    with monkeypatch.context() as broken:
        broken.setattr("flo.clients.records.approval.write_private", power_cut)
        with pytest.raises(OSError, match="power cut"):
            site.approve(offer)
    site.approve(offer)
    assert site.kinds() == ["birth", "reserve"]


def test_a_year_that_is_too_small_for_any_study_refuses_by_its_name(site: Site) -> None:
    site.allow(largest_epsilon_a_year=0.01)
    site.refuses(site.offer(), BudgetError, "largest_epsilon_a_year = 0.01", heads=True)
