"""The coordinator's rules for studies of statistics: tables in one round, regressions in six."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from flo.arrays import Floats
from flo.clients.data_process.trainer import Trainer
from flo.clients.records.snapshot import Snapshot
from flo.errors import MessageError
from flo.privacy.accounting.plan import Plan, combined_variance
from flo.privacy.mechanisms.discrete_gaussian import SystemNoise
from flo.privacy.patients.patients import Patients
from flo.privacy.releases import fisher_scoring, regressions, statistics
from flo.server.api.run_api import _refuse_foreign_statistics
from flo.server.rounds import checkpoint
from flo.server.rounds.state import RunState, request_header
from flo.server.runs.execute import _counted
from flo.study.columns import CategoryColumn, NumberColumn
from flo.study.document import Study
from flo.study.features import encode_category, encode_number
from flo.study.statistics import ROUNDS
from tests.builders import HOSPITALS, NoNoise
from tests.flo.study.test_statistics_terms import AGE, ILL, TABLE, asked
from tests.secure_sums import advance

UNMASKED = {"noise": "local", "masking": "off", "delta": 1e-6}
STUDY = asked(TABLE, ILL, AGE, mechanism=UNMASKED)
PARTS: list[list[dict[str, Any]]] = [[TABLE], [ILL], [TABLE, ILL, AGE]]


def patients_of(study: Study, seed: int) -> Patients:
    """300 patients; the older, and those of ward b, are more often ill."""
    age, ward = study.data.columns
    assert isinstance(age, NumberColumn)
    assert isinstance(ward, CategoryColumn)
    draw = np.random.default_rng(seed)
    ages, wards = draw.uniform(0, 100, 300), draw.integers(0, 3, 300)
    ill = draw.random(300) < 0.2 + ages / 250 + 0.2 * (wards == 1)
    inputs = np.hstack([encode_number(age, ages), encode_category(ward, wards)])
    return Patients(inputs, ill.astype(float), np.arange(300), 300)


def sites(study: Study) -> dict[str, Snapshot]:
    return {
        name: Snapshot(patients_of(study, seed), patients_of(study, 10 + seed))
        for seed, name in enumerate(HOSPITALS)
    }


def round_after(study: Study, state: RunState, noise: bool = False) -> RunState:
    drawn = SystemNoise() if noise else NoNoise()
    values = {
        name: Trainer(study, snapshot, noise=drawn).release(
            state.purpose_in(study), state.asked, len(HOSPITALS)
        )
        for name, snapshot in sites(study).items()
    }
    return advance(study, state, values)


def finished(study: Study, noise: bool = False) -> list[RunState]:
    """All states of a run. Each state is the saved one, as after a kill."""
    states = [RunState.start(study)]
    while states[-1].phase != "done":
        saved = checkpoint.to_bytes(round_after(study, states[-1], noise))
        states.append(checkpoint.from_bytes(saved))
    return states


@pytest.mark.parametrize("parts", PARTS, ids=["tables", "regressions", "both"])
def test_purposes_follow_each_other_and_the_last_is_that_of_the_end(
    parts: list[dict[str, Any]],
) -> None:
    study = asked(*parts, mechanism=UNMASKED)
    states = finished(study)
    expected = [p for p in study.purposes for _ in range(ROUNDS if p == "regression" else 1)]
    assert [state.purpose_in(study) for state in states[:-1]] == expected
    assert states[-1].purpose_in(study) == study.purposes[-1]
    assert [state.round for state in states[:-1] if state.phase == "regression"] == list(
        range(1, 1 + ROUNDS if "regression" in study.purposes else 1)
    )


def test_a_request_carries_nothing_for_tables_and_coefficients_for_regressions() -> None:
    states = finished(STUDY)
    header = request_header(STUDY, "run-1", states[0], "join", HOSPITALS)
    assert (header.purpose, states[0].asked.size) == ("statistics", 0)
    assert not states[1].asked.any(), "the first round of regressions asks at zero"
    assert states[2].asked.any()
    assert [state.asked.size for state in states[1:-1]] == [7] * ROUNDS


def test_a_run_ends_with_the_sums_of_every_round_and_of_whom_they_are() -> None:
    states = finished(STUDY)
    told = _counted(STUDY, states[-1])
    assert told["rounds"] == 1 + ROUNDS
    found = told["statistics"]
    assert found["hospitals"] == sorted(HOSPITALS)
    assert len(found["values"]) == statistics.length(STUDY)
    assert len(found["rounds"]) == ROUNDS
    for state, one in zip(states[1:], found["rounds"], strict=False):
        expected = sum(
            regressions.exact(STUDY, patients, state.asked)
            for snapshot in sites(STUDY).values()
            for patients in (snapshot.training, snapshot.held_out)
        )
        assert one["hospitals"] == sorted(HOSPITALS)
        assert one["asked"] == state.asked.tolist()
        assert one["values"] == pytest.approx(expected, abs=1e-3)
    _refuse_foreign_statistics(STUDY, found)


def test_what_was_asked_follows_from_the_published_sums_alone() -> None:
    """So whoever reads the file computes the coefficients again."""
    states = finished(STUDY, noise=True)
    last = states[-1]
    variance = combined_variance(STUDY, Plan.of(STUDY).purpose("regression"), len(HOSPITALS))
    rounds = fisher_scoring.rounds_of(
        last.regressed, last.regressed_at, [variance] * ROUNDS, last.regressed_of
    )
    for number, state in enumerate(states[1:-1]):
        again: Floats = fisher_scoring.next_coefficients(STUDY, rounds[:number])
        assert state.asked == pytest.approx(again)


def test_a_run_that_was_cut_short_ends_with_what_was_released() -> None:
    states = finished(STUDY)
    told = _counted(STUDY, states[3])
    assert told["rounds"] == 3
    found = told["statistics"]
    assert len(found["values"]) == statistics.length(STUDY)
    assert len(found["rounds"]) == 2
    _refuse_foreign_statistics(STUDY, found)
    assert "statistics" not in _counted(STUDY, states[0]), "nothing was released yet"


@pytest.mark.parametrize(
    "change",
    [
        {"rounds": [{"values": [1.0], "asked": [0.0] * 7, "hospitals": ["north"]}]},
        {"values": [1.0]},
        {"hospitals": ["nobody"]},
    ],
    ids=str,
)
def test_a_jobs_sums_of_another_study_are_refused(change: dict[str, Any]) -> None:
    found = _counted(STUDY, finished(STUDY)[-1])["statistics"]
    with pytest.raises(MessageError, match="not of this study"):
        _refuse_foreign_statistics(STUDY, found | change)


def test_a_state_of_a_round_is_the_same_after_a_restart() -> None:
    state = finished(STUDY)[3]
    again = checkpoint.from_bytes(checkpoint.to_bytes(state))
    assert again.regressed == pytest.approx(state.regressed, abs=0)
    assert again.regressed_of == state.regressed_of
    assert replace(again, regressed=state.regressed, weights=state.weights).phase == "regression"
