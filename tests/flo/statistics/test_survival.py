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
from flo.statistics.survival import SurvivalRead, _survival, log_rank
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
    died = in_order()["death"] == 1
    gone = [((days <= edge) & died) | (days < edge) for edge in EDGES]
    expected = [len(days), *((~one).sum() for one in gone)]
    assert [found.value for found in curve.at_risk] == pytest.approx(expected)
    assert curve.events.value == pytest.approx((died & (days <= EDGES[-1])).sum())


def cells(by: str) -> Floats:
    rows = in_order()
    rows["old"] = (rows["age"] > 65).map({True: "over 65", False: "up to 65"})
    days, died, last = rows["days"].to_numpy(), rows["death"].to_numpy() == 1, len(EDGES)
    happened = np.searchsorted(EDGES, days, side="left")
    left = np.searchsorted(EDGES, days, side="right")
    place = np.where(died, np.where(happened == last, 2 * last, happened), last + left)
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
    # On fewer intervals: the test leaves out those in which many left.
    assert 0.4 * expected["statistic"] < found.statistic < 1.1 * expected["statistic"]
    assert 6 <= found.compared < len(EDGES)


@pytest.mark.parametrize("by", ["sex", "old", "ca"])
def test_where_nobody_leaves_early_the_log_rank_test_is_that_of_lifelines(by: str) -> None:
    """In the first 270 days nobody was lost, so all intervals are compared."""
    exact, intervals = cells(by), EDGES.index(270) + 1
    last = len(EDGES)
    early, later = exact[:, :intervals], exact.sum(1) - exact[:, :intervals].sum(1)
    assert exact[:, last : last + intervals].sum() == 0
    nobody = np.zeros_like(early)
    found = log_rank(np.hstack([early, nobody, later[:, None]]), SILENT)
    expected = REFERENCES["log_rank_270"][by]
    assert found is not None
    assert found.compared == intervals
    assert found.statistic == pytest.approx(expected["statistic"], rel=0.1, abs=0.05)
    assert (found.p < 0.05) == (expected["p"] < 0.05)
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


def test_when_people_left_within_an_interval_is_inside_its_band() -> None:
    """Sixty in a hundred leave early in a wide interval: the life table's value is far off."""
    draw = np.random.default_rng(3)
    days = draw.exponential(400, 20_000)
    followed = np.where(draw.random(20_000) < 0.6, draw.uniform(0, 150, 20_000), 2000)
    seen, died = np.minimum(days, followed), days <= followed
    edges = np.array([500.0, 1000.0])
    happened = np.searchsorted(edges, seen, side="left")
    left = np.searchsorted(edges, seen, side="right")
    place = np.where(died, np.where(happened == 2, 4, happened), 2 + left)
    row = np.bincount(place, minlength=5).astype(float)
    first, second = _survival(row, SILENT)
    for found, edge in ((first, 500), (second, 1000)):
        assert found.low <= math.exp(-edge / 400) <= found.high
    assert first.high - first.low > 0.05, "and the page says that it is not known better"


def test_nobody_in_a_group_costs_no_degree_of_freedom() -> None:
    exact = cells("sex")
    nobody = np.vstack([exact, np.zeros((1, exact.shape[1]))])
    assert log_rank(nobody, 1.0) == log_rank(exact, 1.0)


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
