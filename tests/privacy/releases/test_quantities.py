"""Values that belong to scores are right on average, and say how well they are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flo.arrays import Floats
from flo.privacy.patients.patients import Patients
from flo.privacy.releases import concordance, evaluation, quantities
from flo.scores.metrics import Scores, weights_by_level
from flo.study.document import Study
from flo.study.features import input_names
from flo.study.models import log_odds, parameter_count
from flo.study.quantity import Quantity
from tests.flo.quantities import COUNT, NUMBER, quantity_study

STUDIES = {"count": quantity_study(COUNT), "number": quantity_study(NUMBER)}


def quantity_of(study: Study) -> Quantity:
    assert study.data.quantity is not None
    return study.data.quantity


def model(study: Study) -> Floats:
    weights = np.zeros(parameter_count(study))
    weights[:2] = 2.0, 1.0
    return weights


def true_values(study: Study, scores: Floats, rng: np.random.Generator) -> Floats:
    """Counts of Poisson's, and numbers with a normal error, that rise with the score."""
    levels = quantity_of(study).levels
    if quantity_of(study).kind == "count":
        return np.minimum(rng.poisson(np.exp(0.4 + 0.4 * scores)), levels[-1]).astype(float)
    return np.clip(4 + 1.2 * scores + rng.normal(0, 1.5, len(scores)), levels[0], levels[-1])


def patients(study: Study, count: int, seed: int) -> tuple[Patients, Floats]:
    rng, width = np.random.default_rng(seed), len(input_names(study.data))
    inputs = np.zeros((count, width))
    inputs[:, 0] = rng.uniform(-1, 1, count)
    inputs[np.arange(count), rng.integers(1, width, count)] = 1.0
    values = true_values(study, log_odds(study, model(study), inputs), rng)
    return Patients(inputs, quantity_of(study).coded(values), np.arange(count), count), values


@pytest.mark.parametrize("deviation", [0.0, 3.0])
@pytest.mark.parametrize("kind", ["count", "number"])
def test_expected_values_are_the_mean_of_new_patients(kind: str, deviation: float) -> None:
    study = STUDIES[kind]
    held, _ = patients(study, 6000, 1)
    new, values = patients(study, 6000, 2)
    sums = evaluation.sums(study, model(study), held)
    noisy = sums + np.random.default_rng(3).normal(0, deviation, sums.shape)
    found = quantities.fit(study, model(study), noisy, deviation**2)
    assert found is not None
    scores = log_odds(study, model(study), new.inputs)
    stated = found.values(quantity_of(study), scores)
    assert stated.expected.mean() == pytest.approx(values.mean(), rel=0.03)
    for third in np.array_split(np.argsort(scores), 3):
        assert stated.expected[third].mean() == pytest.approx(values[third].mean(), rel=0.12)
    assert (stated.low <= stated.expected).all()
    assert (stated.expected <= stated.high).all()
    within = (stated.tenth <= values) & (values <= stated.ninetieth)
    assert 0.75 <= within.mean() <= (0.9 if kind == "number" else 0.97)
    assert not stated.is_too_wide.any()


@pytest.mark.slow
def test_a_band_holds_what_all_patients_would_give_nine_times_in_ten() -> None:
    study, at, rng = STUDIES["number"], np.array([-1.5, 0.0, 1.5]), np.random.default_rng(6)
    everybody, _ = patients(study, 40_000, 5)
    exact = quantities.fit(
        study, model(study), evaluation.sums(study, model(study), everybody), 0.0
    )
    assert exact is not None
    truth, inside = exact.values(quantity_of(study), at).expected, np.zeros(3)
    for sample in range(100):
        held, _ = patients(study, 1500, 100 + sample)
        sums = evaluation.sums(study, model(study), held)
        found = quantities.fit(study, model(study), sums + rng.normal(0, 5, sums.shape), 25.0)
        assert found is not None
        stated = found.values(quantity_of(study), at)
        inside += (stated.low <= truth) & (truth <= stated.high)
    assert (inside / 100 >= 0.83).all(), inside


@pytest.mark.parametrize("of", [0.0, 1e3, -1e3])
def test_a_release_of_noise_alone_states_wide_bands_or_nothing(of: float) -> None:
    study = STUDIES["count"]
    sums = np.random.default_rng(7).normal(of, 20, evaluation.length(study))
    found = quantities.fit(study, model(study), sums, 400.0)
    if found is not None and not of:
        values = found.values(quantity_of(study), np.zeros(1))
        assert values.high[0] - values.low[0] > 2


def test_numbers_that_are_not_finite_state_nothing() -> None:
    study = STUDIES["count"]
    sums = np.full(evaluation.length(study), np.nan)
    assert quantities.fit(study, model(study), sums, 1.0) is None


def test_derivatives_are_those_of_the_moments() -> None:
    study = STUDIES["number"]
    held, _ = patients(study, 500, 4)
    classes, _ = evaluation.of_everyone(study, evaluation.sums(study, model(study), held), 1.0)
    positions = evaluation.Positions.of_model(study, model(study))
    moments = quantities._Moments(quantity_of(study), positions, classes, 1.0)
    theta = np.array([0.3, -0.2, 0.1, 0.4, -0.3])
    _, derivatives, covariance = moments.at(theta)
    for place, step in enumerate(1e-5 * np.eye(5)):
        slope = (moments.at(theta + step)[0] - moments.at(theta - step)[0]) / 2e-5
        assert derivatives[:, place] == pytest.approx(slope, rel=1e-4, abs=1e-3)
    assert (np.linalg.eigvalsh(covariance) > 0).all()


