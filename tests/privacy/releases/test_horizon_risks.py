"""Risks at horizons are right on average, and say how well they are known."""

from __future__ import annotations

import numpy as np
import pytest

from flo.arrays import Floats
from flo.privacy.patients.patients import Patients
from flo.privacy.releases import evaluation, horizon_risks
from flo.study.document import Study, from_document
from flo.study.features import input_names
from flo.study.models import log_odds, parameter_count
from tests.flo.times import drawn_times, times_document

HAZARDS = np.array([0.05, 0.2, 0.1])


def study() -> Study:
    return from_document(times_document())


def patients(count: int, weights: Floats, strength: float, seed: int) -> Patients:
    """Patients whose true log odds are ``strength`` times the model's scores, and the periods'."""
    rng = np.random.default_rng(seed)
    asked = study()
    width = len(input_names(asked.data))
    inputs = np.zeros((count, width))
    inputs[:, 0] = rng.uniform(-1, 1, count)
    inputs[np.arange(count), rng.integers(1, width, count)] = 1.0
    scores = strength * log_odds(asked, weights, inputs)
    codes = drawn_times(scores, HAZARDS, rng)
    return Patients(inputs, codes, np.arange(count), count)


def model() -> Floats:
    weights = np.zeros(parameter_count(study()))
    weights[:2] = 2.0, 1.0
    return weights


@pytest.mark.parametrize(("strength", "deviation"), [(0.7, 0.0), (0.7, 3.0), (1.0, 10.0)])
def test_predicted_risks_are_the_observed_ones_of_new_patients(
    strength: float, deviation: float
) -> None:
    held, new = (patients(6000, model(), strength, seed) for seed in (1, 2))
    sums = evaluation.sums(study(), model(), held)
    noisy = sums + np.random.default_rng(3).normal(0, deviation, sums.shape)
    curves = horizon_risks.fit(study(), model(), noisy, deviation**2)
    outcome = study().data.times
    assert outcome is not None
    observed = outcome.observed(new.labels)
    scores = log_odds(study(), model(), new.inputs)
    for curve, risk in zip(curves, observed, strict=True):
        assert curve.of(scores)[0].mean() == pytest.approx(risk, rel=0.05 + deviation / 100)
    risks = np.array([curve.of(scores)[0] for curve in curves])
    assert (np.diff(risks, axis=0) > 0).all(), "a later horizon has a higher risk"


@pytest.mark.slow
def test_a_band_holds_the_true_risk_nine_times_in_ten() -> None:
    """Of 200 evaluations, at three scores and each horizon."""
    deviation, at = 5.0, np.array([-1.5, 0.0, 1.5])
    log_hazards = np.log(HAZARDS / (1 - HAZARDS))
    truth = np.array(
        [1 - np.prod(1 / (1 + np.exp(log_hazards[: h + 1, None] + at)), axis=0) for h in range(3)]
    )
    rng, inside = np.random.default_rng(6), np.zeros((3, 3))
    for sample in range(200):
        sums = evaluation.sums(study(), model(), patients(1500, model(), 1.0, 100 + sample))
        noisy = sums + rng.normal(0, deviation, sums.shape)
        for horizon, curve in enumerate(horizon_risks.fit(study(), model(), noisy, deviation**2)):
            _, low, high = curve.of(at)
            inside[horizon] += (low <= truth[horizon]) & (truth[horizon] <= high)
    assert (inside / 200 >= 0.85).all(), inside


@pytest.mark.parametrize("of", [0.0, 1e3, -1e3])
def test_a_release_of_noise_alone_states_wide_risks_or_none(of: float) -> None:
    sums = np.random.default_rng(7).normal(of, 20, evaluation.length(study()))
    for curve in horizon_risks.fit(study(), model(), sums, 400.0):
        _, low, high = curve.of(np.zeros(1))
        assert high[0] - low[0] > 0.2 or of


def test_numbers_that_are_not_finite_tell_no_risks() -> None:
    sums = np.full(evaluation.length(study()), np.nan)
    assert horizon_risks.fit(study(), model(), sums, 1.0) == ()
