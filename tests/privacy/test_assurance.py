"""Record and replay: with the noise frozen, two neighbouring files lie within the sensitivity.

And the other way round: break what the guarantee rests on, and these very checks must fail.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from flo.clients.snapshot import Snapshot
from flo.clients.trainer import Trainer
from flo.features import input_names
from flo.messages import Purpose
from flo.models import initial_weights, log_odds
from flo.privacy import evaluation, survey
from flo.privacy.batches import Batches, Frame
from flo.privacy.bookkeeping import BookKeeping, Part
from flo.privacy.discrete_gaussian import Noise, SystemNoise
from flo.privacy.one_by_one import Looped, Vmapped
from flo.privacy.patients import Floats, Patients
from flo.privacy.plan import Plan
from flo.study import Study
from tests.builders import NoNoise, small_study, study_document
from tests.privacy.slow_step import without

Integers = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Call = tuple[str, float, int | None]

IMAGE = {"kind": "image", "name": "px", "height": 8, "width": 8, "minimum": 0, "maximum": 255}
MANY = 70  # more records than a micro-batch holds
ONCE: dict[str, Any] = {"epsilon": 0.9, "bins": 4, "retry_allowance": 0}
STUDIES: dict[str, Study] = {
    "logistic": small_study(),
    "mlp": small_study(
        model={"kind": "mlp", "hidden": [8]}, evaluation=ONCE | {"subgroups": ["ward"]}
    ),
    "cnn": small_study(model={"kind": "cnn"}, data=study_document()["data"] | {"columns": [IMAGE]}),
    "survey": small_study().with_survey(epsilon=0.3, columns=["age", "ward"]),
}
SAMPLED = {name: STUDIES[name].with_mechanism(sampling=0.3) for name in ("logistic", "mlp", "cnn")}


@dataclass
class Frozen:
    """Noise that is the same on both files, with coins fixed for each patient; notes all calls."""

    coins: Mask
    calls: list[Call] = field(default_factory=list)

    def sample(self, variance: int, size: int) -> Integers:
        self.calls.append(("sample", variance, size))
        return (np.arange(size, dtype=np.int64) * 7919) % 100_003

    def choose(self, probability: float, count: int) -> Mask:
        self.calls.append(("choose", probability, None))  # a coin for each patient, by nature
        assert count == len(self.coins)
        return self.coins


# -- files, and who leaves them ------------------------------------------------------------------


def ordinary(study: Study) -> Patients:
    inputs = evaluation.made_up_inputs(study.data)[:12]
    patient = np.array([0, 0, 0, 1, 2, 3, 3, 4, 5, 6, 7, 8], dtype=np.int64)
    return Patients(inputs, (np.arange(12) % 2).astype(np.float64), patient, 9)


def strange(study: Study, value: float) -> Patients:
    """The patients 0 (of three records) and 5 have nothing but that value."""
    file = ordinary(study)
    gone = np.isin(file.patient, [0, 5])[:, None]
    return replace(file, inputs=np.where(gone, value, file.inputs))


def of_one(study: Study) -> Patients:
    file = ordinary(study)
    return Patients(file.inputs[:1], file.labels[:1], file.patient[:1], 1)


def duplicates(study: Study) -> Patients:
    file = ordinary(study)
    return replace(file, inputs=np.repeat(file.inputs[:1], 12, axis=0), labels=np.ones(12))


def many_records(study: Study) -> Patients:
    file = ordinary(study)
    inputs = evaluation.made_up_inputs(study.data)[100 : 100 + MANY]
    return Patients(
        np.concatenate([file.inputs, inputs]),
        np.concatenate([file.labels, np.arange(MANY) % 3 % 2]),
        np.concatenate([file.patient, np.full(MANY, 4)]),
        file.count,
    )


CASES: dict[str, tuple[Callable[[Study], Patients], int]] = {
    "ordinary": (ordinary, 3),
    "a patient of NaN": (lambda study: strange(study, np.nan), 0),
    "beside patients of NaN": (lambda study: strange(study, np.nan), 3),
    "a patient of 1e38": (lambda study: strange(study, 1e38), 0),
    "the only patient": (of_one, 0),
    "duplicate records": (duplicates, 0),
    "the patient with many records": (many_records, 4),
    "beside the patient with many records": (many_records, 0),
}


def snapshot(study: Study, training: Patients, held_out: Patients) -> Snapshot:
    width = len(input_names(study.data))
    assert training.inputs.shape[1] == held_out.inputs.shape[1] == width
    return Snapshot(training, held_out)


def neighbours(study: Study, purpose: Purpose, case: str) -> tuple[Snapshot, Snapshot, Mask, Mask]:
    """A file and the file without one patient, with coins for those who train in each."""
    make, who = CASES[case]
    file, rest = make(study), ordinary(study)
    smaller = without(file, who)
    coins = np.arange(file.count) % 3 != 1
    coins[who] = True
    if purpose == "training":
        fewer = np.delete(coins, who)
        return snapshot(study, file, rest), snapshot(study, smaller, rest), coins, fewer
    same = np.ones(rest.count, dtype=np.bool_)
    return snapshot(study, rest, file), snapshot(study, rest, smaller), same, same


def steep_weights(study: Study) -> Floats:
    """A model under which gradients are much longer than the clip norm."""
    weights = initial_weights(study)
    return weights + np.where(np.arange(len(weights)) % 2, 1.0, -1.0)


# -- the checks ----------------------------------------------------------------------------------


def assert_neighbours_stay_close(study: Study, purpose: Purpose, case: str) -> None:
    """‖S(D) - S(D')‖ <= Δ for frozen noise, and the same calls for noise, in the same order."""
    file, smaller, coins, fewer = neighbours(study, purpose, case)
    mechanism = Plan.of(study).part(purpose).mechanism
    one, other = Frozen(coins), Frozen(fewer)
    trainers = Trainer(study, file, noise=one), Trainer(study, smaller, noise=other)
    for weights in (initial_weights(study), steep_weights(study)):
        released, rest = (trainer.release(purpose, weights, 3) for trainer in trainers)
        distance = float(np.linalg.norm((released - rest).astype(np.float64)))
        assert distance <= mechanism.sensitivity_steps
        assert one.calls == other.calls
        assert one.calls[-1] == ("sample", mechanism.variance_steps(), mechanism.length)


def assert_noise_is_as_stated(study: Study, purpose: Purpose, noise: Noise) -> None:
    """Two releases of one sum differ, and their noise has the stated variance.

    Σ residual² / variance follows χ² with n > 1500 degrees of freedom, within 6·√(2/n) of n: a
    false alarm has probability below 1e-8.
    """
    rest = ordinary(study)
    still = Trainer(study, snapshot(study, rest, rest), noise=NoNoise())
    noisy = Trainer(study, snapshot(study, rest, rest), noise=noise)
    weights, mechanism = initial_weights(study), Plan.of(study).part(purpose).mechanism
    exact = still.release(purpose, weights, 3)
    releases = [
        noisy.release(purpose, weights, 3) - exact for _ in range(1 + 1500 // mechanism.length)
    ]
    assert len({release.tobytes() for release in releases}) == len(releases)
    residuals = np.concatenate(releases).astype(np.float64)
    ratio = float((residuals**2).mean()) / mechanism.variance_steps()
    assert abs(ratio - 1) <= 6 * (2 / len(residuals)) ** 0.5


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("model", ["logistic", "mlp", "cnn"])
@pytest.mark.parametrize("studies", [STUDIES, SAMPLED], ids=["full batch", "sampled"])
def test_a_patient_moves_a_training_release_by_no_more_than_the_sensitivity(
    studies: dict[str, Study], model: str, case: str
) -> None:
    assert_neighbours_stay_close(studies[model], "training", case)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("model", ["logistic", "mlp"])
def test_a_patient_moves_an_evaluation_by_no_more_than_the_sensitivity(
    model: str, case: str
) -> None:
    assert bool(STUDIES[model].evaluation.subgroups) == (model == "mlp")
    assert_neighbours_stay_close(STUDIES[model], "evaluation", case)


def test_a_patient_moves_the_evaluation_of_images_by_no_more_than_the_sensitivity() -> None:
    assert_neighbours_stay_close(STUDIES["cnn"], "evaluation", "a patient of NaN")


@pytest.mark.parametrize("case", CASES)
def test_a_patient_moves_a_survey_by_no_more_than_the_sensitivity(case: str) -> None:
    assert_neighbours_stay_close(STUDIES["survey"], "survey", case)


@pytest.mark.parametrize("model", ["logistic", "mlp", "cnn"])
def test_a_patient_whom_the_coin_passed_over_moves_nothing(model: str) -> None:
    study = SAMPLED[model]
    file = many_records(study)
    for who in (3, 4):
        coins = np.arange(file.count) != who
        released = [
            Trainer(study, snapshot(study, some, file), noise=Frozen(mask)).release(
                "training", steep_weights(study), 3
            )
            for some, mask in ((file, coins), (without(file, who), np.delete(coins, who)))
        ]
        assert np.abs(released[0] - released[1]).max() <= 1  # the grid's rounding


def test_removing_a_patient_moves_nobody_elses_score_by_a_bit() -> None:
    for model in ("logistic", "mlp"):
        study = STUDIES[model]
        rows = evaluation.made_up_inputs(study.data)[:200]
        scores = log_odds(study, steep_weights(study), rows)
        for gone in (0, 17, 199):
            left = log_odds(study, steep_weights(study), np.delete(rows, gone, axis=0))
            np.testing.assert_array_equal(left, np.delete(scores, gone))


# -- what must be caught -------------------------------------------------------------------------


class Unclipped:
    """A part that says its gradients have no length, so that their factor is 1."""

    def __init__(self, part: Part) -> None:
        self.part = part

    @property
    def norm_squared(self) -> torch.Tensor:
        return torch.zeros_like(self.part.norm_squared)

    def total(self, factors: torch.Tensor) -> list[torch.Tensor]:
        return self.part.total(factors)


def remove_clipping(patch: pytest.MonkeyPatch) -> None:
    for way in (BookKeeping, Vmapped, Looped):
        parts: Callable[[Any, Frame], list[Part]] = way.parts
        patch.setattr(
            way,
            "parts",
            lambda self, frame, parts=parts: [Unclipped(p) for p in parts(self, frame)],
        )


def count_the_batch_twice(patch: pytest.MonkeyPatch) -> None:
    frames = Batches.frames
    patch.setattr(
        Batches, "frames", lambda self, chosen=None: [*frames(self, chosen), *frames(self, chosen)]
    )


def count_records_and_not_patients(patch: pytest.MonkeyPatch) -> None:
    def counts(cell: Integers, patient: Integers, count: int, length: int) -> Floats:
        return np.bincount(cell[cell >= 0], minlength=length).astype(np.float64)

    patch.setattr(evaluation, "weighted_counts", counts)
    patch.setattr(survey, "weighted_counts", counts)


def draw_noise_for_each_patient(patch: pytest.MonkeyPatch) -> None:
    counts = evaluation.counts

    def with_more_noise(study: Study, weights: Floats, held_out: Patients) -> Floats:
        for frozen in drawn:
            for _ in range(held_out.count):
                frozen.sample(1, 1)
        return counts(study, weights, held_out)

    drawn: list[Frozen] = []
    start = Frozen.__init__

    def noted(self: Frozen, coins: Mask) -> None:
        start(self, coins)
        drawn[:] = [self] if not drawn else [drawn[-1], self][-1:]

    patch.setattr(Frozen, "__init__", noted)
    patch.setattr(evaluation, "counts", with_more_noise)


MUTATIONS: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], str, Purpose, str]] = {
    "clipping removed": (remove_clipping, "logistic", "training", "ordinary"),
    "clipping removed, mlp": (remove_clipping, "mlp", "training", "ordinary"),
    "clipping removed, cnn": (remove_clipping, "cnn", "training", "ordinary"),
    "batch counted twice": (count_the_batch_twice, "logistic", "training", "ordinary"),
    "batch counted twice, cnn": (count_the_batch_twice, "cnn", "training", "ordinary"),
    "records counted": (
        count_records_and_not_patients,
        "logistic",
        "evaluation",
        "the patient with many records",
    ),
    "records counted by subgroup": (
        count_records_and_not_patients,
        "mlp",
        "evaluation",
        "the patient with many records",
    ),
    "records surveyed": (
        count_records_and_not_patients,
        "survey",
        "survey",
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


PURPOSES: list[tuple[str, Purpose]] = [
    ("logistic", "training"),
    ("mlp", "training"),
    ("logistic", "evaluation"),
    ("mlp", "evaluation"),
    ("survey", "survey"),
]


@pytest.mark.parametrize(("model", "purpose"), PURPOSES)
def test_every_release_has_noise_of_its_own_and_of_the_stated_variance(
    model: str, purpose: Purpose
) -> None:
    assert_noise_is_as_stated(STUDIES[model], purpose, SystemNoise())


class Weaker(SystemNoise):
    def sample(self, variance: int, size: int) -> Integers:
        return super().sample(variance // 2, size)


class Reused(SystemNoise):
    """Draws once and gives the same again."""

    def __init__(self) -> None:
        self.kept: dict[tuple[int, int], Integers] = {}

    def sample(self, variance: int, size: int) -> Integers:
        if (variance, size) not in self.kept:
            self.kept[variance, size] = super().sample(variance, size)
        return self.kept[variance, size]


@pytest.mark.parametrize(
    "noise", [NoNoise(), Weaker(), Reused()], ids=["removed", "weaker", "reused"]
)
@pytest.mark.parametrize(("model", "purpose"), PURPOSES)
def test_noise_that_is_missing_too_weak_or_used_twice_is_caught(
    model: str, purpose: Purpose, noise: Noise
) -> None:
    with pytest.raises(AssertionError):
        assert_noise_is_as_stated(STUDIES[model], purpose, noise)


@pytest.mark.parametrize(("model", "purpose"), PURPOSES)
def test_setting_every_seed_there_is_changes_nothing(model: str, purpose: Purpose) -> None:
    study = STUDIES[model]
    file, weights, released = ordinary(study), initial_weights(study), []
    for _ in range(2):
        torch.manual_seed(0)
        np.random.seed(0)
        trainer = Trainer(study, snapshot(study, file, file))
        released.append(trainer.release(purpose, weights, 3))
    assert (released[0] != released[1]).any()


def test_setting_every_seed_there_is_chooses_other_patients() -> None:
    chosen = []
    for _ in range(2):
        torch.manual_seed(0)
        np.random.seed(0)
        chosen.append(SystemNoise().choose(0.5, 300))
    assert (chosen[0] != chosen[1]).any()
