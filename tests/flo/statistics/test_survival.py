"""Curves and tests: lifelines' values where there is no noise, and silence where it is loud."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flo.arrays import Floats
from flo.privacy.releases import statistics
from flo.statistics.reading import read
from flo.statistics.survival import SurvivalRead, log_rank
from tests.flo.statistics.support2 import CURVE, EDGES, asking, everybody, in_order

REFERENCES = json.loads((Path(__file__).parent / "references.json").read_text())
SILENT = 1e-12


@pytest.fixture(scope="module")
def curves() -> dict[str, SurvivalRead]:
    study = asking(CURVE, CURVE | {"name": "by-sex", "by": "sex"})
    exact = statistics.exact(study, everybody(study))
    found = {part.name: part for part in read(study, exact, SILENT)}
    assert all(isinstance(part, SurvivalRead) for part in found.values())
    return found  # type: ignore[return-value]


def test_the_references_are_of_these_intervals() -> None:
    assert tuple(REFERENCES["edges"]) == EDGES


@pytest.mark.parametrize("group", ["all", "sex=female", "sex=male"])
def test_a_curve_is_that_of_lifelines_but_for_when_in_an_interval_people_left(
    curves: dict[str, SurvivalRead], group: str
) -> None:
    part = curves["survival" if group == "all" else "by-sex"]
    (curve,) = [one for one in part.curves if one.group == group.removeprefix("sex=")]
    for found, expected in zip(curve.survival, REFERENCES["curves"][group], strict=True):
        assert found.readable
        assert found.value == pytest.approx(expected, abs=0.004)
        assert found.low < expected < found.high
    assert curve.median.low <= REFERENCES["medians"][group] <= curve.median.high


def test_numbers_at_risk_are_those_of_the_table(curves: dict[str, SurvivalRead]) -> None:
    days = in_order()["days"]
    (curve,) = curves["survival"].curves
    expected = [len(days), *((days > edge).sum() for edge in EDGES)]
    assert [found.value for found in curve.at_risk] == pytest.approx(expected)
    died = in_order()["death"] == 1
    assert curve.events.value == pytest.approx((died & (days <= EDGES[-1])).sum())


def cells(by: str) -> Floats:
    rows = in_order()
    rows["old"] = (rows["age"] > 65).map({True: "over 65", False: "up to 65"})
    interval = np.searchsorted(EDGES, rows["days"].to_numpy(), side="left")
    died, last = rows["death"].to_numpy() == 1, len(EDGES)
    place = np.where(interval == last, 2 * last, np.where(died, interval, last + interval))
    groups = sorted(rows[by].unique())
    return np.array(
        [
            np.bincount(place[(rows[by] == group).to_numpy()], minlength=2 * last + 1)
            for group in groups
        ],
        dtype=np.float64,
    )


@pytest.mark.parametrize("by", ["sex", "old", "ca"])
def test_the_log_rank_test_is_that_of_lifelines_but_for_grouped_times(by: str) -> None:
    found, expected = log_rank(cells(by), SILENT), REFERENCES["log_rank"][by]
    assert found is not None
    assert found.statistic == pytest.approx(expected["statistic"], rel=0.1)
    assert found.p == pytest.approx(expected["p"], rel=0.3) or found.p < 1e-30
    assert found.freedom == (2 if by == "ca" else 1)


def test_the_read_part_has_the_same_test(curves: dict[str, SurvivalRead]) -> None:
    found, expected = curves["by-sex"].log_rank, log_rank(cells("sex"), SILENT)
    assert found is not None
    assert expected is not None
    assert found.statistic == pytest.approx(expected.statistic)
    assert curves["survival"].log_rank is None


def test_noise_makes_the_test_less_sure_and_never_more() -> None:
    exact = cells("old")
    statistics_ = [log_rank(exact, variance) for variance in (SILENT, 1e2, 1e4)]
    values = [found.statistic for found in statistics_ if found]
    assert values == sorted(values, reverse=True)
    assert len(values) == 3


@pytest.mark.parametrize("deviation", [1e3, 1e4])
def test_where_noise_is_louder_than_patients_nothing_is_said(deviation: float) -> None:
    study = asking(CURVE | {"by": "sex"})
    size = statistics.length(study)
    noisy = np.random.default_rng(7).normal(0, deviation, size)
    (part,) = read(study, noisy, deviation**2)
    assert isinstance(part, SurvivalRead)
    for curve in part.curves:
        said = [found.readable for found in curve.survival]
        assert not any(said)
        assert math.isnan(curve.median.value)
    assert part.log_rank is None


def test_values_of_any_size_give_numbers_or_nothing() -> None:
    """A sum that a lying hospital spoilt cannot break a page."""
    study = asking(CURVE, CURVE | {"name": "by-sex", "by": "sex"})
    size = statistics.length(study)
    for scale in (0.0, -1.0, 1e9, -1e9):
        noisy: Any = scale * np.random.default_rng(3).uniform(0, 1, size)
        for part in read(study, noisy, 1.0):
            assert isinstance(part, SurvivalRead)
            for curve in part.curves:
                for found in curve.survival:
                    assert math.isnan(found.value) or 0 <= found.low <= found.high <= 1
