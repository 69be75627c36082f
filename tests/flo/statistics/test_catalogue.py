"""A catalogue's questions, tables and rows on SUPPORT2; without noise, what pandas counts."""

from __future__ import annotations

import contextlib
import math
import shlex
import time
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flo.arrays import Floats
from flo.errors import UsageError
from flo.privacy.accounting.plan import Plan, combined_variance
from flo.privacy.releases import statistics
from flo.privacy.releases.catalogue import CatalogueBlock, in_words
from flo.statistics import words
from flo.statistics.associations import association_lines, association_map
from flo.statistics.catalogue import CatalogueRead, read_catalogue
from flo.statistics.page import render, sections
from flo.statistics.questions import LONGEST, ask, quoted
from flo.statistics.synthetic_rows import from_the_system, synthetic_rows
from flo.study.document import from_document
from tests.flo.statistics.support2 import asking, everybody, in_order

ALL: dict[str, Any] = {
    **{"kind": "catalogue", "name": "all", "bins": 5},
    "ranges": [{"column": "age", "at": [45, 60, 75]}, {"column": "alb", "at": [2.5, 3.5]}],
}
STUDY = asking(ALL, epsilon=0.3)


@pytest.fixture(scope="module")
def silent() -> CatalogueRead:
    return noisy_read(0.0, 0)


@cache
def exact_sum() -> Floats:
    return statistics.exact(STUDY, everybody(STUDY))


def noisy_read(share: float, seed: int) -> CatalogueRead:
    """With ``share`` of the noise that the study has."""
    (block,) = statistics.layout(STUDY)
    assert isinstance(block, CatalogueBlock)
    exact = exact_sum()
    part = Plan.of(STUDY).purpose("statistics")
    variance = share**2 * combined_variance(STUDY, part, len(STUDY.hospitals))
    draw = np.random.default_rng(seed)
    noise = draw.normal(0, math.sqrt(variance), len(exact))
    return read_catalogue(block, exact + noise, variance)


# -- questions -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("question", "query"),
    [
        ("age >= 60 and sex = female", "age >= 60 and sex == 'female'"),
        ("AGE".lower() + ">=60 AND age<75", "60 <= age < 75"),
        ("age < 60 or sex = male", "age < 60 or sex == 'male'"),
        ("ca in (yes, metastatic) and death = 1", "ca != 'no' and death == 1"),
        ('ca = "no" and (age < 45 or age >= 75)', "ca == 'no' and (age < 45 or age >= 75)"),
        ("ca != no", "ca != 'no'"),
        ("alb is missing", "alb.isna()"),
        ("alb is not missing and death = 0", "alb.notna() and death == 0"),
        ("alb >= 3.5 and alb is not missing", "alb >= 3.5"),
        ("alb < 2.5 or alb is missing", "alb < 2.5 or alb.isna()"),
        ("age <= 102", "age <= 102"),
        ("age >= 18 and death != 0", "death == 1"),
    ],
)
def test_an_answer_without_noise_is_what_pandas_counts(
    silent: CatalogueRead, question: str, query: str
) -> None:
    expected = len(in_order().query(query, engine="python"))
    counted = ask(silent, question).counted
    assert counted.patients.value == pytest.approx(expected)
    assert counted.share.value == pytest.approx(expected / len(in_order()))


@pytest.mark.parametrize(
    ("question", "why", "hint"),
    [
        ("age > 60", "age > 60: the catalogue's ranges of age meet at 18, 45, 60", "age >= 60"),
        ("age >= 62", "meet at 18, 45, 60, 75, 102", "ask age >= 60"),
        ("age < 1e9", "meet at", "ask age < 75"),
        ("age = 60", "knows age in ranges only", "age >= 18 and age < 45"),
        ("age >= old", "'old' is no number", None),
        ("age in (60)", "age is a number", "age >= 45"),
        ("sex = f", "sex has no code 'f'", "it has female, male"),
        ("sex >= 1", "sex has codes, which have no order", "sex = CODE"),
        ("weight > 3", "the catalogue has no column 'weight'", "it has days, age"),
        (
            "age >= 60 and sex = male and ca = no",
            "about 3 columns .age, sex, ca., limit 2",
            "pairs",
        ),
        ("age >=", "cannot be read at character", "such as"),
        ("", "cannot be read", "such as"),
        ("age >= 60; drop table", "cannot be read", "such as"),
        ("a" * (LONGEST + 1), f"{LONGEST + 1} characters, limit {LONGEST}", None),
    ],
)
def test_what_it_cannot_answer_it_refuses_and_says_what_to_ask(
    silent: CatalogueRead, question: str, why: str, hint: str | None
) -> None:
    with pytest.raises(UsageError, match=why) as refused:
        ask(silent, question)
    assert hint is None or hint in str(refused.value.hint)


