"""Training on whitened inputs: what a patient can move, and what comes out of it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from flo.clients.data_process.trainer import Trainer, private_step
from flo.clients.records.snapshot import Snapshot
from flo.errors import StudyError
from flo.privacy.accounting.accounting import epsilon_of
from flo.privacy.accounting.plan import Plan
from flo.privacy.mechanisms.mechanisms import FullBatchSum
from flo.privacy.patients.patients import Patients
from flo.privacy.releases import second_moments, whitening
from flo.protocol.messages import LARGEST_WEIGHT
from flo.server.rounds import checkpoint
from flo.server.rounds.state import RunState
from flo.study.document import MOST_SQUARED_INPUTS, Study, from_document
from flo.study.models import (
    OUTPUT_NORM,
    initial_weights,
    layers,
    log_odds,
    parameter_count,
    request_length,
)
from flo.study.parameters import Vector
from flo.study.synthetic import made_up_inputs
from tests.builders import HOSPITALS, WHITENED, NoNoise, small_study, study_document
from tests.privacy.releases.made_up import D, alone, made_up, without
from tests.secure_sums import advance


def whitened_study(**mechanism: Any) -> Study:
    return small_study().with_mechanism(**{**WHITENED, **mechanism})


STUDY = whitened_study()
MLP = small_study(
    model={"kind": "mlp", "hidden": [8, 4]}, mechanism=study_document()["mechanism"] | WHITENED
)
MANY = from_document(
    STUDY.model_dump(mode="json")
    | {"data": {**STUDY.data.model_dump(mode="json"), "records_per_patient": "many"}}
)
ANY_NUMBER = st.one_of(
    st.floats(-1, 1), st.sampled_from([math.nan, math.inf, -math.inf, 1e300, -1e200])
)
STEP = private_step(MANY, "cpu")
NOBODY = Patients(np.zeros((0, D - 1)), np.zeros(0), np.zeros(0, dtype=np.int64), 0)


# -- what one patient can move ---------------------------------------------------------------------


@given(rows=arrays(np.float64, (6, D - 1), elements=ANY_NUMBER))
def test_one_patient_moves_the_second_moments_by_at_most_one(rows: Any) -> None:
    everyone = Patients(rows, np.zeros(6), np.array([0, 0, 1, 2, 2, 3]), 4)
    whole = second_moments.clipped_sum(MANY, everyone)
    assert np.isfinite(whole).all()
    for gone in range(4):
        rest = second_moments.clipped_sum(MANY, without(everyone, gone))
        assert np.linalg.norm(whole - rest) <= second_moments.MOST * (1 + 2**-10)


def written_out(study: Study, patient: Patients) -> list[float]:
    """u of one patient, by a loop over their records and over pairs of inputs."""
    r2, found = 1 + len(study.data.columns), [0.0] * second_moments.length(study)
    for record in patient.inputs:
        x = [*map(float, record), 1.0]
        products = [
            x[i] * x[j] / r2 * (1 if i == j else math.sqrt(2))
            for i in range(D)
            for j in range(i, D)
        ]
        found = [before + product for before, product in zip(found, products, strict=True)]
    return found


@pytest.mark.parametrize("records", [1, 3, 64])
def test_the_second_moments_are_everyones_products_clipped(records: int) -> None:
    everyone = made_up(150, records=records)
    expected = np.zeros(second_moments.length(MANY))
    for one in range(everyone.count):
        part = np.array(written_out(MANY, alone(everyone, one)))
        expected += part * min(1.0, 1 / float(np.linalg.norm(part)))
    assert second_moments.clipped_sum(MANY, everyone) == pytest.approx(expected, rel=1e-9)


def test_a_record_within_its_bounds_is_not_clipped() -> None:
    """So the noisy sum is one of second moments, and not of clipped ones."""
    inputs = made_up_inputs(STUDY.data)
    for row in inputs[:200]:
        patient = Patients(row[None], np.zeros(1), np.zeros(1, dtype=np.int64), 1)
        assert np.linalg.norm(written_out(STUDY, patient)) <= second_moments.MOST


@pytest.mark.parametrize("scale", [1.0, LARGEST_WEIGHT])
def test_whatever_w_a_coordinator_sends_a_patient_is_computed_alone_bit_by_bit(
    scale: float,
) -> None:
    matrix = scale * np.random.default_rng(1).uniform(-1, 1, size=(D, D))
    everyone = made_up(3000, seed=2)
    together = whitening.whitened(everyone, matrix).inputs
    for one in (0, 1, 1023, 1024, 2999):
        own = whitening.whitened(alone(everyone, one), matrix).inputs
        assert own.tobytes() == together[everyone.patient == one].tobytes()


@pytest.mark.slow
@pytest.mark.parametrize("d", [4, 7, 33, 110])
def test_a_fast_product_is_used_only_where_it_keeps_rows_apart(
    d: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    everyone = Patients(whitening.dense(2500, d - 1), np.zeros(2500), np.arange(2500), 2500)
    matrix = whitening.dense(d, d)
    chosen = whitening.whitened(everyone, matrix).inputs
    monkeypatch.setattr(whitening, "_rows_are_independent", lambda d: False)
    assert whitening.whitened(everyone, matrix).inputs == pytest.approx(chosen, abs=1e-12)


def test_a_product_that_mixes_rows_or_minds_their_place_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    right = whitening._multiplied

    def last_rows_differ(block: Any, matrix: Any) -> Any:
        z = right(block, matrix)
        z[-3:] = np.nextafter(z[-3:], 9.0)
        return z

    def neighbours_matter(block: Any, matrix: Any) -> Any:
        z = right(block, matrix)
        z[1:] += 1e-16 * np.nan_to_num(z[:-1], posinf=0, neginf=0) ** 2
        return z

    for broken in (last_rows_differ, neighbours_matter):
        whitening._rows_are_independent.cache_clear()
        monkeypatch.setattr(whitening, "_multiplied", broken)
        assert not whitening._rows_are_independent(D)
    monkeypatch.undo()
    whitening._rows_are_independent.cache_clear()


@given(rows=arrays(np.float64, (4, D - 1), elements=ANY_NUMBER), seed=st.integers(0, 99))
def test_one_patient_moves_a_step_by_at_most_the_clip_whatever_w_is(rows: Any, seed: int) -> None:
    """At the source: two trainers, one of them without the patient."""
    numbers = np.random.default_rng(seed)
    asked = 10.0 ** numbers.uniform(-6, 6, D + D * D) * numbers.choice([-1, 1], D + D * D)
    everyone = Patients(rows, np.array([0.0, 1, 0, 1]), np.array([0, 0, 1, 2]), 3)
    mechanism = Plan.of(MANY).purpose("training").mechanism

    def step(patients: Patients) -> Any:
        trainer = Trainer(MANY, Snapshot(patients, NOBODY), noise=NoNoise(), step=STEP)
        return trainer.release("training", asked, 3)

    whole = step(everyone)
    for gone in range(3):
        moved = np.linalg.norm((whole - step(without(everyone, gone))).astype(float))
        assert moved <= mechanism.sensitivity_steps


def test_the_clip_is_in_units_of_the_root_of_the_inputs() -> None:
    assert Plan.of(STUDY).purpose("training").mechanism.norm == 0.2 * math.sqrt(D)


# -- what it costs ---------------------------------------------------------------------------------


@given(epsilon=st.floats(0.05, 5), steps=st.integers(1, 60), retries=st.integers(0, 5))
def test_second_moments_and_training_together_have_the_studys_epsilon(
    epsilon: float, steps: int, retries: int
) -> None:
    study = whitened_study(epsilon=epsilon, steps=steps, retry_allowance=retries)
    moments, training = (Plan.of(study).purpose(p) for p in ("moments", "training"))
    assert (moments.planned, moments.allowance) == (1, min(1, retries))
    assert (training.planned, training.allowance) == (steps, retries)
    rate = sum(part.releases / part.mechanism.noise_multiplier**2 for part in (moments, training))
    one = FullBatchSum(1, rate**-0.5, 1.0)
    assert 0.99 * epsilon < epsilon_of(one, 1, study.mechanism.delta) <= epsilon
    assert Plan.of(study).epsilon <= study.largest_epsilon
    share = moments.releases / moments.mechanism.noise_multiplier**2 / rate
    assert share == pytest.approx(0.2, abs=0.001)


# -- the whitening ---------------------------------------------------------------------------------


def crowd() -> Patients:
    """4096 made-up patients within their bounds."""
    inputs = made_up_inputs(STUDY.data)
    return Patients(inputs, np.zeros(len(inputs)), np.arange(len(inputs)), len(inputs))


LARGE = whitened_study(epsilon=9.0)
SMALL = whitened_study(epsilon=0.5)


def second_moments_of(patients: Patients, matrix: Any) -> Any:
    """Eigenvalues of the whitened inputs' second moments that are not zero.

    One is zero: the codes of a category add up to the intercept.
    """
    white = whitening.whitened(patients, matrix).inputs
    values = np.linalg.eigvalsh(white.T @ white / patients.count)
    assert values[0] == pytest.approx(0.0, abs=1e-9)
    return values[1:]


def of_real(patients: Patients, variance: float, study: Study = LARGE) -> Any:
    total = second_moments.clipped_sum(study, patients)
    return whitening.matrix_of(study, total, variance, patients.count)


def test_with_hardly_any_noise_the_inputs_become_white() -> None:
    some = crowd()
    older = Patients(np.abs(some.inputs), some.labels, some.patient, some.count)
    assert second_moments_of(older, of_real(older, 1e-9)) == pytest.approx(1.0, abs=1e-3)
    assert second_moments_of(older, of_real(crowd(), 1e-9)).max() > 1.2, "others' do not fit"


def test_with_nothing_but_noise_it_is_that_of_the_made_up_patients() -> None:
    numbers = np.random.default_rng(0)
    for deviation in (1e3, 1e6):
        noise = numbers.normal(0, deviation, second_moments.length(STUDY))
        values = second_moments_of(crowd(), whitening.matrix_of(LARGE, noise, deviation**2, 100))
        assert 0.4 < values.min() < values.max() < 2, "three made up for each that noise is worth"


def test_where_noise_leaves_little_they_are_whitened_halfway() -> None:
    some = crowd()
    inputs = np.hstack([some.inputs, np.ones((some.count, 1))])
    before = np.linalg.eigvalsh(inputs.T @ inputs / some.count)[1:]
    found = second_moments_of(some, of_real(some, 1e-9, SMALL))
    assert found == pytest.approx(np.sqrt(before / before.max()), abs=1e-3)
    assert (whitening.exponent(SMALL), whitening.exponent(LARGE)) == (0.25, 0.5)


def test_it_is_symmetric_finite_and_the_same_bits_each_time() -> None:
    first, again = of_real(made_up(300), 30.0), of_real(made_up(300), 30.0)
    assert first.tobytes() == again.tobytes()
    assert np.isfinite(first).all()
    assert first == pytest.approx(first.T)


# -- as a study ------------------------------------------------------------------------------------


def shares(state: RunState, study: Study = STUDY, patients: int = 3000) -> dict[str, Any]:
    """Each hospital's release without noise, by the real trainer."""
    found = {}
    for number, hospital in enumerate(HOSPITALS):
        snapshot = Snapshot(made_up(patients, seed=number), NOBODY)
        trainer = Trainer(study, snapshot, noise=NoNoise())
        found[hospital] = trainer.release(state.purpose_in(study), state.asked, len(HOSPITALS))
    return found


