"""What a site computes: nobody's part depends on anybody else, and noise comes on top."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flo.clients.snapshot import Snapshot
from flo.clients.trainer import Trainer, choose_device
from flo.errors import UsageError
from flo.models import log_odds, parameter_count
from flo.privacy.evaluation import histogram, public_edges
from flo.privacy.mechanisms import GRID
from flo.privacy.patients import Patients
from tests.builders import NoNoise, small_study

Floats = npt.NDArray[np.float64]
WIDTH = parameter_count(small_study()) - 1


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
    alone = np.delete(log_odds(weights, rows), gone % count)
    assert (log_odds(weights, left) == alone).all()


@pytest.mark.parametrize("kind", ["tied", "huge", "plain"])
def test_one_patient_moves_the_evaluation_by_one(kind: str) -> None:
    study = small_study()
    rows = np.random.default_rng(1).integers(0, 2, (900, WIDTH)).astype(np.float64)
    weights = weights_of(kind, WIDTH + 1)
    edges = public_edges(study, weights)

    def cells(inputs: Floats, labels: Floats) -> Floats:
        n = len(inputs)
        return histogram(log_odds(weights, inputs), labels, np.arange(n), n, edges)

    labels = (np.arange(900) % 2).astype(np.float64)
    whole = cells(rows, labels)
    for gone in range(0, 900, 7):
        part = cells(np.delete(rows, gone, axis=0), np.delete(labels, gone))
        assert np.linalg.norm(whole - part) == 1


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


def test_two_releases_of_the_same_round_have_different_noise() -> None:
    inputs = np.zeros((30, WIDTH))
    trainer = Trainer(small_study(), Snapshot(patients(inputs), patients(inputs)))
    weights = np.zeros(WIDTH + 1)
    first = trainer.release("evaluation", weights, 3)
    assert (first != trainer.release("evaluation", weights, 3)).any()


def test_a_site_without_patients_still_answers() -> None:
    nobody = patients(np.zeros((0, WIDTH)))
    trainer = Trainer(small_study(), Snapshot(nobody, nobody), noise=NoNoise())
    assert not trainer.release("training", np.zeros(WIDTH + 1), 3).any()
    assert not trainer.release("evaluation", np.zeros(WIDTH + 1), 3).any()


def test_a_device_that_is_not_there_is_refused() -> None:
    assert choose_device("cpu") == "cpu"
    with pytest.raises(UsageError, match="auto, cpu, cuda"):
        choose_device("tpu")
