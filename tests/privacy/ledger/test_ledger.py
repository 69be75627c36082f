"""A site's ledger: what is reserved, charged, repeated and settled, and what never fits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flo.errors import BudgetError, DataError, FloError, TrustError, UsageError
from flo.keys.claims import LedgerHead
from flo.keys.identity import Identity
from flo.privacy.accounting.life_budget import SUB_LEDGERS
from flo.privacy.accounting.plan import Plan
from flo.privacy.ledger.ledger import Ledger
from flo.privacy.ledger.reservation import Reserved
from tests.privacy.ledgers import facts, new_ledger, register, study_of, survey_of


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with new_ledger(tmp_path / "ledger.sqlite", Identity.new()) as opened:
        yield opened


def hashes(ledger: Ledger) -> list[str]:
    return [row.hash for row in ledger.rows()]


# -- arithmetic ----------------------------------------------------------------------------------


def test_a_reservation_takes_its_whole_plan_and_a_charge_takes_nothing_more(ledger: Ledger) -> None:
    study = study_of(0.5)
    life = ledger.balance().lives["main"]
    reservation = ledger.reserve(study, "main")
    for purpose in study.purposes:
        cost = Plan.of(study).purpose(purpose).cost(life.order)
        assert ledger.balance().committed("main", purpose) == pytest.approx(cost, rel=1e-12)
    before = ledger.balance().committed("main", "training")
    ledger.charge(reservation, "training", "request 1", facts(study))
    assert ledger.balance().committed("main", "training") == before
    one = Plan.of(study).purpose("training").mechanism.rdp(life.order)
    assert ledger.balance().charged("main", "training") == pytest.approx(one, rel=1e-12)
    assert ledger.balance().charged("main", "evaluation") == 0


@pytest.mark.parametrize("study", [study_of(0.5), survey_of(0.5, retry_allowance=2)])
def test_a_reservation_holds_the_plan_part_by_part(ledger: Ledger, study: Any) -> None:
    held = ledger.balance().reservations[ledger.reserve(study, "main")]
    assert held.parts == {
        name: Reserved(part.mechanism, part.mechanism.as_document(), part.releases)
        for name, part in Plan.of(study).purposes.items()
    }
    assert all(held.remaining(name) == part.releases for name, part in held.parts.items())
    other = "survey" if "training" in held.parts else "training"
    assert held.remaining(other) == 0


def test_a_settled_study_frees_what_it_did_not_use(ledger: Ledger) -> None:
    study = study_of(0.9)
    reservation = ledger.reserve(study, "main")
    ledger.charge(reservation, "training", "request 1", facts(study))
    ledger.settle(reservation, "ended early")
    balance = ledger.balance()
    assert balance.committed("main", "training") == balance.charged("main", "training") > 0
    assert balance.committed("main", "evaluation") == 0
    rows = len(list(ledger.rows()))
    ledger.settle(reservation, "again")
    assert len(list(ledger.rows())) == rows


# -- a budget that is spent ----------------------------------------------------------------------


def test_a_spent_budget_is_refused_with_what_remains_and_what_would_fit(ledger: Ledger) -> None:
    ledger.reserve(study_of(0.5), "main")
    before = hashes(ledger)
    life, remaining = ledger.balance().lives["main"], ledger.balance().remaining("main", "training")
    with pytest.raises(BudgetError) as refusal:
        ledger.reserve(study_of(0.9, "greedy"), "main")
    assert f"{remaining / life.renyi:.1%} remains" in str(refusal.value)
    assert f"{life.largest_epsilon(remaining):.4f}" in str(refusal.value)
    assert hashes(ledger) == before


def named_epsilon(ledger: Ledger) -> float:
    with pytest.raises(BudgetError) as refusal:
        ledger.reserve(study_of(0.9, "greedy"), "main")
    return float(str(refusal.value).rsplit(" ", 1)[1])


def test_a_study_of_the_largest_epsilon_fits(ledger: Ledger) -> None:
    ledger.reserve(study_of(0.5), "main")
    remaining = ledger.balance().remaining("main", "training")
    ledger.reserve(
        study_of(ledger.balance().lives["main"].largest_epsilon(remaining), "next"), "main"
    )


def test_the_largest_epsilon_that_a_refusal_names_really_fits(tmp_path: Path) -> None:
    for taken in (0.2, 0.3, 0.4, 0.5, 0.6):
        with new_ledger(tmp_path / f"{taken}.sqlite", Identity.new()) as ledger:
            ledger.reserve(study_of(taken), "main")
            ledger.reserve(study_of(named_epsilon(ledger), "next"), "main")


def test_a_study_with_a_larger_delta_than_the_ledgers_is_refused(ledger: Ledger) -> None:
    ledger.register_population(
        "large", epsilon=0.9, declared_size=100_000, hold_out=0.3, private={}
    )
    with pytest.raises(BudgetError, match="delta"):
        ledger.reserve(study_of(0.5), "large")


# -- releases ------------------------------------------------------------------------------------


def test_releases_beyond_steps_and_allowance_are_refused(ledger: Ledger) -> None:
    study = study_of(0.5)
    reservation = ledger.reserve(study, "main")
    for purpose in study.purposes:
        for n in range(Plan.of(study).purpose(purpose).releases):
            ledger.charge(reservation, purpose, f"{purpose} {n}", facts(study, n))
        with pytest.raises(BudgetError, match=f"no {purpose} release left"):
            ledger.charge(reservation, purpose, f"{purpose} more", facts(study))
    assert ledger.find_release("training more") is None


def test_the_same_request_is_never_charged_twice(ledger: Ledger) -> None:
    study = study_of(0.5)
    reservation = ledger.reserve(study, "main")
    ledger.charge(reservation, "training", "request 1", facts(study))
    with pytest.raises(TrustError, match="answered before"):
        ledger.charge(reservation, "training", "request 1", facts(study))
    assert ledger.balance().reservations[reservation].released["training"] == 1
    found = ledger.find_release("request 1")
    assert found is not None
    assert found.sequence == 3


def test_bits_sent_again_are_recorded_at_no_charge(ledger: Ledger) -> None:
    study = study_of(0.5)
    reservation = ledger.reserve(study, "main")
    ledger.charge(reservation, "training", "request 1", facts(study))
    first = ledger.find_release("request 1")
    assert first is not None
    ledger.repeat(reservation, first, "training", "request 2", facts(study))
    assert ledger.balance().reservations[reservation].released["training"] == 1
    assert ledger.find_release("request 2") is not None


def test_other_bits_are_no_repeat_and_write_nothing(ledger: Ledger) -> None:
    study = study_of(0.5)
    reservation = ledger.reserve(study, "main")
    ledger.charge(reservation, "training", "request 1", facts(study))
    first = ledger.find_release("request 1")
    assert first is not None
    other = facts(study) | {"reply": "1" * 64}
    for purpose, claimed in (("training", other), ("evaluation", facts(study))):
        with pytest.raises(TrustError):
            ledger.repeat(reservation, first, purpose, "request 2", claimed)
    assert ledger.find_release("request 2") is None
    ledger.settle(reservation, "ended")
    with pytest.raises(BudgetError, match="no open reservation"):
        ledger.repeat(reservation, first, "training", "request 3", facts(study))


def test_reserving_an_open_study_twice_is_reserving_once(ledger: Ledger) -> None:
    study = study_of(0.9)
    reservation = ledger.reserve(study, "main")
    assert ledger.reserve(study, "main") == reservation


def test_an_open_reservation_is_kept_for_nothing_else(ledger: Ledger) -> None:
    """Else the patients of one population would be trained on at the cost of another's."""
    register(ledger, "second")
    study = study_of(0.3, noise="distributed", masking="on")
    kept = ledger.reserve(study, "main")
    for population, if_broken in (("second", False), ("main", True)):
        with pytest.raises(BudgetError, match="already has a reservation for population 'main'"):
            ledger.reserve(study, population, if_broken=if_broken)
    assert ledger.reserve(study, "main") == kept