def test_a_run_sums_second_moments_then_trains_then_publishes_a_model_of_the_inputs() -> None:
    hospitals = [{"id": name, "declared_size": 4000} for name in HOSPITALS]
    study = small_study(hospitals=hospitals).with_mechanism(
        **{**WHITENED, "steps": 8, "learning_rate": 4.0}
    )
    state = RunState.start(study)
    assert (state.phase, len(state.asked)) == ("moments", 0)
    state = advance(study, state, shares(state, study))
    assert (state.phase, state.round, len(state.asked)) == ("training", 1, D + D * D)
    for number in range(1, 9):
        assert (state.phase, state.round) == ("training", number)
        state = advance(study, state, shares(state, study))
    assert (state.phase, state.round, state.whitening.size) == ("evaluation", 1, 0)
    assert state.asked is state.model is state.weights
    direction, learned = np.linspace(2, -1, D - 1), state.weights[:-1]
    assert learned @ direction > 0.9 * np.linalg.norm(learned) * np.linalg.norm(direction)


def test_a_saved_state_goes_on_with_the_same_bits() -> None:
    state = RunState.start(STUDY)
    state = advance(STUDY, state, shares(state, patients=40))
    again = checkpoint.from_bytes(checkpoint.to_bytes(state))
    assert again.asked.tobytes() == state.asked.tobytes()
    one, other = (advance(STUDY, s, shares(s, patients=40)) for s in (state, again))
    assert one.model.tobytes() == other.model.tobytes()


