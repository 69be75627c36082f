"""Where the training of a study that continues a model starts, and what it publishes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from flo.privacy.accounting.plan import Plan
from flo.privacy.releases import whitening
from flo.server.rounds import checkpoint
from flo.server.rounds.continuing import LITTLE, EarlierModel, combined, mean_of
from flo.server.rounds.state import RunState, with_model_of_inputs
from flo.study.document import Study
from flo.study.models import initial_weights, log_odds, parameter_count
from flo.study.usual import worth
from tests.builders import HOSPITALS, WHITENED, small_study
from tests.privacy.releases.test_whitening import shares
from tests.secure_sums import advance
from tests.server.in_memory_run import WHITENED_MODE, Killed, Stage, company_study

NETWORK: dict[str, Any] = {"model": {"kind": "mlp", "hidden": [3]}}
FEW, MANY = 40, 4000  # patients of each hospital: a study worth less, and more, than ``LITTLE``


def study_of(patients: int, *, network: bool = False, **mechanism: Any) -> Study:
    hospitals = [{"id": name, "declared_size": patients} for name in HOSPITALS]
    study = small_study(hospitals=hospitals, **(NETWORK if network else {}))
    return study.with_mechanism(**mechanism)


def earlier_of(study: Study, worth_: float = 100.0) -> EarlierModel:
    return EarlierModel(np.random.default_rng(3).normal(size=parameter_count(study)), worth_)


def trained(study: Study, earlier: EarlierModel | None) -> RunState:
    """The state after training with releases that depend on nothing but the state."""
    state = RunState.start(study, earlier)
    while state.phase != "evaluation":
        length = Plan.of(study).purpose(state.purpose_in(study)).mechanism.length
        even = np.arange(length, dtype=np.int64) << 15
        state = advance(study, state, dict.fromkeys(HOSPITALS, even))
    return state


@pytest.mark.parametrize("network", [False, True], ids=["logistic", "network"])
@pytest.mark.parametrize("patients", [FEW, MANY])
def test_training_starts_where_the_rule_says(patients: int, *, network: bool) -> None:
    study = study_of(patients, network=network)
    assert (worth(study) > LITTLE) == (patients == MANY)
    earlier, state = earlier_of(study), RunState.start(study, earlier_of(study))
    from_earlier = network or patients == MANY
    start = earlier.weights if from_earlier else initial_weights(study)
    assert state.asked == pytest.approx(start, rel=1e-6)
    assert state.asked.dtype == RunState.start(study).asked.dtype


@pytest.mark.parametrize("algorithm", ["fedavgm", "least-squares"])
def test_the_evaluation_asks_about_the_combined_model(algorithm: str) -> None:
    mechanism: dict[str, Any] = {"algorithm": algorithm}
    if algorithm == "least-squares":
        mechanism |= {"steps": 1, "learning_rate": 0.0, "momentum": 0.0}
    study = study_of(FEW, **mechanism)
    alone, state = trained(study, None), trained(study, earlier_of(study))
    assert state.phase == "evaluation"
    assert state.asked is state.model
    assert state.model == pytest.approx(combined(study, alone.model, earlier_of(study)))
    assert state.earlier.size == 0, "it is part of the model now, and is not saved any more"


def test_on_whitened_inputs_training_starts_from_a_model_with_the_same_scores() -> None:
    study = study_of(MANY, **WHITENED)
    earlier = earlier_of(study)
    state = RunState.start(study, earlier)
    state = advance(study, state, shares(state, study))
    assert state.phase == "training"
    assert state.weights != pytest.approx(earlier.weights)
    inputs = np.random.default_rng(4).normal(size=(9, parameter_count(study) - 1))
    shown = with_model_of_inputs(study, state)
    assert log_odds(study, shown.model, inputs) == pytest.approx(
        log_odds(study, earlier.weights, inputs)
    )


def test_a_model_whose_training_was_stopped_is_one_of_the_studys_inputs() -> None:
    """Not of the whitened inputs, with which nobody who fetches it could score a patient."""
    study = study_of(MANY, **WHITENED)
    state = RunState.start(study)
    for _ in range(3):
        state = advance(study, state, shares(state, study))
    assert state.phase == "training"
    shown = with_model_of_inputs(study, state)
    assert shown.model == pytest.approx(whitening.of_inputs(study, state.weights, state.whitening))
    assert shown.model != pytest.approx(state.weights)
    assert with_model_of_inputs(study, shown) is shown


def test_several_models_are_one_by_what_they_are_worth() -> None:
    models = [EarlierModel(np.full(2, value), value) for value in (1.0, 3.0)]
    found = mean_of(models)
    assert found.weights == pytest.approx((1 + 9) / 4)
    assert found.worth == 4.0


@pytest.mark.parametrize("size", ["in the document", "beside it"])
def test_a_saved_state_keeps_the_earlier_model(size: str) -> None:
    study = study_of(FEW)
    state, kept = RunState.start(study, earlier_of(study)), dict[str, Any]()
    if size == "beside it":
        state = replace(state, earlier=np.linspace(0, 1, 10_000))

    def keep(name: str, vector: Any) -> str:
        kept[name] = vector
        return name

    data = checkpoint.to_bytes(state, keep)
    assert list(kept) == (["earlier"] if size == "beside it" else [])
    again = checkpoint.from_bytes(data, lambda name, key, kind, length: kept[key])
    assert again.earlier.tobytes() == state.earlier.tobytes()
    assert again.earlier_worth == 100.0


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["masking off", *WHITENED_MODE])
def test_a_run_that_continues_a_model_and_is_killed_ends_as_if_undisturbed(mode: str) -> None:
    study = company_study(mode)
    whole = Stage(study, earlier=earlier_of(study))
    end = whole.run()
    assert end.phase == "done"
    assert (end.model != Stage(study).run().model).all()
    for save in range(1, len(whole.saves) + 1):
        run = Stage(study, earlier=earlier_of(study), killed_after=("save", save))
        with pytest.raises(Killed):
            run.run()
        assert run.run_again().model.tobytes() == end.model.tobytes(), save
