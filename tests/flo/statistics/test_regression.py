"""Regressions: statsmodels' values where there is no noise, and silence where it is loud."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from flo.arrays import Floats
from flo.privacy.accounting.plan import Plan, combined_variance
from flo.privacy.patients.patients import Patients
from flo.privacy.releases import regressions
from flo.privacy.releases.fisher_scoring import Released, next_coefficients
from flo.statistics import words
from flo.statistics.page import render, sections
from flo.statistics.reading import PartRead, read
from flo.statistics.regression import RegressionRead
from flo.study.columns import CategoryColumn, NumberColumn
from flo.study.document import Study, from_document
from flo.study.features import encode_category, encode_number
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
BILIRUBIN: dict[str, Any] = {
    **{"kind": "regression", "name": "bilirubin", "family": "poisson", "outcome": "bili"},
    "predictors": ["age", "sex"],
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
    found = {part.name: part for part in answers(asking(DEATH, ALBUMIN, BILIRUBIN), 0.0)}
    assert all(isinstance(part, RegressionRead) for part in found.values())
    return found  # type: ignore[return-value]


@pytest.mark.parametrize("name", ["death", "albumin", "bilirubin"])
def test_coefficients_errors_and_tests_are_those_of_statsmodels(
    silent: dict[str, RegressionRead], name: str
) -> None:
    part, expected = silent[name], REFERENCES[name]
    assert part.patients.value == pytest.approx(expected["patients"], abs=0.01)
    for one in part.coefficients:
        at = expected["names"].index(THEIRS.get(one.name, one.name))
        error = (one.value.high - one.value.low) / (2 * 1.959964)
        close = 0.02 * expected["errors"][at]  # scores are not quite linear between rounds
        assert one.value.value == pytest.approx(expected["coefficients"][at], abs=close)
        assert error == pytest.approx(expected["errors"][at], rel=2e-2)
        assert one.p == pytest.approx(expected["p"][at], rel=0.1, abs=1e-12)
    assert part.wald is not None
    assert part.wald[0] == pytest.approx(expected["wald"], rel=2e-2)
    assert part.wald[1] == len(part.coefficients) - 1


def test_ratios_are_of_odds_and_of_rates(silent: dict[str, RegressionRead]) -> None:
    for one in (*silent["death"].coefficients, *silent["bilirubin"].coefficients):
        assert one.ratio is not None
        assert one.ratio.low == pytest.approx(math.exp(one.value.low))
        assert one.ratio.value == pytest.approx(math.exp(one.value.value))
    assert all(one.ratio is None for one in silent["albumin"].coefficients)


def test_noise_widens_the_intervals_and_loud_noise_hides_them_all() -> None:
    study = asking(DEATH)
    widths = []
    for deviation in (0.0, 12.0):
        (part,) = answers(study, deviation)
        assert isinstance(part, RegressionRead)
        widths.append([one.value.high - one.value.low for one in part.coefficients])
    assert (np.array(widths[1]) > np.array(widths[0])).all()
    (hidden,) = answers(study, 1000.0)
    assert isinstance(hidden, RegressionRead)
    assert hidden.wald is None
    assert all(one.p is None and not one.value.readable for one in hidden.coefficients)
    assert hidden.unknown == "noise"
    said = dict(sections([hidden])[0].lines)["coefficients"]
    assert said.startswith(f"{words.TOO_FEW}: the noise hides")
    assert any(name in said for name in DEATH["predictors"]), "it names what is known least"
    page = render(study, [hidden], [("hospitals", "a, b")])
    assert "the noise hides" in page
    assert "<svg" not in page
    assert "death,,death,coefficient,age,,,,no" in words.as_csv([hidden])


def test_a_page_has_a_forest_and_a_csv_all_coefficients(silent: dict[str, RegressionRead]) -> None:
    study = asking(DEATH, ALBUMIN, BILIRUBIN)
    parts: list[PartRead] = list(silent.values())
    page = render(study, parts, [("hospitals", "a, b")])
    assert "logistic regression of death" in page
    assert page.count("<svg") == 3
    assert "age, per 10" in page
    assert "Odds ratios" in page
    assert "Rate ratios" in page
    assert "Coefficients, in units of alb" in page
    table = words.as_csv(parts)
    assert "death,,death,coefficient,ca = metastatic" in table
    assert "death,,death,odds ratio,age" in table
    assert "albumin,,alb,p,bili" in table
    assert "bilirubin,,bili,rate ratio,sex = male" in table
    lines = dict(sections(parts)[0].lines)
    assert "odds ratio" in lines["age"]
    assert "Wald χ²" in lines["all but the intercept"]


# -- where scoring has a long way ------------------------------------------------------------------


def made_up(
    count: int, intercept: float, seed: int = 5, *, separated: bool = False
) -> tuple[Study, Patients, pd.DataFrame]:
    """Patients whose outcome follows a logistic model of age and sex, of any prevalence."""
    draw = np.random.default_rng(seed)
    table = pd.DataFrame(
        {
            "age": np.clip(draw.normal(60, 15, count), 18, 102),
            "sex": np.where(draw.random(count) < (0.15 if separated else 0.5), "male", "female"),
        }
    )
    eta = intercept + 0.03 * (table["age"] - 60) + 0.4 * (table["sex"] == "male")
    table["death"] = (draw.random(count) < 1 / (1 + np.exp(-eta))).astype(float)
    if separated:
        table.loc[table["sex"] == "male", "death"] = 1.0
    document = asking(DEATH | {"predictors": ["age", "sex"]}).model_dump(mode="json")
    document["hospitals"] = [
        hospital | {"declared_size": int(float(f"{count / 8:.1g}"))}
        for hospital in document["hospitals"]
    ]
    document["mechanism"]["delta"] = 1e-8
    study = from_document(document)
    columns = {column.name: column for column in study.data.columns}
    inputs = []
    for name, column in columns.items():
        if isinstance(column, NumberColumn):
            values = table[name] if name in table else pd.Series(np.full(count, column.minimum))
            inputs.append(encode_number(column, values.to_numpy(float)))
        elif isinstance(column, CategoryColumn):
            mine = table["sex"].eq("male") & (name == "sex")
            inputs.append(encode_category(column, mine.to_numpy().astype(np.int64)))
    outcome = table["death"].to_numpy(float)
    return study, Patients(np.hstack(inputs), outcome, np.arange(count), count), table


def answer(study: Study, patients: Patients, seed: int) -> RegressionRead:
    variance = combined_variance(study, Plan.of(study).purpose("regression"), 8)
    draw, found = np.random.default_rng(seed), list[Released]()
    for _ in range(ROUNDS):
        asked = next_coefficients(study, found)
        exact = regressions.exact(study, patients, asked)
        noisy = exact + draw.normal(0, math.sqrt(variance), len(exact))
        found.append(Released(noisy, asked, variance))
    (part,) = read(study, np.zeros(0), 0.0, found)
    assert isinstance(part, RegressionRead)
    return part


@pytest.mark.slow
@pytest.mark.parametrize(("count", "intercept"), [(60_000, -4.0), (200_000, -5.0)])
def test_a_rare_outcome_is_not_biased(count: int, intercept: float) -> None:
    """2.4 % and .9 % have it: from zero, scoring would not have arrived."""
    study, patients, table = made_up(count, intercept)
    x = np.column_stack(
        [np.ones(count), table["age"].to_numpy(), (table["sex"] == "male").to_numpy(float)]
    )
    true = exact_fit(x, table["death"].to_numpy())
    held, values = [], []
    for seed in range(12):
        part = answer(study, patients, seed)
        assert not part.unknown
        values.append([one.value.value for one in part.coefficients])
        held += [
            one.value.low <= value <= one.value.high
            for one, value in zip(part.coefficients, true, strict=True)
        ]
    assert np.mean(held) >= 0.86
    apart = np.abs(np.mean(values, axis=0) - true)
    assert (apart <= 4 * np.std(values, axis=0) / math.sqrt(12)).all()


def exact_fit(x: Floats, y: Floats) -> Floats:
    beta = np.zeros(x.shape[1])
    beta[0] = math.log(y.mean() / (1 - y.mean()))
    for _ in range(40):
        p = 1 / (1 + np.exp(-x @ beta))
        beta = beta + np.linalg.solve((x * (p * (1 - p))[:, None]).T @ x, x.T @ (y - p))
    return beta


@pytest.mark.parametrize("count", [20_000, 200_000])
def test_where_a_code_tells_the_outcome_no_odds_ratio_is_shown(count: int) -> None:
    """All men die, so that their odds are infinite: any finite interval would be wrong."""
    study, patients, _ = made_up(count, -0.4, separated=True)
    for seed in range(6):
        part = answer(study, patients, seed)
        assert part.unknown
        assert all(one.p is None for one in part.coefficients)


def test_a_run_that_was_cut_short_says_so() -> None:
    study = asking(DEATH, ALBUMIN)
    few = rounds_of(study, 0.001)[:2]
    death, albumin = (
        part for part in read(study, np.zeros(0), 0.0, few) if isinstance(part, RegressionRead)
    )
    assert death.unknown == "cut-short"
    assert "ended before the rounds" in words.why_unknown(death)
    assert not albumin.unknown, "each round of a linear one says the same"


def without_one(study: Study, everyone: Patients, leaves: int, seed: int) -> RegressionRead:
    """An eighth of the patients, whose outcomes are others', leave before this round."""
    variance = combined_variance(study, Plan.of(study).purpose("regression"), 8)
    draw, found = np.random.default_rng(seed), list[Released]()
    stays = np.arange(everyone.count) >= everyone.count // 8
    fewer = Patients(
        everyone.inputs[stays], everyone.labels[stays], np.arange(stays.sum()), int(stays.sum())
    )
    for number in range(1, ROUNDS + 1):
        there = fewer if number >= leaves else everyone
        asked = next_coefficients(study, found)
        exact = regressions.exact(study, there, asked)
        noisy = exact + draw.normal(0, math.sqrt(variance), len(exact))
        hospitals = frozenset({"most"} if number >= leaves else {"most", "one"})
        found.append(Released(noisy, asked, variance, hospitals))
    (part,) = read(study, np.zeros(0), 0.0, found)
    assert isinstance(part, RegressionRead)
    return part