LABELS = (math.nan, math.inf, -math.inf, -0.1, 4.1, 1e300, 0.0, 0.3, 1.0, 2.5, 3.99, 4.0)
records = st.tuples(st.integers(0, 5), st.sampled_from(LABELS), st.floats(-1, 1))


@given(st.lists(records, min_size=1, max_size=12), st.integers(0, 5))
@settings(deadline=None, max_examples=80)
def test_a_patient_moves_the_release_by_at_most_one(
    drawn: list[tuple[int, float, float]], who: int
) -> None:
    """Whatever the records of one patient are, also between levels and beyond them."""
    study = STUDIES["count"]

    def released(some: list[tuple[int, float, float]]) -> Floats:
        names, numbers = np.unique([one for one, *_ in some], return_inverse=True)
        inputs = np.zeros((len(some), len(input_names(study.data))))
        inputs[:, 0] = [age for *_, age in some]
        inputs[:, 1] = 1.0
        labels = np.array([label for _, label, _ in some])
        return evaluation.sums(study, model(study), Patients(inputs, labels, numbers, len(names)))

    left = [one for one in drawn if one[0] != who]
    without = released(left) if left else np.zeros(evaluation.length(study))
    assert np.linalg.norm(released(drawn) - without) <= 1 + 1e-9


def brute_force(scores: Floats, weights: Floats) -> float:
    right = pairs = 0.0
    for one in range(len(scores)):
        for other in range(len(scores)):
            weight = sum(
                weights[one, high] * weights[other, low]
                for high in range(weights.shape[1])
                for low in range(high)
            )
            pairs += weight
            right += weight * (scores[one] > scores[other]) + weight * 0.5 * (
                scores[one] == scores[other]
            )
    return right / pairs


@pytest.mark.parametrize("kind", ["count", "number"])
def test_the_concordance_between_levels_is_that_of_all_pairs(kind: str) -> None:
    study = STUDIES[kind]
    held, _ = patients(study, 150, 8)
    scores = np.round(log_odds(study, model(study), held.inputs), 1)
    everyone = np.arange(150)
    test = Scores(scores, held.labels, everyone, 0 * everyone, 5, kind="quantity")
    exact = brute_force(scores, weights_by_level(held.labels, 5))
    assert test.auc == pytest.approx(exact, abs=1e-9)
    assert test.pairs == pytest.approx(
        sum(float(had.sum() * other.sum()) for had, other in test.compared)
    )
    assert 0.5 < exact < 1
    found, _ = evaluation.read(study, evaluation.sums(study, model(study), held), 0.0)
    unrounded = log_odds(study, model(study), held.inputs)
    truth = Scores(unrounded, held.labels, everyone, 0 * everyone, 5, kind="quantity").auc
    assert found.auc == pytest.approx(truth, abs=0.003 + found.bias)


@pytest.mark.slow
def test_its_interval_holds_the_exact_one_nine_times_in_ten() -> None:
    study, rng, covered = STUDIES["count"], np.random.default_rng(3), 0
    everybody, _ = patients(study, 8000, 99)
    scores = log_odds(study, model(study), everybody.inputs)
    place = np.arange(8000)
    truth = Scores(scores, everybody.labels, place, 0 * place, 5, kind="quantity").auc
    for sample in range(200):
        held, _ = patients(study, 800, 1000 + sample)
        sums = evaluation.sums(study, model(study), held)
        found, _ = evaluation.read(study, sums + rng.normal(0, 4, sums.shape), 16.0)
        covered += found.low <= truth <= found.high
    assert 0.86 <= covered / 200 <= 0.98


def test_the_expected_width_is_about_the_one_that_is_found() -> None:
    study = STUDIES["count"]
    held, _ = patients(study, 2000, 10)
    sums = evaluation.sums(study, model(study), held)
    noisy = sums + np.random.default_rng(5).normal(0, 5, sums.shape)
    found, _ = evaluation.read(study, noisy, 25.0)
    expected = concordance.expected_half_width_of_levels(2000, 5, 25.0)
    assert expected == pytest.approx((found.high - found.low) / 2, rel=0.5)


def test_words_have_no_powers_of_ten() -> None:
    one = np.array([1234.5])
    values = quantities.Values(one, one, 2 * one, 0 * one, 10 * one, np.array([False]))
    assert values.in_words("dollars") == [
        "1230 to 2470 dollars; at least eight of ten patients 0 to 12300"
    ]
    unknown = quantities.Values(one, one, 9 * one, one, 2 * one, np.array([True]))
    assert unknown.in_words("1") == ["rank only"]


def test_a_rare_count_that_is_well_known_is_stated() -> None:
    """Eight of ten patients have none, and their expected number is still known."""
    study, rng = STUDIES["count"], np.random.default_rng(11)
    held, _ = patients(study, 4000, 12)
    rare = Patients(held.inputs, (rng.random(4000) < 0.08).astype(float), held.patient, 4000)
    sums = evaluation.sums(study, model(study), rare)
    found = quantities.fit(study, model(study), sums + rng.normal(0, 3, sums.shape), 9.0)
    assert found is not None
    values = found.values(quantity_of(study), np.array([-1.0, 0.0, 1.0]))
    assert (values.tenth == 0).all()
    assert not values.is_too_wide.any()


def test_steps_add_up_to_the_expected_value_and_others_do_not() -> None:
    study = STUDIES["number"]
    held, _ = patients(study, 1500, 13)
    sums = evaluation.sums(study, model(study), held)
    noise = np.random.default_rng(14).normal(0, 5, sums.shape)
    found = quantities.fit(study, model(study), sums + noise, 25.0)
    assert found is not None
    assert found.agrees(quantity_of(study))
    turned = quantities.Foreseen(found.expected, tuple(reversed(found.steps)))
    assert not turned.agrees(quantity_of(study))
