"""What is said of a column that changed."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from flo.clients.watching.counts import SCORED
from flo.clients.watching.naming import Rated, named, typical
from tests.clients.watching.builders import FIRST, Record, Ward, new_watch


def said(
    column: str, change: Callable[[Record], Record], share: float = 1.0, count: int = 200
) -> tuple[str, str]:
    """Cause and words of a change of some of the patients."""
    ward = Ward(new_watch())
    ward.day(0, 1000)
    ward.day(1, round(count * share), change)
    ward.day(1, count - round(count * share))
    before = ward.watch.hospital.since(FIRST) - ward.watch.hospital.all_today()
    place, now = ward.watch.layout.column(column), ward.watch.hospital.today
    rate: Rated = "refused" if now[place.refused] else "values"
    if column == "crea" and now[place.missing] == now[SCORED]:
        rate = "missing"
    found = named(place, before, now, rate)
    return found.cause, found.words


def times(factor: float) -> Callable[[Record], Record]:
    return lambda one: one | {"crea": None if one["crea"] is None else one["crea"] * factor}


@pytest.mark.parametrize(
    ("column", "change", "cause", "words"),
    [
        ("crea", times(88.42), "units", "arrives in µmol/L instead of mg/dL"),
        ("crea", times(10), "factor", "is 10 times what it was before"),
        ("crea", times(0.01), "factor", "is 1/100 of what it was before"),
        ("crea", lambda one: one | {"crea": 7.3}, "constant", "is always about 7"),
        ("crea", lambda one: one | {"crea": None}, "missing", "is missing in 100 % of patients"),
        ("crea", times(2), "values", "has a median of 1.9"),
        ("sex", lambda one: one | {"sex": "male"}, "constant", "is always male"),
        (
            "sex",
            lambda one: one | {"sex": "w"},
            "refused",
            "does not fit the study's rules in 100 %",
        ),
    ],
)
def test_each_cause_is_named(
    column: str, change: Callable[[Record], Record], cause: str, words: str
) -> None:
    found = said(column, change)
    assert found[0] == cause
    assert found[1].startswith(words)


def test_a_part_of_the_patients_is_said_to_be_one() -> None:
    assert said("crea", times(88.42), 0.4)[1] == (
        "arrives in µmol/L instead of mg/dL for about 40 % of patients"
    )


def test_nothing_is_named_by_chance() -> None:
    assert said("crea", lambda one: one)[0] == "values"
    assert said("sex", lambda one: one, count=20)[0] == "values"


def test_what_is_typical_is_a_median_or_the_most_frequent_code() -> None:
    ward = Ward(new_watch())
    crea, sex = (ward.watch.layout.column(name) for name in ("crea", "sex"))
    counts = ward.watch.hospital.counts_of(FIRST)
    assert typical(crea, counts) == typical(sex, counts) == ""
    ward.day(0, 2000)
    assert typical(crea, counts).startswith(("0.9", "1"))
    assert typical(sex, counts).startswith("male, 6")
