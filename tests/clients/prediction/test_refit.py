"""The refit at home: its optimum, its cross-validation by patient, and what it may depend on."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit

from flo.arrays import Floats
from flo.clients.prediction import refit as rules
from flo.clients.prediction.linear_fit import Records, ridge
from flo.clients.prediction.refit import TooFewPatients, refit
from flo.privacy.patients.patients import Patients

PUBLISHED = np.array([0.8, -0.4, 0.1, -0.3])


def patients(count: int, truth: Floats, seed: int = 1, records: int = 1) -> Patients:
    """Patients whose labels follow a logistic law ``truth`` (4,)."""
    generator = np.random.default_rng(seed)
    inputs = generator.normal(size=(count * records, 3))
    labels = generator.random(count * records) < expit(with_intercept(inputs) @ truth)
    return Patients(inputs, labels.astype(float), np.arange(count * records) // records, count)


def with_intercept(features: Floats) -> Floats:
    return np.hstack([features, np.ones((len(features), 1))])


def fitted(some: Patients) -> rules.Refit:
    return refit(some.inputs, some, PUBLISHED)


@pytest.mark.parametrize("penalty", [3.0, 300.0])
def test_the_ridge_is_at_the_minimum_that_another_method_finds(penalty: float) -> None:
    some = patients(200, np.array([1.0, 1.0, -1.0, 0.5]))
    inputs, start = with_intercept(some.inputs), np.zeros(4)

    def loss(weights: Floats) -> float:
        score = inputs @ weights
        apart = (weights - PUBLISHED)[:-1]
        return float(
            np.logaddexp(0, score).sum() - some.labels @ score + penalty / 2 * apart @ apart
        )

    other = minimize(loss, start, method="Nelder-Mead", options={"maxiter": 20_000, "xatol": 1e-8})
    found = ridge(Records.of(None, some.inputs, some.labels), penalty, PUBLISHED, start)
    assert found == pytest.approx(other.x, abs=2e-4)


def test_a_large_penalty_leaves_the_published_weights_and_moves_the_intercept_only() -> None:
    some = patients(400, np.array([-1.0, 1.0, 0.0, 2.0]))
    records = Records.of(None, some.inputs, some.labels)
    found = ridge(records, 1e9, PUBLISHED, PUBLISHED)
    assert found[:-1] == pytest.approx(PUBLISHED[:-1], abs=1e-4)
    assert expit(with_intercept(some.inputs) @ found).mean() == pytest.approx(some.labels.mean())


def test_patients_who_follow_the_published_law_keep_it() -> None:
    found = fitted(patients(300, PUBLISHED))
    assert found.finished == pytest.approx(PUBLISHED, abs=0.25)
    assert found.penalty > min(rules.PENALTIES)


def test_many_patients_who_follow_another_law_replace_it() -> None:
    truth = np.array([-1.0, 0.5, 0.7, 0.2])
    found = fitted(patients(4000, truth))
    assert found.finished == pytest.approx(truth, abs=0.15)
    assert found.penalty == min(rules.PENALTIES)
    assert found.kept < 1e-6


def test_risks_that_are_too_high_everywhere_are_lowered() -> None:
    truth = PUBLISHED - np.array([0.0, 0.0, 0.0, 1.5])
    some = patients(200, truth)
    risk = expit(with_intercept(some.inputs) @ fitted(some).calibrated)
    assert risk.mean() == pytest.approx(some.labels.mean(), abs=1e-4)


def test_the_result_does_not_depend_on_chance_or_on_the_order_of_records() -> None:
    some = patients(60, PUBLISHED, records=3)
    assert np.array_equal(fitted(some).finished, fitted(some).finished)
    other = np.random.default_rng(3).permutation(len(some.labels))
    mixed = Patients(some.inputs[other], some.labels[other], some.patient[other], some.count)
    assert fitted(mixed).finished == pytest.approx(fitted(some).finished, abs=1e-6)


def test_a_patients_records_are_never_on_both_sides_of_a_fold() -> None:
    some = patients(50, PUBLISHED, records=4)
    tested = np.zeros(len(some.labels))
    for train, test in rules._splits(some):
        assert not set(some.patient[train]) & set(some.patient[test])
        tested += test
    assert set(tested) == {2.0}, "each record is tested once in each of two repetitions"


def test_a_hospital_with_too_few_of_a_class_is_refused() -> None:
    some = patients(40, PUBLISHED)
    few = Patients(some.inputs, (np.arange(40) < 4).astype(float), some.patient, 40)
    with pytest.raises(TooFewPatients, match="5 of each"):
        fitted(few)
