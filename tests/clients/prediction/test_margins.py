"""Margins of each outcome: their likelihood, their derivatives, and the risks that they state."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit, softmax

from flo.arrays import Floats
from flo.clients.prediction import margins
from flo.clients.prediction.linear_fit import Records, margins_of, plain, ridge
from flo.clients.prediction.margins import Observed
from flo.study.classes import Classes
from flo.study.outcome import Outcome
from flo.study.quantity import Quantity
from flo.study.time_to_event import TimeToEvent

TIMES = TimeToEvent(
    kind="time-to-event", time="days", unit="days", horizons=(10, 30, 60), expected=0.5
)
VISITS = Quantity(kind="count", unit="visits", levels=(0, 1, 2, 4, 8))
WEIGHT = Quantity(kind="number", unit="kg", levels=(-10, 0, 30))
GRADES = Classes(kind="classes", classes=("mild", "severe", "worst"))
OUTCOMES = [None, TIMES, VISITS, WEIGHT, GRADES]
NAMED = ["yes or no", "times", "count", "number", "classes"]
each_outcome = pytest.mark.parametrize("outcome", OUTCOMES, ids=NAMED)


def labels_of(outcome: Outcome | None, count: int, generator: np.random.Generator) -> Floats:
    """Codes of every kind, also between two levels."""
    codes = 2 if outcome is None else outcome.codes
    if isinstance(outcome, Quantity):
        return np.asarray(generator.uniform(0, codes - 1, count))
    return generator.integers(0, codes, count).astype(np.float64)


def some_records(outcome: Outcome | None, count: int = 40, seed: int = 1) -> tuple[Records, Floats]:
    """Records with three features, and a model of any weights."""
    generator = np.random.default_rng(seed)
    labels = labels_of(outcome, count, generator)
    records = Records.of(outcome, generator.normal(size=(count, 3)), labels)
    size = 3 * margins.slopes(outcome) + margins.count(outcome)
    return records, generator.normal(size=size)


# -- the likelihood --------------------------------------------------------------------------------


def test_the_loss_of_times_is_that_of_whoever_was_there() -> None:
    """By hand: through a period without the event, with it, and last seen within it (one half)."""
    at, others = np.array([-1.0, 0.5, 2.0]), np.full(20, 6.0)  # followed through all periods
    hazard = expit(at)
    parts = [
        ((5.0, 1.0), hazard[0]),
        ((20.0, 1.0), (1 - hazard[0]) * hazard[1]),
        ((20.0, 0.0), (1 - hazard[0]) * (1 - hazard[1]) ** 0.5),
        ((70.0, 1.0), np.prod(1 - hazard)),
    ]
    alone = Observed.of(TIMES, others).loss(np.tile(at, (20, 1)))
    for (time, event), likelihood in parts:
        code = TIMES.coded(np.array([time]), np.array([event]))
        both = Observed.of(TIMES, np.append(others, code)).loss(np.tile(at, (21, 1)))
        assert both - alone == pytest.approx(-np.log(likelihood))


def test_nobody_counts_in_a_period_to_whose_end_this_hospital_did_not_follow() -> None:
    """All were last seen at 400 days of a first year, and at one horizon exactly."""
    for last_seen in (30.0, 45.0):
        times = np.concatenate([np.linspace(1, 29, 30), np.full(60, last_seen)])
        codes = TIMES.coded(times, (np.arange(90) < 30).astype(float))
        assert TIMES.known_periods(codes) == 2
        told = Observed.of(TIMES, codes)
        assert told.there[:, 2].tolist() == [0.0] * 90
        assert told.had[:, 2].sum() == 0
    everyone = TIMES.coded(np.full(40, 59.0), np.ones(40))
    assert TIMES.known_periods(everyone) == 3, "all died, so nobody was lost"


def test_the_loss_of_classes_is_minus_the_log_of_the_risk_of_the_class_one_has() -> None:
    at = np.array([[0.3, -1.0, 2.0]])
    for code, risk in enumerate(softmax(at[0])):
        assert Observed.of(GRADES, np.array([float(code)])).loss(at) == pytest.approx(-np.log(risk))


def test_a_count_between_two_levels_reaches_a_part_of_the_step() -> None:
    told = Observed.of(VISITS, VISITS.coded(np.array([0.0, 3.0, 8.0])))
    assert told.had.tolist() == [[0, 0, 0, 0], [1, 1, 0.5, 0], [1, 1, 1, 1]]
    assert (told.there == 1).all()


@each_outcome
def test_derivatives_are_those_of_the_loss(outcome: Outcome | None) -> None:
    records, model = some_records(outcome)
    at, step, first = records.margins(model), 1e-5, np.arange(40) == 0
    error = records.observed.error(at)
    own, joint = records.observed.information(at)
    known = own[:, :, None] * np.eye(at.shape[1]) - joint[:, :, None] * joint[:, None]
    for place in range(at.shape[1]):
        moved = np.eye(at.shape[1])[place] * step
        both = [records.observed[first].loss(at[:1] + sign * moved) for sign in (1, -1)]
        assert error[0, place] == pytest.approx((both[0] - both[1]) / (2 * step), abs=1e-6)
        slopes = [records.observed.error(at + sign * moved) for sign in (1, -1)]
        expected = (slopes[0] - slopes[1]) / (2 * step)
        np.testing.assert_allclose(known[:, place], expected, atol=1e-6)


# -- what margins state ----------------------------------------------------------------------------


def test_risks_at_horizons_follow_from_hazards_and_never_fall() -> None:
    at = np.random.default_rng(2).normal(size=(50, 3))
    risks = margins.stated(TIMES, at)
    survival = np.cumprod(1 - expit(at), axis=1)
    np.testing.assert_allclose(risks, 1 - survival, atol=1e-12)
    assert (np.diff(risks, axis=1) >= 0).all()


def test_risks_of_classes_add_up_to_one_and_the_expected_value_weighs_steps_by_their_length() -> (
    None
):
    at = np.random.default_rng(2).normal(size=(50, 3))
    np.testing.assert_allclose(margins.stated(GRADES, at).sum(1), 1)
    steps = np.array([[0.0, 1.0, -1.0, 2.0]])
    expected = expit(steps) @ np.array([1, 1, 2, 4])
    assert VISITS.at_share(margins.stated(VISITS, steps)[0]) == pytest.approx(expected[0])


@each_outcome
def test_who_has_more_of_what_is_foreseen_ranks_higher(outcome: Outcome | None) -> None:
    at = np.array([[0.0], [1.0]]) + np.zeros(margins.count(outcome))
    if isinstance(outcome, Classes):
        at = np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
        ranked = margins.ranked(outcome, at)
        assert ranked.shape == (2, 3)
        assert ranked[1, 0] > ranked[0, 0]
        assert ranked[1, 1] < ranked[0, 1]
        return
    low, high = margins.ranked(outcome, at)
    assert low < high
    assert (margins.stated(outcome, at)[0] < margins.stated(outcome, at)[1]).all()


# -- fits ------------------------------------------------------------------------------------------


@each_outcome
def test_newtons_minimum_is_that_of_a_method_without_curvature(outcome: Outcome | None) -> None:
    records, start = some_records(outcome, 200)
    middle, _ = margins.usual_places(outcome)
    nothing = np.concatenate([np.zeros(3 * margins.slopes(outcome)), middle])
    found = ridge(records, 5.0, nothing, start)
    np.testing.assert_allclose(plain(records, 5.0), found, atol=2e-3)


@each_outcome
def test_no_neighbouring_model_has_a_lower_loss(outcome: Outcome | None) -> None:
    records, centre = some_records(outcome, 200)
    found = ridge(records, 5.0, centre, centre)
    _, own = margins.usual_places(outcome)
    split = len(found) - len(own)

    def loss(model: Floats) -> float:
        apart = model - centre
        places = apart[split:]
        drawn = 2.5 * (apart[:split] ** 2).sum() + places @ own @ places / 2
        return records.loss(model) + float(drawn)

    generator = np.random.default_rng(3)
    for _ in range(50):
        assert loss(found) <= loss(found + generator.normal(scale=0.05, size=len(found))) + 1e-9


@each_outcome
def test_on_average_risks_are_those_observed_at_home(outcome: Outcome | None) -> None:
    """Places are nearly free, so the means of many records are met."""
    records, _ = some_records(outcome, 4000)
    told, model = records.observed, plain(records, 5.0)
    stated = margins.stated(outcome, margins_of(outcome, model, records.features)).mean(0)
    if isinstance(outcome, TimeToEvent):
        generator = np.random.default_rng(1)
        labels = labels_of(outcome, 4000, generator)
        np.testing.assert_allclose(stated, outcome.observed(labels), atol=0.01)
    elif isinstance(outcome, Quantity):
        shares = told.had.mean(0) @ outcome.lengths / outcome.lengths.sum()
        assert stated == pytest.approx(shares, abs=0.005)
    else:
        np.testing.assert_allclose(stated, told.had.mean(0), atol=0.005)
