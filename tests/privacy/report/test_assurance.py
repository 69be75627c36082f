"""Record and replay: with the noise frozen, two neighbouring files lie within the sensitivity.

And the other way round: break what the guarantee rests on, and this very check must fail.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from flo.arrays import Floats, Integers
from flo.clients.data_process import trainer as trainer_module
from flo.clients.data_process.trainer import Trainer
from flo.clients.records.snapshot import Snapshot
from flo.privacy.accounting.plan import Plan
from flo.privacy.gradients.batches import Batches, Frame
from flo.privacy.gradients.bookkeeping import BookKeeping, Loss
from flo.privacy.gradients.contributions import PatientGradients
from flo.privacy.gradients.per_sample import Looped, Vmapped
from flo.privacy.gradients.step import PrivateStep
from flo.privacy.releases import evaluation, histograms
from flo.study.document import Study
from flo.study.terms import Purpose
from tests.privacy.frozen import (
    CASES,
    SAMPLED,
    STUDIES,
    Frozen,
    many_records,
    neighbours,
    requests,
    steep_weights,
)
from tests.privacy.slow_step import without

STEPS: dict[tuple[int, float, int], PrivateStep] = {}


@pytest.fixture(autouse=True)
def _one_step_for_each_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trying a model out takes longest and knows nothing of patients: once for each model."""

    def kept(module: torch.nn.Module, loss: Loss, clip: float, **public: Any) -> PrivateStep:
        key = (sum(p.numel() for p in module.parameters()), clip, public["batch"])
        if key not in STEPS:
            STEPS[key] = PrivateStep(module, loss, clip, **public)
        return STEPS[key]

    monkeypatch.setattr(trainer_module, "PrivateStep", kept)


def assert_neighbours_stay_close(study: Study, purpose: Purpose, case: str) -> None:
    """‖S(D) - S(D')‖ <= Δ for frozen noise, and the same calls for noise, in the same order."""
    file, smaller, coins, fewer = neighbours(study, purpose, case)
    mechanism = Plan.of(study).purpose(purpose).mechanism
    one, other = Frozen(coins), Frozen(fewer)
    trainers = Trainer(study, file, noise=one), Trainer(study, smaller, noise=other)
    for asked in requests(study, purpose):
        released, rest = (trainer.release(purpose, asked, 3) for trainer in trainers)
        distance = float(np.linalg.norm((released - rest).astype(np.float64)))
        assert distance <= mechanism.sensitivity_steps
        assert one.calls == other.calls
        assert one.calls[-1] == ("sample", mechanism.variance_steps(), mechanism.length)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("model", ["logistic", "mlp", "cnn"])
@pytest.mark.parametrize("studies", [STUDIES, SAMPLED], ids=["full batch", "sampled"])
def test_a_patient_moves_a_training_release_by_no_more_than_the_sensitivity(
    studies: dict[str, Study], model: str, case: str
) -> None:
    assert_neighbours_stay_close(studies[model], "training", case)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("purpose", ["moments", "training", "evaluation"])
def test_a_patient_moves_each_release_of_a_whitened_study_by_no_more_than_the_sensitivity(
    purpose: Purpose, case: str
) -> None:
    assert_neighbours_stay_close(STUDIES["whitened"], purpose, case)


@pytest.mark.parametrize("case", CASES)
def test_a_patient_moves_a_network_over_steps_by_no_more_than_the_sensitivity(case: str) -> None:
    assert_neighbours_stay_close(STUDIES["sequence"], "training", case)


@pytest.mark.parametrize("case", CASES)
def test_a_patient_moves_a_network_on_whitened_inputs_by_no_more_than_the_sensitivity(
    case: str,
) -> None:
    assert_neighbours_stay_close(STUDIES["whitened mlp"], "training", case)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("model", ["logistic", "by ward", "mlp"])
def test_a_patient_moves_an_evaluation_by_no_more_than_the_sensitivity(
    model: str, case: str
) -> None:
    assert_neighbours_stay_close(STUDIES[model], "evaluation", case)


