"""What a site computes: nobody's part depends on anybody else, and noise comes on top."""

from __future__ import annotations

from typing import get_args

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flo.arrays import Floats
from flo.clients.data_process.trainer import Trainer, choose_device
from flo.clients.records.snapshot import Snapshot
from flo.errors import StudyError, UsageError
from flo.privacy.accounting.plan import Plan
from flo.privacy.mechanisms.mechanisms import GRID
from flo.privacy.patients.patients import Patients
from flo.privacy.releases import evaluation, statistics
from flo.privacy.releases.asked_model import scorer
from flo.privacy.releases.statistics import Block
from flo.study.document import Study
from flo.study.models import initial_weights, log_odds, parameter_count
from flo.study.synthetic import made_up_inputs
from flo.study.terms import Purpose
from tests.builders import NoNoise, counting, small_study, study_document, surveyed
from tests.flo.studies import PACK, SEQUENCE
from tests.monitored import period

WIDTH = parameter_count(small_study()) - 1
IMAGE = {"kind": "image", "name": "px", "height": 8, "width": 8, "minimum": 0, "maximum": 255}
MODELS: dict[str, Study] = {
    "logistic": small_study(),
    "mlp": small_study(model={"kind": "mlp", "hidden": [8]}),
    "cnn": small_study(model={"kind": "cnn"}, data=study_document()["data"] | {"columns": [IMAGE]}),
    "pack": small_study(model=PACK),
    "sequence": small_study(model=SEQUENCE),
}
COUNTED = counting(small_study(), 0.3, ["age", "ward"])


def patients(inputs: Floats) -> Patients:
    count = len(inputs)
    return Patients(inputs, (np.arange(count) % 2).astype(np.float64), np.arange(count), count)


def weights_of(kind: str, width: int) -> Floats:
    return {
        "tied": np.array([0.1, 0.2, 0.3, 0.7] * width)[:width],
        "huge": np.where(np.arange(width) % 2, 1e17, -1e17),
        "plain": np.linspace(-1, 1, width),
    }[kind]


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(["tied", "huge", "plain"]),
    count=st.integers(2, 700),
    gone=st.integers(0, 10_000),
    codes=st.integers(0, 2**32 - 1),
)
def test_removing_a_patient_moves_nobody_elses_score_by_a_bit(
    kind: str, count: int, gone: int, codes: int
) -> None:
    rows = np.random.default_rng(codes).integers(0, 2, (count, WIDTH)).astype(np.float64)
    weights = weights_of(kind, WIDTH + 1)
    left = np.delete(rows, gone % count, axis=0)
    alone = np.delete(log_odds(small_study(), weights, rows), gone % count)
    assert (log_odds(small_study(), weights, left) == alone).all()


@pytest.mark.parametrize("model", ["mlp", "cnn", "pack", "sequence"])
def test_a_network_too_scores_each_record_as_if_it_were_alone(model: str) -> None:
    study = MODELS[model]
    weights, rows = initial_weights(study), made_up_inputs(study.data)[:60]
    scores = log_odds(study, weights, rows)
    for gone in (0, 31, 59):
        left = log_odds(study, weights, np.delete(rows, gone, axis=0))
        np.testing.assert_array_equal(left, np.delete(scores, gone))
    assert [log_odds(study, weights, row[None])[0] for row in rows] == scores.tolist()


@pytest.mark.parametrize("kind", ["tied", "huge", "plain"])
def test_one_patient_moves_the_evaluation_by_one(kind: str) -> None:
    study = small_study()
    rows = np.random.default_rng(1).integers(0, 2, (900, WIDTH)).astype(np.float64)
    weights = weights_of(kind, WIDTH + 1)
    whole = evaluation.sums(study, weights, patients(rows))
    labels = patients(rows).labels
    for gone in range(0, 900, 60):
        rest = patients(np.delete(rows, gone, axis=0))
        part = evaluation.sums(
            study, weights, Patients(rest.inputs, np.delete(labels, gone), rest.patient, 899)
        )
        assert np.linalg.norm(whole - part) == pytest.approx(1, abs=1e-9)


def test_a_release_is_the_clipped_sum_on_the_grid_plus_noise() -> None:
    study = small_study()
    inputs = np.random.default_rng(2).normal(size=(50, WIDTH))
    snapshot = Snapshot(patients(inputs), patients(inputs[:10]))
    exact = Trainer(study, snapshot, noise=NoNoise()).release("training", np.zeros(WIDTH + 1), 3)
    clip = study.mechanism.clip
    rows = np.hstack([inputs, np.ones((50, 1))]) * (0.5 - snapshot.training.labels)[:, None]
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    by_hand = (rows * np.minimum(1, clip / norms)).sum(axis=0)
    assert np.abs(exact - by_hand * GRID / clip).max() <= 0.51
    noisy = Trainer(study, snapshot).release("training", np.zeros(WIDTH + 1), 3)
    assert (noisy != exact).all()


