"""Regressions: rounds of scores and information, which a patient moves by at most one."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flo.arrays import Floats
from flo.clients.data_process.trainer import Trainer, private_step
from flo.clients.records.snapshot import Snapshot
from flo.errors import StudyError
from flo.privacy.accounting.life_budget import CHARGES, SUB_LEDGERS
from flo.privacy.accounting.plan import Plan
from flo.privacy.patients.patients import Patients
from flo.privacy.releases import fisher_scoring, regressions, statistics
from flo.study.document import Study, from_document
from flo.study.models import request_length
from flo.study.statistics import ROUNDS
from tests.builders import NoNoise, small_study
from tests.privacy.releases.test_statistics import BY, asking
from tests.privacy.releases.test_survey import Visit, patients_of, visits

ILL: dict[str, Any] = {
    **{"kind": "regression", "name": "ill", "family": "logistic", "outcome": "ill"},
    "predictors": ["age", "ward", "pressure"],
}
PRESSURE: dict[str, Any] = {
    **{"kind": "regression", "name": "pressure", "family": "linear", "outcome": "pressure"},
    "predictors": ["age", "ward"],
}
COUNT = PRESSURE | {"name": "count", "family": "poisson"}
PARTS: list[list[dict[str, Any]]] = [
    *([ILL], [PRESSURE], [COUNT]),
    [ILL | {"share": 3}, PRESSURE, COUNT, BY],
]
one_visit_each = visits.map(lambda drawn: list({visit[4]: visit for visit in drawn}.values()))


def questions(*parts: dict[str, Any], **more: Any) -> Study:
    return asking(*parts, many=False, **more)


def coefficients(study: Study) -> st.SearchStrategy[Floats]:
    """What a coordinator may ask about, also a lying one."""
    size = request_length(study, "regression")
    numbers = st.floats(allow_nan=True, allow_infinity=True)
    return st.lists(numbers, min_size=size, max_size=size).map(np.array)


# -- what is summed --------------------------------------------------------------------------------


def test_a_patients_numbers_are_those_of_the_docstring() -> None:
    study = questions(ILL, PRESSURE, COUNT)
    beta = np.array([0.2, -0.4, 1.0, 0.5, 0.3, *[0.0] * 4, -1.0, 0.5, 0.2, 0.1])
    found = regressions.exact(study, patients_of(study, [(75.0, 1, 100.0, 1.0, 0)]), beta)
    ill, pressure, count = regressions.layout(study)
    assert ill.names == ("intercept", "age", "ward = b", "ward = c", "pressure")
    corner = regressions.simplex(3)[1]
    x = np.array([1.0, 0.5, *corner, -0.5])
    p = 1 / (1 + math.exp(-(x @ beta[:5])))
    expected = [*((1 - p) * x), *(4 * C * p * (1 - p) * triangle(x)), 0.5, 0.0]
    assert found[ill.start : ill.end] / ill.scale == pytest.approx(expected)
    x, y = x[:4], -0.5
    expected = [*(y * x), *(C * triangle(x)), 0.5, y * y / 2]
    assert found[pressure.start : pressure.end] / pressure.scale == pytest.approx(expected)
    y, m = 100 / 160, math.exp(x @ beta[9:13])
    assert m < 1
    expected = [*((y - m) * x), *(C * m * triangle(x)), 0.5, (y - m) ** 2 / 2]
    assert found[count.start : count.end] / count.scale == pytest.approx(expected)


C = regressions.INFORMATION


def triangle(x: Floats) -> Floats:
    """The upper triangle of xxᵀ, off-diagonal entries times √2; its norm is ‖x‖²."""
    whole = math.sqrt(2) * np.outer(x, x)
    np.fill_diagonal(whole, x * x)
    found = whole[np.triu_indices(len(x))]
    assert np.linalg.norm(found) == pytest.approx(float(x @ x))
    return np.asarray(found)


@pytest.mark.parametrize("codes", [2, 3, 7])
def test_codes_are_corners_of_norm_one_that_are_equally_far_from_each_other(codes: int) -> None:
    corners = regressions.simplex(codes)
    assert corners.shape == (codes, codes - 1)
    assert np.linalg.norm(corners, axis=1) == pytest.approx(np.ones(codes))
    assert corners.sum(axis=0) == pytest.approx(np.zeros(codes - 1))
    apart = [np.linalg.norm(corners[0] - corners[k]) for k in range(1, codes)]
    assert apart == pytest.approx([apart[0]] * (codes - 1))
    assert np.abs(corners).max() <= 1 + 1e-12


def test_a_patients_records_share_a_weight_of_one_should_there_be_several() -> None:
    """The gate refuses them; the bound does not rely on it."""
    study = questions(ILL, PRESSURE)
    drawn = [(100.0, 1, 160.0, 1.0, 0)] * 3
    asked = np.zeros(request_length(study, "regression"))
    one = regressions.exact(study, patients_of(study, drawn[:1]), asked)
    assert regressions.exact(study, patients_of(study, drawn), asked) == pytest.approx(one)


def test_many_predictors_and_infinite_coefficients_give_finite_sums() -> None:
    names = [f"n{n}" for n in range(40)]
    columns = [
        {"kind": "number", "name": name, "unit": "1", "minimum": 0, "maximum": 1} for name in names
    ]
    document = questions(ILL).model_dump(mode="json")
    document["data"]["columns"] = columns
    document["statistics"]["parts"] = [ILL | {"predictors": names}]
    study = from_document(document)
    patient = Patients(np.ones((1, 40)), np.ones(1), np.zeros(1, dtype=np.int64), 1)
    for signs in ([1, -1], [1, 1], [math.nan, -1]):
        asked = np.resize(np.array(signs) * math.inf, 41)
        found = regressions.exact(study, patient, asked)
        assert np.isfinite(found).all()
        assert np.linalg.norm(found) <= regressions.NORM


@pytest.mark.parametrize("gone", [(50.0, -1, 90.0, 1.0, 0), (50.0, 1, math.nan, 1.0, 0)])
def test_a_patient_with_a_missing_value_does_not_take_part(gone: Visit) -> None:
    study = questions(ILL)
    zeros = np.zeros(request_length(study, "regression"))
    assert not regressions.exact(study, patients_of(study, [gone]), zeros).any()


# -- sensitivity -----------------------------------------------------------------------------------


@given(st.sampled_from(PARTS), one_visit_each.filter(bool), st.data())
def test_one_patient_moves_a_round_by_at_most_one_whatever_is_asked(
    parts: list[dict[str, Any]], drawn: list[Visit], data: st.DataObject
) -> None:
    study = questions(*parts)
    asked = data.draw(coefficients(study))
    gone = data.draw(st.sampled_from(sorted({visit[4] for visit in drawn})))
    with_, without = (
        regressions.exact(study, patients_of(study, who), asked)
        for who in (drawn, [visit for visit in drawn if visit[4] != gone])
    )
    assert np.isfinite(with_).all()
    assert np.linalg.norm(with_ - without) <= regressions.NORM + 1e-9


@given(st.lists(st.floats(width=64), min_size=9, max_size=9), st.sampled_from([0.0, 1.0, math.nan]))
def test_no_inputs_of_a_patient_whatever_they_are_exceed_it(
    inputs: list[float], label: float
) -> None:
    """Also what no data check would let pass: infinite, not a number, far beyond the bounds."""
    study = questions(ILL, PRESSURE, COUNT)
    width = patients_of(study, [(10.0, 0, 90.0, 1.0, 0)]).inputs.shape[1]
    values = np.resize(np.array(inputs), (1, width))
    patient = Patients(values, np.array([label]), np.zeros(1, dtype=np.int64), 1)
    asked = np.full(request_length(study, "regression"), 3.0)
    found = regressions.exact(study, patient, asked)
    assert np.isfinite(found).all()
    assert np.linalg.norm(found) <= regressions.NORM + 1e-9


def test_the_bound_of_a_linear_one_is_nearly_reached_so_little_noise_is_wasted() -> None:
    study = questions(PRESSURE)
    found = regressions.exact(study, patients_of(study, [(100.0, 1, 160.0, 1.0, 0)]), np.zeros(4))
    assert np.linalg.norm(found) >= 0.99


# -- plan, trainer, refusals -----------------------------------------------------------------------


@pytest.mark.parametrize(("parts", "purposes"), [([ILL], 1), ([BY, ILL, PRESSURE], 2)])
def test_the_plan_has_the_budget_of_the_study(parts: list[dict[str, Any]], purposes: int) -> None:
    study = questions(*(part | ({"share": 1.0}) for part in parts), retry_allowance=1)
    plan = Plan.of(study)
    assert len(plan.purposes) == purposes
    of_rounds = plan.purpose("regression")
    assert (of_rounds.planned, of_rounds.allowance) == (ROUNDS, 1)
    assert of_rounds.mechanism.length == regressions.length(study)
    assert CHARGES["regression"] == SUB_LEDGERS
    assert 0.49 < plan.epsilon <= 0.5


def test_a_regression_alone_has_no_tables() -> None:
    study = questions(ILL)
    assert study.purposes == ("regression",)
    assert statistics.length(study) == 0


def test_a_site_sums_all_of_its_patients_and_trains_nothing() -> None:
    study = questions(ILL, PRESSURE)
    drawn = [(float(age), age % 3, 90.0 + age, float(age % 2), age) for age in range(60)]
    training, held = patients_of(study, drawn[:40]), patients_of(study, drawn[40:])
    assert private_step(study, "cpu") is None
    asked = np.linspace(-1, 1, request_length(study, "regression"))
    trainer = Trainer(study, Snapshot(training, held), noise=NoNoise())
    real = (
        Plan.of(study)
        .purpose("regression")
        .mechanism.to_real(trainer.release("regression", asked, 1))
    )
    everyone = regressions.exact(study, patients_of(study, drawn), asked)
    assert real == pytest.approx(everyone, abs=2**-15)


def test_a_study_that_asks_nothing_has_no_layout() -> None:
    for of in (regressions.layout, regressions.share_of):
        with pytest.raises(StudyError, match="tiny is not a statistics study"):
            of(small_study())


# -- from sums to coefficients ---------------------------------------------------------------------


def test_steps_from_loud_sums_stay_finite_and_small() -> None:
    study = questions(ILL)
    drawn = np.random.default_rng(3)
    loud = list[fisher_scoring.Released]()
    for _ in range(ROUNDS):
        asked = fisher_scoring.next_coefficients(study, loud)
        assert np.isfinite(asked).all()
        assert np.linalg.norm(asked) <= 10 + 2.0 * ROUNDS
        sums = drawn.normal(0, 1e6, regressions.length(study))
        loud.append(fisher_scoring.Released(sums, asked, 1e12))
    (block,) = regressions.layout(study)
    assert fisher_scoring.estimate(block, loud).unknown == "noise"
