"""The noise that a card states is that of models which are trained again."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from flo.clients.records.snapshot import Snapshot
from flo.lab.folds import Fold, within
from flo.lab.hospitals import enrol
from flo.lab.in_the_clear import round_in_the_clear, trainers_of
from flo.lab.simulation import load_hospitals
from flo.privacy.releases import model_noise, second_moments, stand_ins
from flo.server.rounds.checkpoint import from_bytes, to_bytes
from flo.server.rounds.known_noise import known_noise
from flo.server.rounds.state import RunState
from flo.study.columns import CategoryColumn
from flo.study.document import Study, from_document
from flo.study.features import input_names, names_of
from flo.study.loading import load
from flo.study.models import parameter_count
from tests.builders import small_study
from tests.paths import EXAMPLES

HEART = load(EXAMPLES / "heart" / "study.toml")
KEY = hashlib.sha256(b"noise").digest()
_AGAIN = 40


def trained(study: Study, times: int) -> list[RunState]:
    """States at the end of training of the same patients, each with noise of its own."""
    hospitals = load_hospitals(study, None, "patient_id")
    aside = {name: within(one, KEY, 0, 0.3) for name, one in hospitals.items()}
    fold = Fold({name: Snapshot.divided(one, aside[name]) for name, one in hospitals.items()})
    enrolled, _ = enrol(study)
    trainers, found = trainers_of(enrolled, fold), list[RunState]()
    for _ in range(times):
        state = RunState.start(enrolled)
        while state.phase != "evaluation":
            state = round_in_the_clear(enrolled, trainers, state)
        found.append(state)
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"algorithm": "least-squares", "steps": 1, "clip": 0.25, "learning_rate": 0, "momentum": 0},
    ],
    ids=["whitened", "least squares"],
)
def test_it_is_the_deviation_of_models_that_are_trained_again(settings: dict[str, Any]) -> None:
    """On real patients, of whom the stated noise knows only what was released."""
    study = HEART.with_mechanism(**settings)
    states = trained(study, _AGAIN)
    real = np.array([state.model for state in states]).std(axis=0, ddof=1)
    for state in states[:3]:
        found = known_noise(study, state)
        assert found is not None
        stated = np.sqrt(np.diag(found.covariance))
        ratios = stated / real
        assert 0.8 < np.median(ratios) < 1.25
        assert ((ratios > 0.5) & (ratios < 2)).all(), dict(
            zip([*input_names(HEART.data), "intercept"], ratios, strict=True)
        )


@pytest.mark.slow
def test_a_network_has_it_while_it_is_nearly_linear() -> None:
    """One that bends has more noise than logistic regression, which nobody knows."""
    study = from_document(
        HEART.model_dump(mode="json") | {"model": {"kind": "mlp", "hidden": [16]}}
    )
    (state,) = trained(study, 1)
    found = known_noise(study, state)
    assert found is not None
    d = second_moments.width(study)
    assert found.covariance.shape == (d, d)
    bent = replace(state, weights=20 * state.weights)
    assert known_noise(study, bent) is None
    far = study.with_mechanism(momentum=0.9, steps=30, learning_rate=8.0)
    assert model_noise.unknown_reason(far) == "its network takes steps of more than 800 together"
    assert model_noise.unknown_reason(HEART.with_mechanism(momentum=0.9, steps=30)) is None


@pytest.mark.slow
def test_it_survives_a_restart_and_is_the_same_for_the_same_releases() -> None:
    (state,) = trained(HEART, 1)
    found, again = known_noise(HEART, state), known_noise(HEART, from_bytes(to_bytes(state)))
    assert found is not None
    assert again is not None
    assert found.covariance.tobytes() == again.covariance.tobytes()
    assert found.average.tobytes() == again.average.tobytes()
    triangle = np.asarray(model_noise.packed(found.covariance), dtype=np.float64)
    assert np.abs(model_noise.unpacked(triangle) - found.covariance).max() < 1e-12
    assert model_noise.fits(HEART, triangle.tolist(), found.average.tolist(), found.deviation)


@pytest.mark.slow
def test_it_is_not_stated_if_other_hospitals_took_part_in_a_round() -> None:
    for study in (HEART, HEART.with_mechanism(momentum=0.3, steps=6)):
        (state,) = trained(study, 1)
        assert state.released_by == tuple(sorted(hospital.id for hospital in HEART.hospitals))
        assert known_noise(study, state) is not None
        assert known_noise(study, replace(state, released_by=())) is None


@pytest.mark.slow
def test_it_is_not_stated_of_a_training_that_was_cut_short() -> None:
    """Its model is not the mean of rounds that the noise would be of."""
    (state,) = trained(HEART, 1)
    assert known_noise(HEART, state) is not None
    assert known_noise(HEART, replace(state, phase="training")) is None


@pytest.mark.parametrize("wrong", ["short", "negative", "no covariance", "average", "alone"])
def test_what_is_no_covariance_of_the_model_is_refused(wrong: str) -> None:
    mechanism = {"algorithm": "whitened", "steps": 4, "clip": 0.2, "learning_rate": 4}
    study = small_study().with_mechanism(**mechanism)
    p = parameter_count(study)
    good = model_noise.packed(np.eye(p)).tolist()
    assert model_noise.fits(study, good, [0.0] * (p - 1), 0.1)
    assert model_noise.fits(study, None, None, None)
    assert model_noise.fits(study, [0.0] * len(good), [0.0] * (p - 1), 0.0)
    noise: list[float] | None = {
        "short": good[:-1],
        "negative": model_noise.packed(-np.eye(p)).tolist(),
        "no covariance": model_noise.packed(
            np.eye(p) + 2 * np.eye(p, k=1) + 2 * np.eye(p, k=-1)
        ).tolist(),
        "average": good,
        "alone": None,
    }[wrong]
    assert not model_noise.fits(study, noise, [0.0] * (p - (2 if wrong == "average" else 1)), 0.1)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"schema_version": 4, "version": 2, "continues": {"models": ["ab" * 32]}},
            "it continues other models",
        ),
    ],
    ids=["continues"],
)
def test_noise_that_nobody_knows_is_not_stated(changes: dict[str, Any], reason: str) -> None:
    mechanism = {"algorithm": "whitened", "steps": 4, "clip": 0.2, "learning_rate": 4}
    assert model_noise.unknown_reason(small_study().with_mechanism(**mechanism)) is None
    network = small_study(model={"kind": "mlp", "hidden": [3]})
    assert model_noise.unknown_reason(network.with_mechanism(**mechanism)) is None
    assert "whitened inputs" in str(model_noise.unknown_reason(network))
    study = small_study(**changes).with_mechanism(**mechanism)
    assert model_noise.unknown_reason(study) == reason
    assert "whitened inputs" in str(model_noise.unknown_reason(small_study()))


def test_stand_ins_have_codes_as_often_as_the_released_moments_say() -> None:
    study = small_study()
    d = second_moments.width(study)
    shares = np.array([0.2, 0.6, 0.15, 0.001, 0.249])  # age; ward = a, b, c, missing
    mean = np.outer([*shares, 1.0], [*shares, 1.0])
    mean[np.arange(1, d - 1), np.arange(1, d - 1)] = shares[1:]
    mean[0, 0] = 0.2**2 + 0.01
    rows = stand_ins.stand_ins(study, mean, 1000)
    np.testing.assert_allclose(rows[:, 1:5].mean(axis=0), shares[1:], atol=0.002)
    assert (rows[:, 1:5].sum(axis=1) == 1).all(), "everybody has one code"
    assert rows[:, 0].mean() == pytest.approx(0.2, abs=0.02)
    assert np.abs(rows[:, 0]).max() <= 1
    np.testing.assert_array_equal(rows, stand_ins.stand_ins(study, mean, 1000))


def test_moments_of_noise_alone_give_stand_ins_all_the_same() -> None:
    """Noise may leave no share above zero, and a matrix that no patients have."""
    study = small_study()
    d = second_moments.width(study)
    mean = -0.2 * np.ones((d, d))
    mean[-1, -1] = 1.0
    rows = stand_ins.stand_ins(study, mean, 100)
    assert np.isfinite(rows).all()
    assert (rows[:, 1:5].sum(axis=1) == 1).all()


@pytest.mark.parametrize("name", ["heart", "support2"])
def test_the_average_patient_is_that_of_the_patients_as_far_as_noise_lets_one_know(
    name: str,
) -> None:
    """Nearer to the patients' mean than the prior, within the stated noise, and a patient."""
    study = load(EXAMPLES / name / "study.toml")
    hospitals = load_hospitals(study, None, "patient_id")
    inputs = np.concatenate([one.inputs for one in hospitals.values()])
    true = np.append(inputs.mean(axis=0), 1.0)
    d, scale = second_moments.width(study), second_moments.squared_scale(study)
    patients, variance = float(len(inputs)), 1e-4 * len(inputs) ** 2 / scale**2
    whole = np.hstack([inputs, np.ones((len(inputs), 1))])
    total = (whole.T @ whole)[np.triu_indices(d)] * second_moments.scales(d) / scale
    noise = np.random.default_rng(2).normal(0, np.sqrt(variance), len(total))
    known = stand_ins.moments(study, total + noise, variance, patients)
    assert known.deviation == pytest.approx(0.01 / np.sqrt(2), rel=0.05)
    assert known.share == pytest.approx(1, abs=0.05)
    assert np.abs(known.mean[-1] - true).max() < 5 * known.deviation
    average, left = model_noise._average(study, known)
    assert left == pytest.approx(known.deviation, rel=0.01), "little noise leaves nothing to gain"
    for code_sum in _code_sums(study, average):
        assert code_sum == pytest.approx(1.0)
    hidden = stand_ins.moments(study, 0 * total, 1e6 * variance, patients)
    average, left = model_noise._average(study, hidden)
    assert np.isfinite(average).all(), "noise may leave nobody"
    assert left >= hidden.deviation / 2


def _code_sums(study: Study, average: Any) -> list[float]:
    found, start = list[float](), 0
    for column in study.data.columns:
        own = slice(start, start + len(names_of(column)))
        start = own.stop
        if isinstance(column, CategoryColumn) and len(column.codes) > 2:
            found.append(float(average[own].sum()))
    return found


def test_a_model_is_published_even_if_its_noise_cannot_be_computed() -> None:
    """Least squares of so few patients and so much noise that nobody seems to be there."""
    settings = {"algorithm": "least-squares", "steps": 1, "clip": 0.25, "epsilon": 0.03}
    study = HEART.with_mechanism(**settings, learning_rate=0, momentum=0)
    (state,) = trained(study, 1)
    length = second_moments.length(study)
    for last in (-1.0, 0.0, 1e-300, float("nan")):
        released = state.released.copy()
        released[length - 1] = last
        noise = known_noise(study, replace(state, released=released))
        assert noise is None or np.isfinite(noise.average).all()
    assert known_noise(study, replace(state, released=state.released[:5])) is None