def test_a_patient_moves_the_evaluation_of_images_by_no_more_than_the_sensitivity() -> None:
    assert_neighbours_stay_close(STUDIES["cnn"], "evaluation", "a patient of NaN")


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("purpose", ["statistics", "regression"])
def test_a_patient_moves_statistics_by_no_more_than_the_sensitivity(
    purpose: Purpose, case: str
) -> None:
    assert_neighbours_stay_close(STUDIES["statistics"], purpose, case)


@pytest.mark.parametrize("model", ["logistic", "mlp", "cnn"])
def test_a_patient_whom_the_coin_passed_over_moves_nothing(model: str) -> None:
    study = SAMPLED[model]
    file = many_records(study)
    for who in (3, 4):
        coins = np.arange(file.count) != who
        released = [
            Trainer(study, Snapshot(some, file), noise=Frozen(mask)).release(
                "training", steep_weights(study), 3
            )
            for some, mask in ((file, coins), (without(file, who), np.delete(coins, who)))
        ]
        assert np.abs(released[0] - released[1]).max() <= 1  # the grid's rounding


class Unclipped:
    """A part that says its gradients have no length, so that their factor is 1."""

    def __init__(self, part: PatientGradients) -> None:
        self.part = part

    @property
    def norm_squared(self) -> torch.Tensor:
        return torch.zeros_like(self.part.norm_squared)

    def total(self, factors: torch.Tensor) -> list[torch.Tensor]:
        return self.part.total(factors)


def remove_clipping(patch: pytest.MonkeyPatch) -> None:
    for way in (BookKeeping, Vmapped, Looped):
        parts: Callable[[Any, Frame], list[PatientGradients]] = way.contributions
        patch.setattr(
            way,
            "contributions",
            lambda self, frame, parts=parts: [Unclipped(p) for p in parts(self, frame)],
        )


def count_the_batch_twice(patch: pytest.MonkeyPatch) -> None:
    frames = Batches.frames
    patch.setattr(
        Batches, "frames", lambda self, chosen=None: [*frames(self, chosen), *frames(self, chosen)]
    )


def count_records_and_not_patients(patch: pytest.MonkeyPatch) -> None:
    def each_one(patient: Integers, count: int) -> Floats:
        return np.ones(len(patient))

    patch.setattr(evaluation, "record_weights", each_one)
    patch.setattr(histograms, "record_weights", each_one)


def draw_noise_for_each_patient(patch: pytest.MonkeyPatch) -> None:
    release = Trainer.release

    def with_more(self: Trainer, purpose: Purpose, weights: Floats, cohort: int) -> Integers:
        self._noise.sample(1, self._snapshot.held_out.count)
        return release(self, purpose, weights, cohort)

    patch.setattr(Trainer, "release", with_more)


MUTATIONS: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], str, Purpose, str]] = {
    "clipping removed": (remove_clipping, "logistic", "training", "duplicate records"),
    "clipping removed, mlp": (remove_clipping, "mlp", "training", "ordinary"),
    "clipping removed, cnn": (remove_clipping, "cnn", "training", "ordinary"),
    "batch counted twice": (count_the_batch_twice, "logistic", "training", "duplicate records"),
    "batch counted twice, cnn": (count_the_batch_twice, "cnn", "training", "ordinary"),
    "records counted": (
        count_records_and_not_patients,
        "logistic",
        "evaluation",
        "the patient with many records",
    ),
    "records counted by subgroup": (
        count_records_and_not_patients,
        "by ward",
        "evaluation",
        "the patient with many records",
    ),
    "records counted in statistics": (
        count_records_and_not_patients,
        "statistics",
        "statistics",
        "the patient with many records",
    ),
    "noise drawn for each patient": (
        draw_noise_for_each_patient,
        "logistic",
        "evaluation",
        "ordinary",
    ),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_what_breaks_the_bound_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mutate, model, purpose, case = MUTATIONS[name]
    assert_neighbours_stay_close(STUDIES[model], purpose, case)
    mutate(monkeypatch)
    with pytest.raises(AssertionError):
        assert_neighbours_stay_close(STUDIES[model], purpose, case)