def test_with_the_identity_a_step_is_that_of_the_inputs() -> None:
    """So whitening changes the scale of inputs, and nothing else."""
    plain = small_study().with_mechanism(clip=0.2 * math.sqrt(D))
    weights = np.linspace(-1, 1, D)

    def step(study: Study, asked: Vector) -> Any:
        trainer = Trainer(study, Snapshot(made_up(50), NOBODY), noise=NoNoise())
        return trainer.release("training", asked, 3)

    white = step(STUDY, np.concatenate([weights, np.eye(D).ravel()]))
    assert np.abs(white - step(plain, weights)).max() <= 1


def test_each_w_is_used_also_if_it_changes_in_the_middle() -> None:
    """A coordinator may send what it likes; the release is that of the request."""
    numbers = np.random.default_rng(4)
    snapshot = Snapshot(made_up(50), NOBODY)
    used = Trainer(STUDY, snapshot, noise=NoNoise())
    for _ in range(3):
        asked = numbers.normal(size=D + D * D)
        fresh = Trainer(STUDY, snapshot, noise=NoNoise()).release("training", asked, 3)
        assert np.array_equal(used.release("training", asked, 3), fresh)


def test_what_a_request_carries_depends_on_its_purpose() -> None:
    p = parameter_count(STUDY)
    lengths = [request_length(STUDY, purpose) for purpose in STUDY.purposes]
    assert lengths == [0, p + p * p, p]
    p = parameter_count(MLP)
    assert [request_length(MLP, purpose) for purpose in MLP.purposes] == [0, p + D * D, p]


