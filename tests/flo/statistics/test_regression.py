"""Regressions: statsmodels' values where there is no noise, and silence where it is loud."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flo.privacy.releases import regressions
from flo.privacy.releases.fisher_scoring import Released, next_coefficients
from flo.statistics import words
from flo.statistics.page import render, sections
from flo.statistics.reading import PartRead, read
from flo.statistics.regression import RegressionRead
from flo.study.document import Study
from flo.study.statistics import ROUNDS
from tests.flo.statistics.support2 import asking, everybody

REFERENCES = json.loads((Path(__file__).parent / "references.json").read_text())["regressions"]
DEATH: dict[str, Any] = {
    **{"kind": "regression", "name": "death", "family": "logistic", "outcome": "death"},
    "predictors": ["age", "meanbp", "sex", "ca"],
}
ALBUMIN: dict[str, Any] = {
    **{"kind": "regression", "name": "albumin", "family": "linear", "outcome": "alb"},
    "predictors": ["age", "bili", "sex"],
}
THEIRS = {
    **{"intercept": "Intercept", "sex = male": "C(sex)[T.male]"},
    **{f"ca = {c}": f"C(ca, Treatment('no'))[T.{c}]" for c in ("yes", "metastatic")},
}


def rounds_of(study: Study, deviation: float, seed: int = 0) -> list[Released]:
    """All rounds of a study over the eight hospitals, as a coordinator asks for them."""
    everyone, draw = everybody(study), np.random.default_rng(seed)
    found: list[Released] = []
    for _ in range(ROUNDS):
        asked = next_coefficients(study, found)
        sums = regressions.exact(study, everyone, asked)
        noisy = sums + draw.normal(0, deviation, len(sums))
        found.append(Released(noisy, asked, max(deviation, 1e-9) ** 2))
    return found


def answers(study: Study, deviation: float) -> list[PartRead]:
    return read(study, np.zeros(0), 0.0, rounds_of(study, deviation))


@pytest.fixture(scope="module")
def silent() -> dict[str, RegressionRead]:
    found = {part.name: part for part in answers(asking(DEATH, ALBUMIN), 0.0)}
    assert all(isinstance(part, RegressionRead) for part in found.values())
    return found  # type: ignore[return-value]


@pytest.mark.parametrize("name", ["death", "albumin"])
def test_coefficients_errors_and_tests_are_those_of_statsmodels(
    silent: dict[str, RegressionRead], name: str
) -> None:
    part, expected = silent[name], REFERENCES[name]
    assert part.patients.value == pytest.approx(expected["patients"], abs=0.01)
    for one in part.coefficients:
        at = expected["names"].index(THEIRS.get(one.name, one.name))
        error = (one.value.high - one.value.low) / (2 * 1.959964)
        close = 0.1 * expected["errors"][at]  # scores are not quite linear between rounds
        assert one.value.value == pytest.approx(expected["coefficients"][at], abs=close)
        assert error == pytest.approx(expected["errors"][at], rel=2e-2)
        assert one.p == pytest.approx(expected["p"][at], rel=0.1, abs=1e-12)
    assert part.wald is not None
    assert part.wald[0] == pytest.approx(expected["wald"], rel=2e-2)
    assert part.wald[1] == len(part.coefficients) - 1


def test_odds_ratios_are_of_logistic_ones_only(silent: dict[str, RegressionRead]) -> None:
    for one in silent["death"].coefficients:
        assert one.ratio is not None
        assert one.ratio.low == pytest.approx(math.exp(one.value.low))
        assert one.ratio.value == pytest.approx(math.exp(one.value.value))
    assert all(one.ratio is None for one in silent["albumin"].coefficients)


def test_noise_widens_the_intervals_and_loud_noise_hides_them_all() -> None:
    study = asking(DEATH)
    widths = []
    for deviation in (0.0, 3.0):
        (part,) = answers(study, deviation)
        assert isinstance(part, RegressionRead)
        widths.append([one.value.high - one.value.low for one in part.coefficients])
    assert (np.array(widths[1]) > np.array(widths[0])).all()
    (hidden,) = answers(study, 1000.0)
    assert isinstance(hidden, RegressionRead)
    assert hidden.wald is None
    assert all(one.p is None and not one.value.readable for one in hidden.coefficients)
    assert words.TOO_FEW in dict(sections([hidden])[0].lines).values()


def test_a_page_has_a_forest_and_a_csv_all_coefficients(silent: dict[str, RegressionRead]) -> None:
    study = asking(DEATH, ALBUMIN)
    parts: list[PartRead] = list(silent.values())
    page = render(study, parts, [("hospitals", "a, b")])
    assert "logistic regression of death" in page
    assert page.count("<svg") == 2
    table = words.as_csv(parts)
    assert "death,,death,coefficient,ca = metastatic" in table
    assert "death,,death,odds ratio,age" in table
    assert "albumin,,alb,p,bili" in table
    lines = dict(sections(parts)[0].lines)
    assert "odds ratio" in lines["age"]
    assert "Wald χ²" in lines["all but the intercept"]