@pytest.mark.parametrize("leaves", [2, 4, 5, 6])
def test_a_hospital_that_leaves_does_not_spoil_the_rounds_of_those_who_stay(leaves: int) -> None:
    """Rounds of other patients are neither pooled nor compared with each other."""
    study, patients, _ = made_up(80_000, -1.0)
    labels = patients.labels.copy()
    labels[:10_000] = np.random.default_rng(1).random(10_000) < 0.5
    everyone = Patients(patients.inputs, labels, patients.patient, patients.count)
    answers = [without_one(study, everyone, leaves, seed) for seed in range(6)]
    assert sum(not part.unknown for part in answers) >= 4
    count = 80_000 if leaves > 4 else 70_000
    assert answers[0].patients.value == pytest.approx(count, rel=0.02)


def test_hospitals_that_leave_one_after_another_are_the_reason_that_nothing_is_known() -> None:
    study = asking(DEATH)
    rounds = [
        Released(one.sums, one.asked, one.variance, frozenset({str(number)}))
        for number, one in enumerate(rounds_of(study, 1.0))
    ]
    (part,) = read(study, np.zeros(0), 0.0, rounds)
    assert isinstance(part, RegressionRead)
    assert part.unknown == "left"
    assert "no two rounds had the same patients" in words.why_unknown(part)


def test_regressions_of_a_run_that_ended_before_them_are_named() -> None:
    (part,) = read(asking(DEATH), np.zeros(0), 0.0)
    assert isinstance(part, RegressionRead)
    assert part.unknown == "cut-short"
    assert "death" in render(asking(DEATH), [part], [])
