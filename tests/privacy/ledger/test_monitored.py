"""A monitor is charged to those generations only that no earlier period of its series counted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from flo.privacy.ledger.admission import Approved
from flo.privacy.ledger.ledger import Ledger
from flo.study.document import Study
from tests.monitored import period
from tests.privacy.ledger.life_histories import KEY
from tests.privacy.ledger.test_generations import FIRST_YEAR, study_of, who
from tests.privacy.ledgers import facts, new_ledger


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with new_ledger(tmp_path / "ledger.sqlite", KEY) as made:
        yield made


def released(ledger: Ledger, study: Study, patients: set[str]) -> int:
    """The reservation of a period that released here and is over."""
    number = ledger.reserve(study, "main", patients)
    request = f"{study.digest}/run-1/{study.digest[:6]}"
    ledger.charge(number, "monitor", request, facts(study))
    ledger.settle(number, "done")
    return number


def charged(ledger: Ledger, number: int) -> set[int]:
    return set(ledger.balance().reservations[number].generations["evaluation"])


def test_those_who_came_before_the_first_period_are_not_counted(ledger: Ledger) -> None:
    ledger.reserve(study_of(0.3, "trained"), "main", FIRST_YEAR)
    one = released(ledger, period(), FIRST_YEAR | {"p11"})
    assert charged(ledger, one) == {one}
    assert who(ledger, one, FIRST_YEAR | {"p11"}) == {"p11"}


def test_a_later_period_counts_whom_other_studies_froze_since_the_last(ledger: Ledger) -> None:
    first = period()
    one = released(ledger, first, FIRST_YEAR)
    between = ledger.reserve(study_of(0.3, "between"), "main", FIRST_YEAR | {"p11"})
    two = released(ledger, period(first), FIRST_YEAR | {"p11", "p15"})
    assert one not in charged(ledger, two)
    assert charged(ledger, two) == {between, two}
    assert who(ledger, two, FIRST_YEAR) == set()


def test_whom_a_period_without_a_release_would_have_counted_is_counted_later(
    ledger: Ledger,
) -> None:
    first = period()
    failed = ledger.reserve(first, "main", FIRST_YEAR)
    ledger.settle(failed, "too few hospitals")
    second = period(first)
    two = released(ledger, second, FIRST_YEAR | {"p11"})
    assert charged(ledger, two) == {failed, two}
    third = period(first, second)
    three = released(ledger, third, FIRST_YEAR | {"p11", "p15"})
    assert charged(ledger, three) == {three}


def test_a_period_that_is_not_over_counts_as_released(ledger: Ledger) -> None:
    first = period()
    ledger.reserve(first, "main", FIRST_YEAR)
    two = ledger.reserve(period(first), "main", FIRST_YEAR | {"p11"})
    assert charged(ledger, two) == {two}


def test_no_patient_pays_for_two_periods(ledger: Ledger) -> None:
    """A life of ε = .9 holds more periods than it could pay for if each charged everybody."""
    life = ledger.balance().lives["main"]
    series, here = list[Study](), set(FIRST_YEAR)
    for month in range(12):
        here |= {f"m{month}-{n}" for n in range(10)}
        study = period(*series, epsilon=0.7)
        released(ledger, study, here)
        series.append(study)
    balance = ledger.balance()
    shares = [
        life.share(balance.charged("main", "evaluation", number))
        for number in balance.generations("main")
    ]
    assert len(shares) == 12
    assert max(shares) == min(shares) <= 1
    assert 12 * max(shares) > 2, "for everybody it would not have fitted"


def test_after_a_restore_nobody_is_counted_twice(ledger: Ledger) -> None:
    """The period that the lost rows reserved is charged in full, and counts as released."""
    first = period()
    released(ledger, first, FIRST_YEAR)
    second = period(first)
    ledger.restore([Approved(second, "main", False)], None)
    three = ledger.reserve(period(first, second), "main", FIRST_YEAR | {"p11"})
    lost = next(n for n, digest in ledger._reserved.items() if digest == second.digest)
    assert all(number > lost for number in charged(ledger, three))
    assert who(ledger, three, FIRST_YEAR | {"p11"}) == set(), "p11 may be of the lost rows"


def test_periods_that_are_approved_in_another_order_count_nobody_twice(ledger: Ledger) -> None:
    """A coordinator can sign several at once, and say of each which are earlier."""
    first = period()
    released(ledger, first, FIRST_YEAR)
    second = period(first)
    third = period(first, second)
    fourth = period(first, second, third)
    counted = list[str]()
    for study in (fourth, third, second):
        number = released(ledger, study, FIRST_YEAR | {"p11", "p15"})
        counted += who(ledger, number, FIRST_YEAR | {"p11", "p15"})
    assert sorted(counted) == ["p11", "p15"]


def test_a_period_that_names_no_earlier_one_counts_nobody_twice(ledger: Ledger) -> None:
    first = period()
    released(ledger, first, FIRST_YEAR)
    hidden = period(epsilon=0.2)
    two = released(ledger, hidden, FIRST_YEAR | {"p11"})
    assert who(ledger, two, FIRST_YEAR | {"p11"}) == {"p11"}


def test_whom_a_failed_period_between_two_others_had_are_counted_by_the_next(
    ledger: Ledger,
) -> None:
    first = period()
    released(ledger, first, FIRST_YEAR)
    second = period(first)
    two = ledger.reserve(second, "main", FIRST_YEAR | {"p11"})
    third = period(first, second)
    three = ledger.reserve(third, "main", FIRST_YEAR | {"p11", "p15"})
    assert charged(ledger, three) == {three}, "the second is open, and may release yet"
    ledger.settle(two, "its hospitals were away")
    fourth = ledger.reserve(period(first, second, third), "main", FIRST_YEAR | {"p11", "p15"})
    assert charged(ledger, fourth) == {two, fourth}


def test_two_models_are_two_series(ledger: Ledger) -> None:
    released(ledger, period(), FIRST_YEAR)
    other = released(ledger, period(model="cd" * 32), FIRST_YEAR | {"p11"})
    assert charged(ledger, other) == {other}
