"""Every release carries noise of its own, of the stated variance, that no seed can repeat."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from flo.arrays import Integers
from flo.clients.data_process.trainer import Trainer
from flo.clients.records.snapshot import Snapshot
from flo.lab.canaries import request_for
from flo.privacy.accounting.plan import Plan
from flo.privacy.mechanisms.discrete_gaussian import Noise, SystemNoise
from flo.study.document import Study
from flo.study.models import initial_weights
from flo.study.terms import Purpose
from tests.builders import NoNoise
from tests.privacy.frozen import STUDIES, ordinary

PURPOSES: list[tuple[str, Purpose]] = [
    ("logistic", "training"),
    ("mlp", "training"),
    ("logistic", "evaluation"),
    ("by ward", "evaluation"),
    ("statistics", "statistics"),
    ("statistics", "regression"),
    ("whitened", "moments"),
    ("whitened", "training"),
]


def assert_noise_is_as_stated(study: Study, purpose: Purpose, noise: Noise) -> None:
    """Two releases of one sum differ, and their noise has the stated variance.

    Σ residual² / variance follows χ² with n > 1500 degrees of freedom, within 6·√(2/n) of n: a
    false alarm has probability below 1e-8.
    """
    rest = ordinary(study)
    still = Trainer(study, Snapshot(rest, rest), noise=NoNoise())
    noisy = Trainer(study, Snapshot(rest, rest), noise=noise)
    mechanism = Plan.of(study).purpose(purpose).mechanism
    weights = request_for(study, purpose, initial_weights(study))
    exact = still.release(purpose, weights, 3)
    releases = [
        noisy.release(purpose, weights, 3) - exact for _ in range(1 + 1500 // mechanism.length)
    ]
    assert len({release.tobytes() for release in releases}) == len(releases)
    residuals = np.concatenate(releases).astype(np.float64)
    ratio = float((residuals**2).mean()) / mechanism.variance_steps()
    assert abs(ratio - 1) <= 6 * (2 / len(residuals)) ** 0.5


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
        return self.kept[variance, size].copy()


@pytest.mark.slow
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
    file, released = ordinary(study), []
    weights = request_for(study, purpose, initial_weights(study))
    for _ in range(2):
        torch.manual_seed(0)
        np.random.seed(0)
        trainer = Trainer(study, Snapshot(file, file))
        released.append(trainer.release(purpose, weights, 3))
    assert (released[0] != released[1]).any()


def test_setting_every_seed_there_is_chooses_other_patients() -> None:
    chosen = []
    for _ in range(2):
        torch.manual_seed(0)
        np.random.seed(0)
        chosen.append(SystemNoise().choose(0.5, 300))
    assert (chosen[0] != chosen[1]).any()