def test_a_pair_that_the_study_did_not_name_is_refused() -> None:
    study = asking(ALL | {"pairs": [["age", "sex"]], "name": "few"}, epsilon=0.3)
    (block,) = statistics.layout(study)
    assert isinstance(block, CatalogueBlock)
    read = read_catalogue(block, statistics.exact(study, everybody(study)), 0.0)
    assert ask(read, "sex = male and age < 45").counted.patients.value > 0
    with pytest.raises(UsageError, match="did not count age and ca together"):
        ask(read, "age < 45 and ca = no")


@given(st.text(max_size=60) | st.text("age sexcin()=<>\"'16.0,", max_size=60))
def test_whatever_is_typed_it_answers_or_says_why_not(question: str) -> None:
    with contextlib.suppress(UsageError):  # anything else fails the test
        assert ask(noisy_cached(), question).columns


def test_deep_parentheses_are_answered_at_once(silent: CatalogueRead) -> None:
    began = time.process_time()
    depth = (LONGEST - 10) // 2
    assert ask(silent, "(" * depth + "sex=male" + ")" * depth).counted.patients.value > 0
    assert time.process_time() - began < 5


@cache
def noisy_cached() -> CatalogueRead:
    return noisy_read(1.0, 1)


@pytest.mark.slow
def test_intervals_hold_the_true_count_about_as_often_as_they_say() -> None:
    questions = {
        "age >= 60 and sex = female": "age >= 60 and sex == 'female'",
        "ca = metastatic and death = 0": "ca == 'metastatic' and death == 0",
        "alb is missing": "alb.isna()",
    }
    held = []
    for seed in range(150):
        read = noisy_read(1.0, seed)
        for question, query in questions.items():
            true = len(in_order().query(query, engine="python"))
            found = ask(read, question).counted.patients
            held.append(found.low <= true <= found.high)
    assert np.mean(held) >= 0.93


# -- tables and associations -----------------------------------------------------------------------


def test_a_table_without_noise_is_the_cross_tabulation(silent: CatalogueRead) -> None:
    names = [column.name for column in silent.block.columns]
    pair = (names.index("ca"), names.index("death"))
    expected = pd.crosstab(in_order()["ca"], in_order()["death"]).loc[["no", "yes", "metastatic"]]
    assert silent.table(pair) == pytest.approx(expected.to_numpy(), abs=0.01)
    found = silent.association(pair)
    assert found is not None
    assert found == pytest.approx(cramers_v(expected.to_numpy()), abs=1e-4)


def cramers_v(table: np.ndarray[Any, Any]) -> float:
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / table.sum()
    squared = ((table - expected) ** 2 / expected).sum() / table.sum()
    return math.sqrt(squared / (min(table.shape) - 1))


def test_noisy_tables_have_no_negative_cell_and_agree_with_their_columns() -> None:
    read = noisy_read(1.0, 4)
    for pair in read.block.pairs:
        table = read.table(pair)
        assert (table >= 0).all()
        assert table.sum(axis=1) == pytest.approx(read.column(pair[0]), abs=1.0)
        assert table.sum(axis=0) == pytest.approx(read.column(pair[1]), abs=1.0)


def test_a_page_shows_the_map_the_columns_and_how_to_ask() -> None:
    read = noisy_read(1.0, 4)
    page = render(STUDY, [read], [("hospitals", "a, b")])
    assert "flo study ask FILE" in page
    assert page.count("<rect") == len(read.block.pairs)
    drawn = association_map(read)
    assert sum(bool(cell.text) for cell in drawn.cells) == len(association_lines(read))
    ask(read, drawn.example)
    (section,) = sections([read])
    assert "days and death" in dict(section.lines)
    table = words.as_csv([read])
    assert 'all,,age x sex,count,"45 to 60, male"' in table


# -- synthetic rows --------------------------------------------------------------------------------


def test_rows_agree_with_the_columns_and_the_strongest_pair(silent: CatalogueRead) -> None:
    rows = synthetic_rows(silent, 20_000, np.random.default_rng(2).random)
    real = in_order()
    assert rows["patient_id"].str.startswith("synthetic-").all()
    assert set(rows.columns) == {"patient_id", *(c.name for c in silent.block.columns)}
    for name in ("sex", "ca"):
        shares = rows[name].value_counts(normalize=True)
        expected = real[name].value_counts(normalize=True)
        assert shares.loc[expected.index].to_numpy() == pytest.approx(expected.to_numpy(), abs=0.02)
    assert rows["alb"].isna().mean() == pytest.approx(real["alb"].isna().mean(), abs=0.02)
    early = rows["days"] < 420
    assert (rows["death"][early] == "1").mean() > 0.8  # days and death depend on each other most
    assert rows["age"].between(18, 102).all()


