"""Table one is that of pandas where there is no noise; words and pages say what is known."""

from __future__ import annotations

import csv
import math
from typing import Any

import numpy as np
import pytest

from flo.privacy.accounting.plan import Plan, combined_variance
from flo.privacy.releases import statistics
from flo.statistics import page, words
from flo.statistics.estimates import NOTHING, Estimate, of_patients
from flo.statistics.reading import read
from flo.statistics.table_one import ColumnRead, TableRead
from flo.study.document import from_document
from tests.flo.statistics.support2 import (
    CODES,
    CURVE,
    NUMBERS,
    TABLE,
    asking,
    everybody,
    in_order,
)

SILENT = 1e-12


@pytest.fixture(scope="module")
def found() -> TableRead:
    study = asking(TABLE | {"bins": 200})
    (part,) = read(study, statistics.exact(study, everybody(study)), SILENT)
    assert isinstance(part, TableRead)
    return part


def column(table: TableRead, group: str, name: str) -> ColumnRead:
    (one,) = [one for one in table.groups if one.name == group]
    (read_,) = [read_ for read_ in one.columns if read_.name == name]
    return read_


@pytest.mark.parametrize("group", ["0", "1"])
def test_counts_and_proportions_are_those_of_pandas(found: TableRead, group: str) -> None:
    rows = in_order().query(f"death == {group}")
    (size,) = [one.patients.value for one in found.groups if one.name == group]
    assert size == pytest.approx(len(rows))
    for name, codes in CODES.items():
        read_ = column(found, group, name)
        for code in codes:
            assert read_.counts[code].value == pytest.approx((rows[name] == code).sum())
            assert read_.shares[code].value == pytest.approx((rows[name] == code).mean())
    for name in NUMBERS:
        missing = column(found, group, name).missing
        expected = int(rows[name].isna().sum())
        assert (missing.value if missing else 0) == pytest.approx(expected)


@pytest.mark.parametrize("group", ["0", "1"])
@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_are_those_of_pandas(found: TableRead, group: str, name: str) -> None:
    values = in_order().query(f"death == {group}")[name].dropna()
    read_ = column(found, group, name)
    assert read_.mean is not None
    assert read_.deviation is not None
    assert read_.mean.value == pytest.approx(values.mean(), rel=1e-6)
    assert read_.deviation.value == pytest.approx(values.std(ddof=0), rel=1e-6)
    low, high = NUMBERS[name]
    for estimate, q in zip(read_.quartiles, (0.25, 0.5, 0.75), strict=True):
        exact = float(values.quantile(q))
        assert estimate.low <= exact <= estimate.high
        assert estimate.value == pytest.approx(exact, abs=2 * (high - low) / 200)


def test_intervals_of_no_noise_are_those_of_sampling(found: TableRead) -> None:
    values = in_order().query("death == 0")["age"]
    mean = column(found, "0", "age").mean
    assert mean is not None
    expected = 1.96 * values.std() / math.sqrt(len(values))
    assert (mean.high - mean.low) / 2 == pytest.approx(expected, rel=0.01)
    share = column(found, "0", "sex").shares["male"]
    p, n = share.value, (in_order()["death"] == 0).sum()
    expected = 1.96 * math.sqrt(p * (1 - p) / n)
    assert (share.high - share.low) / 2 == pytest.approx(expected, rel=0.01)


def test_the_estimates_of_one_release_hold_what_is_true() -> None:
    """One draw of real noise at ε = 0.3; the coverage of many is proven in ``make proofs``."""
    study = asking(TABLE, epsilon=0.3)
    part = Plan.of(study).purpose("statistics")
    variance = combined_variance(study, part, len(study.hospitals))
    exact = statistics.exact(study, everybody(study))
    noisy = exact + np.random.default_rng(11).normal(0, math.sqrt(variance), len(exact))
    (loud,) = read(study, noisy, variance)
    (silent,) = read(study, exact, variance)
    pairs = list(zip(words.rows([loud]), words.rows([silent]), strict=True))
    held = [
        one[5].low <= other[5].value <= one[5].high
        for one, other in pairs
        if not math.isnan(one[5].value) and not math.isnan(other[5].value)
    ]
    assert len(held) > 50
    assert np.mean(held) > 0.85


# -- words, file and page --------------------------------------------------------------------------


def test_what_is_not_known_is_not_said() -> None:
    assert words.share(NOTHING) == words.number(NOTHING) == words.count(NOTHING)
    assert words.count(of_patients(3.0, 4.0)) == "fewer than 7"
    assert words.count(of_patients(-30.0, 4.0)) == "fewer than 4"
    assert words.count(Estimate(1200.4, 1100.0, 1300.0)) == "1,200 (1,100 to 1,300)"
    assert words.share(Estimate(0.5, 0.1, 0.9, readable=False)) == "too few to say"
    assert words.share(Estimate(0.123, 0.1, 0.15)) == "12.3 % (10.0 to 15.0)"


@pytest.mark.parametrize("deviation", [0.0, 30.0, 1e6])
def test_file_and_page_hold_every_estimate_and_no_nan(deviation: float) -> None:
    study = asking(TABLE, CURVE | {"by": "sex"})
    exact = statistics.exact(study, everybody(study))
    noise = np.random.default_rng(5).normal(0, 1, len(exact)) * deviation / 30
    parts = read(study, exact + noise, max(deviation / 30, 1e-6) ** 2)
    rows = list(csv.DictReader(words.as_csv(parts).splitlines()))
    assert len(rows) == len(list(words.rows(parts)))
    for row in rows:
        numbers = [row[name] for name in ("value", "low", "high")]
        assert (row["readable"] == "yes") == bool(numbers[0])
        assert "nan" not in "".join(numbers)
    shown = page.render(study, parts, [("made", "today")])
    assert "nan" not in shown
    assert "Kaplan-Meier" in shown
    assert ("too few to say" in shown) == (deviation > 1000)
    assert [section.heading for section in page.sections(parts)] == ["table-one", "survival"]


def test_a_code_called_missing_is_a_code_and_no_formula_leaves(found: TableRead) -> None:
    document = asking(TABLE).model_dump(mode="json")
    sex = next(one for one in document["data"]["columns"] if one["name"] == "sex")
    sex["codes"] = ["=1+1", "missing"]
    study = from_document(document)
    parts = read(study, statistics.exact(study, everybody(asking(TABLE))), SILENT)
    assert isinstance(parts[0], TableRead)
    read_ = column(parts[0], "0", "sex")
    expected = column(found, "0", "sex")
    assert [one.value for one in read_.shares.values()] == pytest.approx(
        [one.value for one in expected.shares.values()]
    )
    assert read_.missing is None
    assert ",'=1+1," in words.as_csv(parts)


def test_hostile_names_stay_text_on_the_page() -> None:
    name: dict[str, Any] = {"by": None, "columns": ["age"], "name": "table-one"}
    document = asking(TABLE | name).model_dump(mode="json")
    document["purpose"] = "<script>alert(1)</script>"
    study = from_document(document)
    parts = read(study, statistics.exact(study, everybody(study)), SILENT)
    shown = page.render(study, parts, [("<b>", "<i>")])
    assert "<script>" not in shown
    assert "&lt;b&gt;" in shown
