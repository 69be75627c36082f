"""Every broken trainer is caught, by the check that is meant for it; a right one passes.

A right trainer fails one of some fifty checks with a chance of at most 5e-4 a run; how often it
does is a row of ``make proofs``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from flo.clients.data_process.trainer import Trainer
from flo.lab import release_checks
from flo.lab.release_checks import Check, NoNoise, checks
from flo.privacy.mechanisms.discrete_gaussian import Noise, SystemNoise
from flo.privacy.releases import second_moments
from flo.study.document import Study
from flo.study.loading import load
from tests.builders import WHITENED, small_study, study_document
from tests.lab.broken_trainers import BROKEN
from tests.paths import EXAMPLES

HEART = load(EXAMPLES / "heart" / "study.toml")
STUDIES: dict[str, Study] = {
    "distributed": HEART,
    "local": HEART.with_mechanism(noise="local"),
}
every_noise = pytest.mark.parametrize("study", STUDIES.values(), ids=STUDIES.keys())
pytestmark = pytest.mark.usefixtures("one_thread")


def failed(study: Study, **how: Any) -> dict[str, Check]:
    return {check.name: check for check in checks(study, **how) if check.failed}


def test_the_noise_of_a_gate_is_looked_at_unless_its_current_model_is_not_known_yet() -> None:
    terms = {"epsilon": 0.2}
    for gate, seen in ((terms, True), (terms | {"current": "ab" * 32}, False)):
        found = list(checks(small_study(schema_version=4, gate=gate)))
        assert [check for check in found if check.failed] == []
        assert ("gate" in {check.of for check in found}) is seen


@every_noise
def test_a_right_trainer_passes(study: Study) -> None:
    found = list(checks(study))
    assert [check for check in found if check.failed] == []
    assert all(check.seen for check in found)
    cohorts = 2 if study.mechanism.noise == "distributed" else 1
    assert len(found) == 3 * 6 * cohorts + 2
    assert all(0 < check.p <= 1 for check in found)


@pytest.mark.slow
@every_noise
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_trainer_is_caught(
    study: Study, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(release_checks, "_RELEASES", 15)  # a third of what the command takes
    make, meant = BROKEN[name]
    assert meant in failed(study, make_trainer=make)


_ONE_SUM = {"algorithm": "least-squares", "steps": 1, "learning_rate": 0.0, "momentum": 0.0}


@pytest.mark.parametrize(
    ("model", "mechanism"),
    [
        pytest.param({"kind": "mlp", "hidden": [4]}, {}, id="mlp", marks=pytest.mark.slow),
        pytest.param(
            *({"kind": "mlp", "hidden": [4, 3]}, WHITENED),
            id="mlp on whitened inputs",
            marks=pytest.mark.slow,
        ),
        pytest.param({"kind": "logistic"}, {**_ONE_SUM, "clip": 0.3}, id="least squares"),
    ],
)
def test_networks_and_least_squares_are_checked_too(
    model: dict[str, Any], mechanism: dict[str, Any]
) -> None:
    study = small_study(model=model, mechanism=study_document()["mechanism"] | mechanism)
    assert failed(study) == {}
    assert "too little noise" in failed(study, make_trainer=BROKEN["half of the noise"][0])


def test_second_moments_that_are_not_clipped_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(second_moments, "clip_factors", lambda norms, clip: np.ones(len(norms)))
    (check,) = (check for check in checks(STUDIES["local"]) if check.failed)
    assert (check.of, check.name) == ("moments", "clip")


@pytest.mark.slow
def test_coins_that_always_fall_on_yes_are_caught() -> None:
    study = small_study().with_mechanism(sampling=0.5)
    assert failed(study) == {}

    class EveryoneIsIn(NoNoise):
        def __init__(self, given: Noise) -> None:
            self._given = given

        def sample(self, variance: int, size: int) -> npt.NDArray[np.int64]:
            return self._given.sample(variance, size)

    def make(study: Study, snapshot: Any, *, noise: Any = None, **known: Any) -> Trainer:
        return Trainer(study, snapshot, noise=EveryoneIsIn(noise or SystemNoise()), **known)

    assert set(failed(study, make_trainer=make)) == {"sampling"}


def test_a_clip_that_nobody_reaches_is_not_said_to_be_seen() -> None:
    study = small_study().with_mechanism(clip=1000.0)
    (clip,) = [check for check in checks(study) if check.name == "clip"]
    assert (clip.seen, clip.failed) == (False, False)


def test_noise_that_two_sites_have_in_common_is_caught() -> None:
    """Each site's own noise is right in every way."""
    made = BROKEN["a constant seed"][0]
    found = failed(STUDIES["local"], make_trainer=made)
    assert {"equal numbers"} <= set(found) <= {"equal numbers", "repeated"}


def test_the_chance_of_a_false_alarm_is_what_is_stated() -> None:
    """p-values of right noise are even, or larger: 400 draws of each check."""
    generator = np.random.default_rng(11)
    ps: dict[str, list[float]] = {}
    for _ in range(400):
        noise = np.rint(generator.normal(scale=1e5, size=(20, 30))).astype(np.int64)
        for check in release_checks._of_noise("training", noise, 10**10):
            ps.setdefault(check.name, []).append(check.p)
    for name, found in ps.items():
        small = sum(p < 0.1 for p in found)
        # At a chance of .1 a false alarm of this test is below 1e-6.
        assert small <= stats.binom.ppf(1 - 1e-6, 400, 0.1), name


def test_the_noise_of_a_share_and_of_a_smaller_cohort_are_looked_at() -> None:
    found = {check.of for check in checks(HEART)}
    assert found == {
        *("moments, 3 hospitals", "moments, 4 hospitals", "moments"),
        *("training, 3 hospitals", "training, 4 hospitals", "training"),
        *("evaluation, 3 hospitals", "evaluation, 4 hospitals"),
    }