def test_a_study_that_was_settled_is_never_reserved_again(ledger: Ledger) -> None:
    # Its releases would stand under two reservations, and a report tells of one.
    study = study_of(0.1)
    ledger.settle(ledger.reserve(study, "main"), "ended")
    with pytest.raises(BudgetError, match="was run and settled here"):
        ledger.reserve(study, "main")


@pytest.mark.parametrize("reservation", [1, 99])
def test_a_charge_without_a_reservation_is_refused(ledger: Ledger, reservation: int) -> None:
    with pytest.raises(BudgetError, match="no open reservation"):
        ledger.charge(reservation, "training", "request", facts(study_of(0.5)))


def test_a_charge_after_the_settlement_is_refused(ledger: Ledger) -> None:
    study = study_of(0.5)
    reservation = ledger.reserve(study, "main")
    ledger.settle(reservation, "ended")
    with pytest.raises(BudgetError, match="no open reservation"):
        ledger.charge(reservation, "training", "request", facts(study))


# -- populations ---------------------------------------------------------------------------------


def test_two_populations_have_two_budgets(ledger: Ledger) -> None:
    register(ledger, "other")
    ledger.reserve(study_of(0.9), "main")
    assert ledger.balance().committed("other", "training") == 0
    ledger.reserve(study_of(0.9, "second"), "other")
    with pytest.raises(BudgetError):
        ledger.reserve(study_of(0.1, "third"), "main")