# -- networks --------------------------------------------------------------------------------------


def of_z(study: Study, weights: Vector, z: Any) -> Any:
    """Log odds of a network of z, which it sees without a bias in the first layer, by numpy."""
    widths = [layer.sizes for layer in layers(study) if layer.kind == "Linear"]
    end = D * widths[0][1]
    found = z @ weights[:end].reshape(-1, D).T
    for inputs, outputs in widths[1:]:
        matrix = weights[end : end + inputs * outputs].reshape(outputs, inputs)
        end += inputs * outputs
        found = np.tanh(found) @ matrix.T + weights[end : end + outputs]
        end += outputs
    assert end == len(weights)
    return found[:, 0]


@given(seed=st.integers(0, 2**31))
def test_a_network_of_z_is_published_as_the_same_network_of_the_inputs(seed: int) -> None:
    numbers = np.random.default_rng(seed)
    weights, matrix = numbers.normal(size=parameter_count(MLP)), numbers.normal(size=(D, D))
    inputs = numbers.uniform(-1, 1, size=(20, D - 1))
    of_inputs = log_odds(MLP, whitening.of_inputs(MLP, weights, matrix.ravel()), inputs)
    z = np.hstack([inputs, np.ones((20, 1))]) @ matrix
    assert of_inputs == pytest.approx(of_z(MLP, weights, z), abs=2e-5)  # scores are float32


