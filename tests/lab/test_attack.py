"""The attack finds a trainer that lost its noise or its clipping, and no fault in a right one.

Canaries and coins are drawn anew in every run. To be refuted, ε = .9 takes about 383 right guesses
of 504 (157 of 200). A right trainer gives 280 or so (115), standard deviation 11 (7); a broken one
at least 417 (182), standard deviation 9 (5). A test fails by chance with a probability below 1e-4.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w

from flo.cli import main
from flo.clients.data_process.trainer import Trainer
from flo.clients.records.snapshot import Snapshot
from flo.errors import UsageError
from flo.lab import attack as module
from flo.lab.attack import Attacked, attack
from flo.lab.canaries import made_up_patients
from flo.privacy.accounting.audit_bound import lower_bound
from flo.privacy.accounting.plan import Plan
from flo.privacy.releases import second_moments
from flo.study.document import Study, from_document
from flo.study.loading import load
from tests.builders import NoNoise, small_study, surveyed
from tests.paths import EXAMPLES

HEART = EXAMPLES / "heart" / "study.toml"


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def heart() -> Study:
    """The example, with all of its noise at one hospital: that is what one can attack."""
    return load(HEART).with_mechanism(noise="local")


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enough canaries for what is badly broken."""
    monkeypatch.setattr(module, "_CANARIES", 400)


def variant(study: Study, **changes: dict[str, Any]) -> Study:
    """The study with other settings, and few steps: the noise of a step is calibrated to them."""
    document = study.model_dump(mode="json")
    for name, values in ({"mechanism": {"steps": 5}} | changes).items():
        document[name] = document[name] | values if name == "mechanism" else values
    return from_document(document)


# The clip is far below the gradients of most patients.
TIGHT = {"algorithm": "fedavgm", "steps": 5, "clip": 0.05}


def sampled(study: Study) -> Study:
    return variant(study, mechanism=TIGHT | {"sampling": 0.5})


def mlp(study: Study) -> Study:
    return variant(study, mechanism=TIGHT, model={"kind": "mlp", "hidden": [4]})


def whitened_mlp(study: Study) -> Study:
    return variant(study, mechanism={"steps": 5}, model={"kind": "mlp", "hidden": [4]})


def one_round(study: Study) -> Study:
    least_squares = {"algorithm": "least-squares", "learning_rate": 0.0, "momentum": 0.0}
    return variant(study, mechanism={"steps": 1, "clip": 0.02, **least_squares})


def silent(study: Study, snapshot: Snapshot) -> Trainer:
    """A trainer whose noise was lost; coins for sampling still fall."""

    class Silent(NoNoise):
        def choose(self, probability: float, count: int) -> np.ndarray:
            return np.random.default_rng().random(count) < probability

    return Trainer(study, snapshot, noise=Silent())


def unclipped(study: Study, snapshot: Snapshot) -> Trainer:
    """A trainer whose clipping was lost."""
    trainer = Trainer(study, snapshot)
    trainer._step._clip = 1e9
    return trainer


def too_little_noise(study: Study, snapshot: Snapshot) -> Trainer:
    """A trainer that was calibrated for another study: a thirtieth of the noise."""
    trainer = Trainer(study, snapshot)
    part = trainer._plan.purposes["training"]
    quieter = part.mechanism.with_noise(part.mechanism.noise_multiplier / 30)
    trainer._plan = Plan({"training": replace(part, mechanism=quieter)})
    return trainer


# -- a right trainer -------------------------------------------------------------------------------


def consistent(study: Study, found: Attacked) -> None:
    part = Plan.of(study).purpose("training")
    assert found.claimed == part.epsilon
    assert found.guesses == found.canaries // 2
    assert 0 <= found.right <= found.guesses
    each = 0.05 / 4  # four ways to guess share the error
    bound = lower_bound(found.canaries, found.guesses, found.right, part.delta, 1 - each)
    assert found.lower_bound == bound


@pytest.mark.slow
def test_no_fault_is_found_in_the_heart_study(heart: Study) -> None:
    found = attack(heart)
    consistent(heart, found)
    assert found.canaries >= 1000
    assert found.lower_bound < found.claimed
    assert not found.broken


@pytest.mark.slow
@pytest.mark.parametrize(
    "of",
    [mlp, whitened_mlp, sampled, one_round],
    ids=["mlp", "mlp on whitened inputs", "sampled batches", "least squares"],
)
def test_no_fault_is_found_in_other_models_and_samplings(heart: Study, few: None, of: Any) -> None:
    study = of(heart)
    found = attack(study)
    consistent(study, found)
    assert not found.broken