def test_a_budget_is_born_once(ledger: Ledger) -> None:
    with pytest.raises(UsageError, match="registered already"):
        register(ledger, epsilon=5.0)
    with pytest.raises(UsageError, match="not registered"):
        ledger.reserve(study_of(0.5), "unknown")


def test_a_patient_known_to_another_population_is_found_and_nothing_is_kept(ledger: Ledger) -> None:
    register(ledger, "other")
    ledger.reserve(study_of(0.3, "first"), "main", {"a", "b", "c"})
    ledger.reserve(study_of(0.3, "second"), "main", {"b", "c", "d"})
    with pytest.raises(DataError, match="2 patients"):
        ledger.reserve(study_of(0.3, "third"), "other", {"c", "d", "e"})
    ledger.reserve(study_of(0.3, "third"), "main", {"e"})


# -- whatever is done ----------------------------------------------------------------------------

DONE = st.lists(
    st.tuples(st.sampled_from(["reserve", "charge", "settle"]), st.integers(0, 4)), max_size=14
)
STUDIES = [study_of(0.5, "a"), study_of(0.3, "b"), survey_of(0.3, "c"), study_of(0.9, "d")]


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(done=DONE)
def test_no_order_of_events_overspends_and_a_reopened_ledger_adds_up_the_same(
    tmp_path: Path, done: list[tuple[str, int]]
) -> None:
    identity, path = Identity.new(), tmp_path / f"{Identity.new().fingerprint}.sqlite"
    with new_ledger(path, identity) as ledger:
        held: list[tuple[int, Any]] = []
        for n, (event, which) in enumerate(done):
            study = STUDIES[which % len(STUDIES)]
            try:
                if event == "reserve":
                    held.append((ledger.reserve(study, "main"), study))
                elif held and event == "charge":
                    reservation, study = held[which % len(held)]
                    purpose = study.purposes[which % len(study.purposes)]
                    ledger.charge(reservation, purpose, f"request {n}", facts(study))
                elif held:
                    ledger.settle(held[which % len(held)][0], "ended")
            except BudgetError:
                continue
        now = ledger.balance()
        for sub_ledger in SUB_LEDGERS:
            assert now.charged("main", sub_ledger) <= now.committed("main", sub_ledger) * (1 + 1e-9)
            assert now.remaining("main", sub_ledger) >= 0
    with closing(Ledger(path, identity)) as again:
        assert again.balance() == now


def test_a_release_is_charged_to_its_own_studys_reservation_only(ledger: Ledger) -> None:
    one, two = study_of(0.3, "one"), study_of(0.3, "two")
    held = ledger.reserve(one, "main")
    ledger.reserve(two, "main")
    before = hashes(ledger)
    with pytest.raises(BudgetError, match="no open reservation"):
        ledger.charge(held, "training", "request 1", facts(two))
    assert hashes(ledger) == before
    ledger.charge(held, "training", "request 1", facts(one))


# -- heads and refusals --------------------------------------------------------------------------


def test_the_highest_head_of_a_partner_is_kept(ledger: Ledger) -> None:
    def head(sequence: int) -> LedgerHead:
        return LedgerHead(sequence=sequence, hash=f"{sequence:064x}", signature="ab", public="cd")

    for sequence in (3, 5, 4):
        ledger.witness(head(sequence))
    assert ledger.witnessed() == {head(5).fingerprint: head(5)}


def test_an_empty_ledger_has_no_head_and_is_its_owners_only(tmp_path: Path) -> None:
    with closing(Ledger(tmp_path / "new.sqlite", Identity.new())) as ledger:
        with pytest.raises(UsageError, match="empty"):
            ledger.head()
        assert (tmp_path / "new.sqlite").stat().st_mode & 0o077 == 0


REFUSED: list[tuple[str, Callable[[Ledger], Any]]] = [
    ("an unknown population", lambda ledger: ledger.reserve(study_of(0.5), "unknown")),
    ("a second birth", register),
    ("a greedy study", lambda ledger: ledger.reserve(study_of(3.0), "main")),
    ("a greedy survey", lambda ledger: ledger.reserve(survey_of(3.0), "main")),
    ("no reservation", lambda ledger: ledger.charge(9, "training", "r", facts(study_of(0.5)))),
]


@pytest.mark.parametrize(("what", "act"), REFUSED, ids=[what for what, _ in REFUSED])
def test_a_refusal_writes_nothing(ledger: Ledger, what: str, act: Callable[[Ledger], Any]) -> None:
    before = hashes(ledger)
    with pytest.raises(FloError):
        act(ledger)
    assert hashes(ledger) == before, what