@pytest.mark.parametrize("model", ["mlp", "cnn", "pack", "sequence"])
def test_a_networks_release_has_one_step_for_each_parameter(model: str) -> None:
    study = MODELS[model]
    some = patients(made_up_inputs(study.data)[:30])
    trainer, weights = Trainer(study, Snapshot(some, some)), initial_weights(study)
    first = trainer.release("training", weights, 3)
    assert first.shape == (parameter_count(study),)
    assert (first != trainer.release("training", weights, 3)).any()


def test_statistics_count_everyone_and_load_no_model() -> None:
    rows = made_up_inputs(COUNTED.data)
    snapshot = Snapshot(patients(rows[:50]), patients(rows[50:70]))
    trainer = Trainer(COUNTED, snapshot, noise=NoNoise())
    part = Plan.of(COUNTED).purpose("statistics")
    real = part.mechanism.to_real(trainer.release("statistics", np.zeros(0), 3))
    (block,) = statistics.layout(COUNTED)
    assert isinstance(block, Block)
    (row,) = statistics.in_units(COUNTED, block, real)
    for column in block.columns:
        cells = row[column.start : column.start + len(column.cells)]
        assert cells.sum() == pytest.approx(70, abs=1e-3)
    assert not hasattr(trainer, "_step")


def test_a_survey_of_flo_0_2_is_carried_out_by_nobody() -> None:
    some = patients(made_up_inputs(COUNTED.data)[:50])
    with pytest.raises(StudyError, match=r"no \[survey\] any more"):
        Trainer(surveyed(small_study(), epsilon=0.3, columns=["ward"]), Snapshot(some, some))


def test_two_releases_of_the_same_round_have_different_noise() -> None:
    inputs = np.zeros((30, WIDTH))
    trainer = Trainer(small_study(), Snapshot(patients(inputs), patients(inputs)))
    weights = np.zeros(WIDTH + 1)
    first = trainer.release("evaluation", weights, 3)
    assert (first != trainer.release("evaluation", weights, 3)).any()


def test_who_takes_part_in_a_sampled_round_is_drawn_anew_each_time() -> None:
    class Coins(NoNoise):
        """Quiet noise, and coins that fall on another third each time."""

        def __init__(self) -> None:
            self.thrown = 0

        def choose(self, probability: float, count: int) -> npt.NDArray[np.bool_]:
            assert (probability, count) == (0.25, 30)
            self.thrown += 1
            return np.asarray(np.arange(count) % 3 == self.thrown % 3)

    study = small_study().with_mechanism(sampling=0.25)
    some = patients(np.random.default_rng(3).normal(size=(30, WIDTH)))
    trainer = Trainer(study, Snapshot(some, some), noise=Coins())
    thirds = [trainer.release("training", np.zeros(WIDTH + 1), 3) for _ in range(3)]
    everyone = Trainer(study, Snapshot(some, some), noise=NoNoise())
    whole = everyone.release("training", np.zeros(WIDTH + 1), 3)
    assert len({third.tobytes() for third in thirds}) == 3
    assert np.abs(sum(thirds) - whole).max() <= 2  # roundings


ASKED = scorer(np.zeros(WIDTH + 1), None)  # a model of the study's own form
ONE_ROUND = {"algorithm": "least-squares", "steps": 1, "learning_rate": 0.0, "momentum": 0.0}
EVERY_WAY: dict[str, Study] = {
    **MODELS,
    "statistics": COUNTED,
    "monitor": period(),
    "flips": MODELS["cnn"].with_mechanism(augmentation="flips"),
    "least squares": MODELS["logistic"].with_mechanism(**ONE_ROUND),
    "sampled": MODELS["logistic"].with_mechanism(sampling=0.5),
}


@pytest.mark.slow
@pytest.mark.parametrize("way", EVERY_WAY)
@pytest.mark.parametrize("there", [(0, 0), (0, 5), (5, 0)], ids=["nobody", "tested", "trained"])
def test_a_site_without_patients_on_a_side_still_answers(way: str, there: tuple[int, int]) -> None:
    study = EVERY_WAY[way]
    trained, tested = (patients(made_up_inputs(study.data)[:count]) for count in there)
    trainer = Trainer(study, Snapshot(trained, tested), noise=NoNoise())
    for purpose in set(get_args(Purpose)) & set(study.purposes):
        asked = ASKED if purpose == "monitor" else initial_weights(study)
        found = trainer.release(purpose, asked, 3)
        of = {"training": there[0], "statistics": sum(there)}
        of |= dict.fromkeys(("evaluation", "monitor"), there[1])
        assert bool(found.any()) == bool(of[purpose])


def test_a_device_that_is_not_there_is_refused() -> None:
    assert choose_device("cpu") == "cpu"
    with pytest.raises(UsageError, match="auto, cpu, cuda"):
        choose_device("tpu")