# -- a broken one ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("broken", [silent, unclipped], ids=lambda make: make.__name__)
def test_a_broken_trainer_of_the_heart_study_is_found(heart: Study, broken: Any) -> None:
    found = attack(heart, make_trainer=broken)
    consistent(heart, found)
    assert found.broken
    assert found.lower_bound > found.claimed


@pytest.mark.slow
@pytest.mark.parametrize("broken", [silent, unclipped], ids=lambda make: make.__name__)
@pytest.mark.parametrize(
    "of",
    [mlp, whitened_mlp, sampled],
    ids=["mlp", "mlp on whitened inputs", "sampled batches"],
)
def test_a_broken_trainer_is_found_with_other_models_and_samplings(
    heart: Study, few: None, of: Any, broken: Any
) -> None:
    assert attack(of(heart), make_trainer=broken).broken


def test_least_squares_without_noise_is_found(heart: Study, few: None) -> None:
    assert attack(one_round(heart), make_trainer=silent).broken


def test_least_squares_without_clipping_is_found(
    heart: Study, few: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(second_moments, "clip_factors", lambda norms, clip: np.ones(len(norms)))
    assert attack(one_round(heart)).broken


def test_a_trainer_with_a_thirtieth_of_the_noise_is_found(heart: Study, few: None) -> None:
    assert attack(variant(heart), make_trainer=too_little_noise).broken


# -- what it attacks, and what it refuses ----------------------------------------------------------


def test_a_survey_is_refused(heart: Study) -> None:
    with pytest.raises(UsageError, match="trains no model"):
        attack(surveyed(heart, epsilon=0.3, columns=["sex"]))


@pytest.mark.slow
def test_under_distributed_noise_the_sum_of_the_shares_is_attacked(heart: Study, few: None) -> None:
    shared = variant(heart, mechanism={"noise": "distributed"})
    found = attack(shared)
    assert found.claimed == Plan.of(shared).purpose("training").epsilon
    assert not found.broken
    assert attack(shared, make_trainer=silent).broken


def test_made_up_patients_stand_at_the_edges_of_the_studys_bounds() -> None:
    patients = made_up_patients(small_study().data, 200)
    age, ward = patients.inputs[:, 0], patients.inputs[:, 1:4]
    assert set(age) == {-1.0, 1.0}
    assert (ward.sum(1) == 1).all()
    assert (ward.sum(0) > 0).all()
    assert set(patients.labels) == {0.0, 1.0}
    assert list(patients.patient) == list(range(200)) == list(range(patients.count))


def test_progress_names_every_shadow_site(heart: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CANARIES", 40)
    told: list[str] = []
    attack(variant(heart), progress=told.append)
    assert told == [f"shadow site {n} of 3" for n in (1, 2, 3)]


# -- the command -----------------------------------------------------------------------------------


@pytest.fixture
def study_file(heart: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(module, "_CANARIES", 200)
    path = tmp_path / "study.toml"
    document = variant(heart).model_dump(mode="json", exclude_none=True)
    path.write_bytes(tomli_w.dumps(document).encode())
    return path


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> object:
    monkeypatch.setattr(sys, "argv", ["flo", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


@pytest.mark.slow
def test_the_command_ends_in_0_for_a_right_trainer(
    study_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    result = study_file.with_name("attack.json")
    assert run(monkeypatch, "audit", "attack", str(study_file), "--json", str(result)) == 0
    text = capsys.readouterr().out
    assert "no bug found. This cannot certify an ε below 1" in text
    training = Plan.of(load(study_file)).purpose("training").epsilon
    assert f"claimed for them is {training:.3f}" in text
    document = json.loads(result.read_text())
    assert set(document) == {
        "schema_version",
        "private",
        "checks",
        "claimed",
        "lower_bound",
        "confidence",
        "canaries",
        "guesses",
        "right",
    }
    assert document["private"] is False
    assert document["lower_bound"] < document["claimed"]


@pytest.mark.slow
def test_the_command_ends_in_4_for_a_broken_trainer(
    study_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("flo.clients.data_process.trainer.SystemNoise", NoNoise)
    assert run(monkeypatch, "audit", "attack", str(study_file)) == 4
    shown = capsys.readouterr()
    assert "(100.0%; 50 % is chance)" in shown.out
    assert "too little noise (training); a release (training)" in shown.err
    assert "do not run studies with it" in shown.err


def test_the_command_refuses_a_survey(
    heart: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = surveyed(heart, epsilon=0.3, columns=["sex"])
    path = tmp_path / "survey.toml"
    path.write_bytes(tomli_w.dumps(asked.model_dump(mode="json", exclude_none=True)).encode())
    assert run(monkeypatch, "audit", "attack", str(path)) == 2