def test_rows_of_loud_noise_are_rows_nevertheless() -> None:
    (block,) = statistics.layout(STUDY)
    assert isinstance(block, CatalogueBlock)
    loud = np.random.default_rng(3).normal(0, 1e5, statistics.length(STUDY))
    rows = synthetic_rows(read_catalogue(block, loud, 1e10), 50, np.random.default_rng(3).random)
    assert len(rows) == 50


def test_columns_that_are_in_no_pair_are_drawn_alone() -> None:
    study = asking(ALL | {"pairs": [["age", "sex"]]}, epsilon=0.3)
    (block,) = statistics.layout(study)
    assert isinstance(block, CatalogueBlock)
    read = read_catalogue(block, statistics.exact(study, everybody(study)), 0.0)
    rows = synthetic_rows(read, 5000, np.random.default_rng(2).random)
    expected = (in_order()["ca"] == "no").mean()
    assert (rows["ca"] == "no").mean() == pytest.approx(expected, abs=0.03)


# -- ends of ranges --------------------------------------------------------------------------------


def of_bounds(low: float, high: float, bins: int) -> CatalogueRead:
    document = asking(ALL, epsilon=0.3).model_dump(mode="json")
    column = {"kind": "number", "name": "lab", "unit": "1", "minimum": low, "maximum": high}
    ward = {"kind": "category", "name": "step down", "codes": ["and", "$(touch it)", 'a "b"']}
    document["data"]["columns"] = [column, ward | {"name": "ward"}]
    document["statistics"]["parts"] = [{"kind": "catalogue", "name": "all", "bins": bins}]
    study = from_document(document)
    (block,) = statistics.layout(study)
    assert isinstance(block, CatalogueBlock)
    return read_catalogue(block, np.ones(statistics.length(study)), 1.0)


@pytest.mark.slow
@given(
    st.floats(-1e6, 1e6, allow_nan=False),
    st.floats(1e-3, 1e6, allow_nan=False),
    st.integers(2, 50),
)
def test_every_end_that_is_shown_and_every_hint_can_be_asked(
    low: float, width: float, bins: int
) -> None:
    read = of_bounds(low, low + width, bins)
    column = read.block.columns[0]
    for end in column.edges[:-1]:
        ask(read, f"lab >= {in_words(end)}")
    with pytest.raises(UsageError) as refused:
        ask(read, f"lab > {in_words(column.edges[1])}")
    ask(read, str(refused.value.hint).removeprefix("ask "))
    ask(read, association_map(read).example)


@pytest.mark.parametrize(("low", "high", "bins"), [(0, 10, 3), (0, 1, 10), (0, 10.1, 4)])
def test_equal_ranges_meet_at_numbers_that_people_type(low: float, high: float, bins: int) -> None:
    for end in of_bounds(low, high, bins).block.columns[0].edges:
        assert len(in_words(end)) <= 6


def test_names_and_codes_are_quoted_for_the_question_and_the_question_for_a_shell() -> None:
    read = of_bounds(0, 10, 2)
    for code in read.block.columns[1].cells:
        ask(read, f"ward = {quoted(code)}")
    drawn = association_map(read)
    assert shlex.split(drawn.command)[-1] == drawn.example
    page = render(STUDY, [read], [])
    assert "FILE &#39;" in page


def test_synthetic_numbers_stay_in_their_ranges() -> None:
    ranges = [{"column": "days", "at": [3, 30, 300]}]
    study = asking(ALL | {"ranges": ranges, "columns": ["days", "sex"]}, epsilon=0.3)
    (block,) = statistics.layout(study)
    assert isinstance(block, CatalogueBlock)
    read = read_catalogue(block, statistics.exact(study, everybody(study)), 0.0)
    rows = synthetic_rows(read, 9105, np.random.default_rng(5).random)
    real, made = (
        np.histogram(days, [0, 3, 30, 300, 2101])[0] for days in (in_order()["days"], rows["days"])
    )
    assert made == pytest.approx(real, abs=200)
    assert rows["days"].max() <= 2100


def test_a_catalogue_of_nobody_but_noise_makes_rows_and_tables() -> None:
    (block,) = statistics.layout(STUDY)
    assert isinstance(block, CatalogueBlock)
    nobody = np.zeros(statistics.length(STUDY))
    nobody[block.components[()].start] = -50.0
    read = read_catalogue(block, nobody, 100.0)
    assert len(synthetic_rows(read, 20, from_the_system())) == 20
    assert np.isfinite(read.table(block.pairs[0])).all()
    assert read.associations[block.pairs[0]] is None