def test_a_network_starts_as_a_linear_model_near_zero() -> None:
    numbers = np.random.default_rng(3)
    z = numbers.normal(size=(500, D))
    start = initial_weights(MLP)
    scores = of_z(MLP, start, z)
    linear = z @ np.linalg.lstsq(z, scores, rcond=None)[0]
    assert np.abs(scores).max() < 1.5
    assert np.std(scores - linear) < 0.02 * np.std(scores)
    assert np.linalg.norm(start[-5:-1]) == pytest.approx(OUTPUT_NORM)
    assert start[-1] == 0
    assert start.dtype == np.float64


def test_the_first_step_of_a_network_is_that_of_logistic_regression() -> None:
    """With the settings of one study for both: the clip and the step follow the network's start."""
    many = {**WHITENED, "clip": 4.0, "learning_rate": 2.0}
    moved = {}
    for model in ({"kind": "logistic"}, {"kind": "mlp", "hidden": [16]}):
        study = small_study(model=model, mechanism=study_document()["mechanism"] | many)
        state = replace(
            RunState.start(study), phase="training", whitening=np.eye(D).ravel(), tail_count=0
        )
        after = advance(study, state, shares(state, study, patients=300))
        z = np.random.default_rng(5).normal(size=(400, D))
        before, now = (
            z @ w if model["kind"] == "logistic" else of_z(study, w, z)
            for w in (state.weights, after.weights)
        )
        moved[model["kind"]] = now - before
    one, other = moved["logistic"], moved["mlp"]
    assert np.corrcoef(one, other)[0, 1] > 0.95
    assert np.std(other) == pytest.approx(np.std(one), rel=0.2)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"sampling": 0.5}, "whitened .* needs sampling = 1"),
        ({"aggregation": "median"}, "whitened .* needs sampling = 1"),
        ({"learning_rate": 0.0}, "whitened needs a learning_rate above 0"),
        ({"augmentation": "flips"}, "whitened does not support augmentation"),
    ],
)
def test_settings_that_do_not_belong_to_it_are_refused(changes: Any, what: str) -> None:
    with pytest.raises(StudyError, match=what):
        whitened_study(**changes)


def test_other_models_and_very_many_inputs_are_refused() -> None:
    document = study_document(model={"kind": "cnn"})
    document["data"]["columns"] = [
        {"kind": "image", "name": "px", "height": 8, "width": 8, "minimum": 0, "maximum": 255}
    ]
    document["mechanism"] |= WHITENED
    with pytest.raises(StudyError, match="whitened trains a model of kind logistic or mlp, not a"):
        small_study(**document)
    document = study_document(model={"kind": "mlp", "hidden": [4]})
    one_sum = {"steps": 1, "learning_rate": 0.0, "momentum": 0.0}
    document["mechanism"] |= {"algorithm": "least-squares", **one_sum}
    with pytest.raises(StudyError, match="least-squares trains a model of kind logistic, not a"):
        small_study(**document)
    codes = [f"c{i}" for i in range(MOST_SQUARED_INPUTS // 2)]
    document = study_document()
    document["mechanism"] |= WHITENED
    document["data"]["columns"] = [
        {"kind": "category", "name": name, "codes": codes} for name in ("ward", "drug", "clinic")
    ]
    with pytest.raises(StudyError, match=f"1500 inputs, limit {MOST_SQUARED_INPUTS}"):
        small_study(**document)
