"""The refit at home: its optimum, its cross-validation by patient, and what it may depend on."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit, softmax

from flo.arrays import Floats
from flo.clients.prediction import refit as rules
from flo.clients.prediction.linear_fit import Records, margins_of, ridge
from flo.clients.prediction.margins import Observed, count, stated, usual_places
from flo.clients.prediction.refit import TooFewPatients, refit
from flo.privacy.patients.patients import Patients
from flo.study.classes import Classes
from flo.study.outcome import Outcome
from flo.study.quantity import Quantity
from flo.study.time_to_event import TimeToEvent
from tests.clients.prediction.test_margins import GRADES, TIMES, VISITS

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


# -- other outcomes --------------------------------------------------------------------------------

LAWS: list[tuple[Outcome, Floats]] = [
    (TIMES, np.array([0.8, -0.4, 0.1, -1.0])),
    (VISITS, np.array([0.8, -0.4, 0.1, -0.3])),
    (GRADES, np.array([[0.8, 0.0, -0.5], [-0.4, 0.3, 0.0], [0.1, 0.0, 0.0], [0.5, 0.0, -0.5]])),
]
each_law = pytest.mark.parametrize(("outcome", "law"), LAWS, ids=["times", "count", "classes"])


def of_outcome(outcome: Outcome, law: Floats, count: int, seed: int = 1) -> Patients:
    """Patients whose labels follow ``law``, as of a published last layer."""
    generator = np.random.default_rng(seed)
    inputs = generator.normal(size=(count, 3))
    places, _ = usual_places(outcome)
    drawn = generator.random((count, 1))
    at = with_intercept(inputs) @ law
    if isinstance(outcome, Classes):
        labels = (drawn > np.cumsum(softmax(at, axis=1), axis=1)).sum(1).astype(np.float64)
    elif isinstance(outcome, TimeToEvent):
        survival = np.cumprod(1 - expit(at[:, None] + places), axis=1)
        passed = (drawn < survival).sum(1)
        labels = np.where(passed == outcome.periods, 2.0 * passed, 2.0 * passed + 1)
    else:
        labels = (drawn < expit(at[:, None] + places)).sum(1).astype(np.float64)
    return Patients(inputs, labels, np.arange(count), count)


@each_law
def test_another_outcomes_law_is_kept_where_patients_follow_it(
    outcome: Outcome, law: Floats
) -> None:
    some = of_outcome(outcome, law, 600)
    found = refit(some.inputs, some, law, outcome)
    slopes = found.finished[: -count(outcome)].reshape(3, -1)
    published = law[:-1].reshape(3, -1)
    if isinstance(outcome, Classes):  # a number that all classes share is no part of the law
        slopes, published = (one - one.mean(1, keepdims=True) for one in (slopes, published))
    np.testing.assert_allclose(slopes, published, atol=0.3)
    assert found.penalty > min(rules.PENALTIES)


@pytest.mark.slow
@each_law
def test_many_patients_replace_another_outcomes_law(outcome: Outcome, law: Floats) -> None:
    some = of_outcome(outcome, -law, 4000)
    found = refit(some.inputs, some, law, outcome)
    slopes, truth = found.finished[: -count(outcome)].reshape(3, -1), -law[:-1].reshape(3, -1)
    if isinstance(outcome, Classes):
        slopes, truth = (one - one.mean(1, keepdims=True) for one in (slopes, truth))
    np.testing.assert_allclose(slopes, truth, atol=0.2)


@each_law
def test_another_outcome_is_calibrated_at_a_hospital_of_other_levels(
    outcome: Outcome, law: Floats
) -> None:
    """Without any refit, what is stated on average is what is observed here."""
    other = law.copy()
    other[-1] = other[-1] + 1.0 if law.ndim == 1 else np.array([-1.0, 0.5, 1.0])
    some = of_outcome(outcome, other, 800)
    stated_ = stated(
        outcome, margins_of(outcome, refit(some.inputs, some, law, outcome).calibrated, some.inputs)
    ).mean(0)
    told = Observed.of(outcome, some.labels).had.mean(0)
    if isinstance(outcome, TimeToEvent):
        told = outcome.observed(some.labels)
    elif isinstance(outcome, Quantity):
        told = np.array([told @ outcome.lengths / outcome.lengths.sum()])
    np.testing.assert_allclose(stated_, told, atol=0.02)


def test_a_period_without_events_and_an_absent_class_have_a_risk() -> None:
    some = of_outcome(*LAWS[0], 300)
    kept = some.labels != 3  # nobody has the event in the second period
    here = Patients(some.inputs[kept], some.labels[kept], np.arange(kept.sum()), int(kept.sum()))
    found = refit(here.inputs, here, LAWS[0][1], TIMES).finished
    risks = stated(TIMES, margins_of(TIMES, found, here.inputs))
    assert (risks[:, 1] - risks[:, 0] > 1e-4).all()

    some = of_outcome(*LAWS[2], 300)
    kept = some.labels != 1
    here = Patients(some.inputs[kept], some.labels[kept], np.arange(kept.sum()), int(kept.sum()))
    found = refit(here.inputs, here, LAWS[2][1], GRADES).finished
    assert (stated(GRADES, margins_of(GRADES, found, here.inputs))[:, 1] > 1e-4).all()


@pytest.mark.parametrize(
    ("outcome", "labels", "said"),
    [
        (TIMES, [1] * 4 + [6] * 36, "4 had the event by the last horizon and 36 did not"),
        (VISITS, [0] * 37 + [2.5] * 3, "3 are above the first level and 40 below the last"),
        (GRADES, [0] * 33 + [1] * 4 + [2] * 3, "33 and 4 are of the two largest classes"),
    ],
    ids=["times", "count", "classes"],
)
def test_too_few_patients_of_another_outcome_are_refused(
    outcome: Outcome, labels: list[float], said: str
) -> None:
    inputs = np.random.default_rng(1).normal(size=(40, 3))
    few = Patients(inputs, np.array(labels, dtype=np.float64), np.arange(40), 40)
    law = next(law for one, law in LAWS if one is outcome)
    with pytest.raises(TooFewPatients, match=said):
        refit(few.inputs, few, law, outcome)
