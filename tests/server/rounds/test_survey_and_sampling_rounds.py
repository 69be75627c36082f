"""The coordinator's rules for surveys, sampled batches and subgroups."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from flo.privacy.accounting.plan import Plan, combined_variance
from flo.privacy.mechanisms.mechanisms import GRID
from flo.privacy.releases import survey
from flo.privacy.releases.score_waves import vectors
from flo.server.rounds import checkpoint
from flo.server.rounds.state import EVERYONE, RunState, request_header, retried
from flo.study.document import Study
from flo.study.models import parameter_count
from tests.builders import HOSPITALS, small_study, study_document
from tests.secure_sums import advance


def survey_study(**mechanism: Any) -> Study:
    document = study_document(survey={"epsilon": 0.5, "columns": ["age", "ward"], "bins": 2})
    document["mechanism"].update(mechanism)
    return small_study(**document)


def on_grid(study: Study, purpose: str, counts: list[float]) -> npt.NDArray[np.int64]:
    """A release that means these counts, without noise."""
    norm = Plan.of(study).purpose(purpose).mechanism.norm
    return np.rint(np.array(counts) * GRID / norm).astype(np.int64)


COUNTS = [25.0, 15.0, 10.0, 30.0, 20.0, 10.0, 5.0, 5.0]  # ill 0 and 1; two ages; a, b, c, missing


def test_a_survey_is_one_question_and_its_counts_are_read_by_hospital_and_for_all() -> None:
    study = survey_study()
    state = RunState.start(study)
    header = request_header(study, "run-1", state, "join", HOSPITALS)
    assert (header.purpose, header.round, state.asked.size) == ("survey", 1, 0)
    values = {name: on_grid(study, "survey", COUNTS) for name in HOSPITALS}
    state = advance(study, state, values)
    assert state.phase == "done"
    assert state.purpose == "survey"
    assert set(state.counted) == {*HOSPITALS, EVERYONE}
    label, age, ward = state.counted["north"]
    assert (label.column, age.column, ward.column) == ("ill", "age", "ward")
    assert label.patients == pytest.approx((25, 15), abs=1e-3)
    assert age.cells == ("0 to 50", "50 to 100")
    assert ward.cells == ("a", "b", "c", "missing")
    assert ward.patients == pytest.approx((20, 10, 5, 5), abs=1e-3)
    assert state.counted[EVERYONE][2].patients == pytest.approx((60, 30, 15, 15), abs=1e-2)


def test_the_interval_of_a_sum_covers_the_noise_of_all_who_are_in_it() -> None:
    study = survey_study()
    part = Plan.of(study).purpose("survey")
    values = {name: on_grid(study, "survey", COUNTS) for name in HOSPITALS}
    counted = advance(study, RunState.start(study), values).counted
    alone, all_of_them = counted["north"][0].half_width, counted[EVERYONE][0].half_width
    assert alone == pytest.approx(survey.half_width(combined_variance(study, part, 1)))
    assert all_of_them == pytest.approx(alone * np.sqrt(3))


def test_no_single_hospitals_counts_are_read_from_shares_of_distributed_noise() -> None:
    study = survey_study(noise="distributed", masking="on")
    values = {name: on_grid(study, "survey", COUNTS) for name in HOSPITALS}
    assert set(advance(study, RunState.start(study), values).counted) == {EVERYONE}


def test_a_sampled_sum_is_divided_by_the_patients_expected_in_it() -> None:
    document = study_document()
    document["mechanism"]["sampling"] = 0.5
    sampled, whole = small_study(**document), small_study()
    steps = np.full(parameter_count(whole), 10 * GRID, dtype=np.int64)
    moved = [
        advance(study, RunState.start(study), dict.fromkeys(HOSPITALS, steps)).weights
        for study in (sampled, whole)
    ]
    np.testing.assert_allclose(moved[0], 2 * moved[1])


def test_a_retry_of_a_survey_is_free_with_local_noise_and_allowed_for_with_distributed() -> None:
    assert retried(survey_study(), RunState.start(survey_study()), drawn=True) is not None
    shared = survey_study(noise="distributed", masking="on")
    assert Plan.of(shared).purpose("survey").allowance == 0
    assert retried(shared, RunState.start(shared), drawn=True) is None


def test_a_checkpoint_keeps_counts_and_subgroups() -> None:
    study = survey_study()
    values = {name: on_grid(study, "survey", COUNTS) for name in HOSPITALS}
    done = advance(study, RunState.start(study), values)
    assert checkpoint.from_bytes(checkpoint.to_bytes(done)).counted == done.counted

    document = study_document()
    document["evaluation"]["subgroups"] = ["ward"]
    grouped = small_study(**document)
    state = RunState.start(grouped)
    zeros = np.zeros(parameter_count(grouped), dtype=np.int64)
    for _ in range(3):
        state = advance(grouped, state, dict.fromkeys(HOSPITALS, zeros))
    told = [vectors(np.array([0.3, 0.4])).sum(0), vectors(np.array([0.5, 0.6])).sum(0)]
    counts = on_grid(grouped, "evaluation", np.concatenate(told * 4).tolist())
    done = advance(grouped, state, dict.fromkeys(HOSPITALS, counts))
    assert set(done.subgroups) == {f"ward={code}" for code in ("a", "b", "c", "missing")}
    again = checkpoint.from_bytes(checkpoint.to_bytes(done))
    assert (again.subgroups, again.estimate) == (done.subgroups, done.estimate)
    assert again.purpose == "evaluation"
