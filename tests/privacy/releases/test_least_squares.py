"""Least squares in one round: what a patient can move, and what comes out of the sum."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from flo.clients.data_process.trainer import Trainer, private_step
from flo.clients.records.snapshot import Snapshot
from flo.errors import StudyError
from flo.privacy.accounting.plan import Plan
from flo.privacy.patients.patients import Patients
from flo.privacy.releases import least_squares, second_moments
from flo.server.rounds.state import RunState
from flo.study.document import MOST_SQUARED_INPUTS, Study, from_document
from flo.study.models import parameter_count
from tests.builders import HOSPITALS, NoNoise, small_study, study_document
from tests.privacy.releases.made_up import D, alone, made_up, without
from tests.secure_sums import advance

ONE_ROUND = {"algorithm": "least-squares", "steps": 1, "learning_rate": 0.0, "momentum": 0.0}


def one_round(**mechanism: Any) -> Study:
    return small_study().with_mechanism(**{**ONE_ROUND, "clip": 0.5, **mechanism})


STUDY = one_round()
MANY = from_document(
    STUDY.model_dump(mode="json")
    | {"data": {**STUDY.data.model_dump(mode="json"), "records_per_patient": "many"}}
)


# -- what one patient can move ---------------------------------------------------------------------


@given(
    rows=arrays(
        np.float64,
        (6, D - 1),
        elements=st.one_of(
            st.floats(-1, 1), st.sampled_from([math.nan, math.inf, -math.inf, 1e300, -1e200])
        ),
    ),
    clip=st.floats(1e-3, 10),
)
def test_one_patient_moves_the_sum_by_at_most_the_clip_norm(rows: Any, clip: float) -> None:
    study = MANY.with_mechanism(clip=clip)
    everyone = Patients(rows, np.array([0.0, 1, 0, 1, 1, 0]), np.array([0, 0, 1, 2, 2, 3]), 4)
    whole = least_squares.clipped_sum(study, everyone)
    assert np.isfinite(whole).all()
    for gone in range(4):
        rest = least_squares.clipped_sum(study, without(everyone, gone))
        assert np.linalg.norm(whole - rest) <= clip * (1 + 2**-10)


def test_a_patient_that_is_not_finite_counts_as_zero() -> None:
    everyone = made_up(5)
    everyone.inputs[2, 1] = math.nan
    whole = least_squares.clipped_sum(STUDY, everyone)
    rest = least_squares.clipped_sum(STUDY, without(everyone, 2))
    assert whole == pytest.approx(rest, abs=1e-12)


def written_out(study: Study, patient: Patients) -> list[float]:
    """u of one patient, by a loop over their records and over pairs of inputs."""
    r2, found = 1 + len(study.data.columns), [0.0] * least_squares.length(study)
    for record, label in zip(patient.inputs, patient.labels, strict=True):
        x = [*map(float, record), 1.0]
        products = [
            x[i] * x[j] / r2 / (math.sqrt(2) if i == j else 1)
            for i in range(D)
            for j in range(i, D)
        ]
        products += [(2 * label - 1) * value / math.sqrt(2 * r2) for value in x]
        found = [before + product for before, product in zip(found, products, strict=True)]
    return found


@pytest.mark.parametrize("clip", [0.1, 0.5, 1e6])
@pytest.mark.parametrize("records", [1, 3, 64])
def test_the_sum_is_that_of_everyones_part_clipped(records: int, clip: float) -> None:
    study = MANY.with_mechanism(clip=clip)
    everyone = made_up(150, records=records)
    expected = np.zeros(least_squares.length(study))
    for one in range(everyone.count):
        part = np.array(written_out(study, alone(everyone, one)))
        expected += part * min(1.0, clip / float(np.linalg.norm(part)))
    assert least_squares.clipped_sum(study, everyone) == pytest.approx(expected, rel=1e-9)


def test_a_patients_part_does_not_depend_on_who_else_is_there() -> None:
    everyone = made_up(5000)  # more than a block
    whole = least_squares.clipped_sum(STUDY, everyone)
    for gone in (0, 4095, 4096, 4999):
        rest = least_squares.clipped_sum(STUDY, without(everyone, gone))
        theirs = least_squares.clipped_sum(STUDY, alone(everyone, gone))
        assert whole - rest == pytest.approx(theirs, abs=1e-10)


def test_how_many_records_a_patient_has_does_not_change_the_shape_of_the_work() -> None:
    def shapes(records: int) -> list[tuple[int, ...]]:
        blocks = second_moments.blocks(MANY, made_up(100, records=records))
        return [of_block.shape for of_block, _ in blocks]

    assert shapes(1) == shapes(64) == [(64, 64, D)] * 2


def test_more_records_than_the_study_allows_are_refused() -> None:
    with pytest.raises(ValueError, match="more than 1 records"):
        least_squares.clipped_sum(STUDY, made_up(3, records=2))


def test_a_patients_records_are_one_contribution_and_clipped_together() -> None:
    many, clip = made_up(1, records=64), MANY.mechanism.clip
    unclipped = np.array(written_out(MANY, many))
    assert np.linalg.norm(unclipped) > 5 * clip
    total = least_squares.clipped_sum(MANY, many)
    assert np.linalg.norm(total) == pytest.approx(clip)


def test_nobody_gives_a_sum_of_zero() -> None:
    nobody = Patients(np.zeros((0, D - 1)), np.zeros(0), np.zeros(0, dtype=np.int64), 0)
    assert not least_squares.clipped_sum(STUDY, nobody).any()


# -- what comes out of the sum ---------------------------------------------------------------------


def test_without_clipping_and_noise_it_is_twice_ordinary_least_squares() -> None:
    everyone = made_up(400)
    total = least_squares.clipped_sum(one_round(clip=1e6), everyone)
    found = least_squares.solve(STUDY, total, 1e-24)
    inputs = np.hstack([everyone.inputs, np.ones((400, 1))])
    (expected, *_) = np.linalg.lstsq(inputs, 2 * everyone.labels - 1)
    assert found == pytest.approx(2 * expected, rel=1e-6)


def test_the_scale_of_sum_and_noise_together_does_not_matter() -> None:
    total = least_squares.clipped_sum(STUDY, made_up(400))
    assert least_squares.solve(STUDY, total / 7, 3 / 49) == pytest.approx(
        least_squares.solve(STUDY, total, 3)
    )


def test_a_sum_of_noise_alone_gives_a_model_that_says_little() -> None:
    numbers = np.random.default_rng(3)
    for _ in range(200):
        noise = numbers.normal(0, 50.0, least_squares.length(STUDY))
        weights = least_squares.solve(STUDY, noise, 50.0**2)
        # |2 Σyx| ≤ 2·√2·r·50·(√d + 4) against a ridge of 2·r²·50·√d, r = √3
        assert np.linalg.norm(weights) <= math.sqrt(2 / 3) * (1 + 4 / math.sqrt(D))


def test_the_same_sum_gives_the_same_bits_so_a_resumed_run_gives_the_same_model() -> None:
    total = least_squares.clipped_sum(STUDY, made_up(100))
    first = least_squares.solve(STUDY, total, 10.0)
    assert first.tobytes() == least_squares.solve(STUDY, total.copy(), 10.0).tobytes()


# -- as a study ------------------------------------------------------------------------------------


def test_its_release_is_one_noisy_sum_of_products_and_has_the_studys_epsilon() -> None:
    part = Plan.of(STUDY).purpose("training")
    assert part.mechanism.length == D * (D + 1) // 2 + D == least_squares.length(STUDY)
    assert part.mechanism.length != parameter_count(STUDY)
    assert (part.planned, part.releases) == (1, 1 + STUDY.mechanism.retry_allowance)
    assert 0.89 < part.epsilon <= 0.9
    assert private_step(STUDY, "cpu") is None


def test_a_trainer_releases_that_sum_on_its_grid() -> None:
    everyone = made_up(30)
    nobody = without(everyone, 0)
    trainer = Trainer(STUDY, Snapshot(everyone, nobody), noise=NoNoise())
    mechanism = Plan.of(STUDY).purpose("training").mechanism
    released = mechanism.to_real(trainer.release("training", np.zeros(parameter_count(STUDY)), 3))
    exact = least_squares.clipped_sum(STUDY, everyone)
    assert released == pytest.approx(exact, abs=mechanism.norm / 2**16)


def test_one_round_makes_the_model_that_is_evaluated() -> None:
    part, shares = Plan.of(STUDY).purpose("training"), {}
    exact = np.zeros(part.mechanism.length)
    for number, hospital in enumerate(HOSPITALS):
        total = least_squares.clipped_sum(STUDY, made_up(3000, seed=number))
        exact += total
        shares[hospital] = np.rint(total * 2**16 / part.mechanism.norm).astype(np.int64)
    state = advance(STUDY, RunState.start(STUDY), shares)
    assert (state.phase, state.round, state.attempt) == ("evaluation", 1, 1)
    assert state.weights.shape == (parameter_count(STUDY),)
    assert np.array_equal(state.asked, state.model)
    direction = np.linspace(2, -1, D - 1)
    learned = state.weights[:-1]
    assert learned @ direction > 0.9 * np.linalg.norm(learned) * np.linalg.norm(direction)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"steps": 2}, "one sum over all patients"),
        ({"sampling": 0.5}, "one sum over all patients"),
        ({"aggregation": "median"}, "one sum over all patients"),
        ({"learning_rate": 0.5}, "has no learning_rate"),
        ({"momentum": 0.5}, "has no learning_rate"),
        ({"algorithm": "fedavgm"}, "needs a learning_rate above 0"),
        ({"algorithm": "newton"}, "algorithm"),
    ],
)
def test_settings_that_do_not_belong_to_the_algorithm_are_refused(changes: Any, what: str) -> None:
    with pytest.raises(StudyError, match=what):
        one_round(**changes)


def test_other_models_and_very_many_inputs_are_refused() -> None:
    document = study_document(model={"kind": "mlp", "hidden": [4]})
    document["mechanism"] |= ONE_ROUND
    with pytest.raises(StudyError, match="trains a model of kind logistic, not a mlp"):
        small_study(**document)
    codes = [f"c{i}" for i in range(MOST_SQUARED_INPUTS // 2)]
    document = study_document()
    document["mechanism"] |= ONE_ROUND
    document["data"]["columns"] = [
        {"kind": "category", "name": name, "codes": codes} for name in ("ward", "drug", "clinic")
    ]
    with pytest.raises(StudyError, match=f"1500 inputs, limit {MOST_SQUARED_INPUTS}"):
        small_study(**document)


def test_the_algorithm_is_part_of_the_agreement() -> None:
    assert STUDY.digest != small_study().with_mechanism(steps=1).digest
    assert b"algorithm" not in small_study().canonical_bytes, "as FLO wrote studies before"
