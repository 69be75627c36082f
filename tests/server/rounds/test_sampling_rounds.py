"""The coordinator's rules for sampled batches and subgroups; no run of a survey begins."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from flo.errors import StudyError
from flo.privacy.accounting.plan import Plan
from flo.privacy.mechanisms.mechanisms import GRID
from flo.privacy.releases.score_waves import vectors
from flo.server.rounds import checkpoint
from flo.server.rounds.state import RunState
from flo.study.document import Study
from flo.study.models import parameter_count
from tests.builders import HOSPITALS, small_study, study_document, surveyed
from tests.secure_sums import advance


def on_grid(study: Study, purpose: str, counts: list[float]) -> npt.NDArray[np.int64]:
    """A release that means these counts, without noise."""
    norm = Plan.of(study).purpose(purpose).mechanism.norm
    return np.rint(np.array(counts) * GRID / norm).astype(np.int64)


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


def test_no_run_of_a_survey_begins() -> None:
    with pytest.raises(StudyError, match=r"no \[survey\] any more"):
        RunState.start(surveyed(small_study(), epsilon=0.5, columns=["ward"]))


def test_a_checkpoint_keeps_subgroups() -> None:
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
    assert again.purpose_in(grouped) == "evaluation"
