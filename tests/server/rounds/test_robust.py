"""One lying hospital: what it can do to the model is bounded, and without masks it is found."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flo.errors import StudyError
from flo.privacy.accounting.plan import Plan
from flo.privacy.mechanisms.mechanisms import GRID
from flo.protocol.messages import Reply
from flo.server.rounds.robust import largest_norm, robust_mean
from flo.server.rounds.state import RunState
from flo.study.document import Study
from flo.study.loading import from_canonical
from tests.builders import HOSPITALS, small_study, study_document
from tests.secure_sums import advance
from tests.server.in_memory_run import (
    MASKED,
    MODES,
    Site,
    company_study,
    model_after,
    numbers,
    only,
    same_model,
    stage,
    training,
)

LIAR, PAIR = "west", ("north", "south")


def part_of(study: Study) -> Any:
    return Plan.of(study).purpose("training")


# -- the bound -------------------------------------------------------------------------------------


def test_honest_noise_stays_below_the_largest_norm() -> None:
    study = company_study("masking off")
    part, rng = part_of(study), np.random.default_rng(0)
    deviation = part.mechanism.variance_steps() ** 0.5 / GRID * part.mechanism.norm
    patients = 2 * 40 * part.mechanism.norm  # the farthest that twice the declared can be
    direction = np.eye(part.mechanism.length)[0] * patients
    norms = [
        float(np.linalg.norm(direction + rng.normal(0, deviation, part.mechanism.length)))
        for _ in range(20_000)
    ]
    assert max(norms) < largest_norm(study, part, ["north"])
    assert largest_norm(study, part, ["north"]) < patients + 12 * deviation


@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=8), st.floats(1e-9, 1))
def test_what_is_clipped_is_no_longer_and_points_the_same_way(
    numbers_: list[float], scale: float
) -> None:
    study = company_study("masking off").with_mechanism(momentum=0.0)
    part, start = part_of(study), RunState.start(study)
    steps = np.rint(np.resize(numbers_, part.mechanism.length) * scale * GRID).astype(np.int64)
    values = dict.fromkeys(HOSPITALS, np.zeros_like(steps)) | {LIAR: steps}
    total, bound = part.mechanism.to_real(steps), largest_norm(study, part, HOSPITALS)
    step = (start.weights - advance(study, start, values).weights) / study.mechanism.learning_rate
    moved = step * 120  # patients, as declared
    assert np.linalg.norm(moved) <= bound * (1 + 1e-9)
    if np.linalg.norm(total) <= bound:
        assert np.allclose(moved, total, rtol=1e-9, atol=1e-9)
    parallel = moved * np.linalg.norm(total), total * np.linalg.norm(moved)
    assert np.allclose(*parallel, rtol=1e-6, atol=1e-6)


# -- with masks: the sum is clipped ----------------------------------------------------------------


@pytest.mark.parametrize("mode", ["local noise, masked", "distributed noise"])
@pytest.mark.parametrize("scale", [1e3, 1e5])
def test_a_liar_behind_masks_moves_a_round_no_farther_than_the_cohort_could(
    mode: str, scale: float
) -> None:
    study = company_study(mode).with_mechanism(momentum=0.0)
    part, state = part_of(study), RunState.start(study)
    lie = np.full(part.mechanism.length, int(scale * GRID), dtype=np.int64)
    values = {name: numbers(study, name, "training", 1, 1) for name in HOSPITALS}
    values[LIAR] = lie
    clear = study.with_mechanism(masking="off", noise="local")  # the same sum, without the pads
    bound = largest_norm(study, part, HOSPITALS)
    total = part.mechanism.to_real(np.sum(list(values.values()), axis=0))
    assert np.linalg.norm(total) > bound
    moved = advance(clear, state, values).weights - state.weights
    allowed = study.mechanism.learning_rate * largest_norm(clear, part_of(clear), HOSPITALS) / 120
    assert np.linalg.norm(moved) <= allowed * (1 + 1e-9)


def test_once_the_liar_is_gone_honest_rounds_lead_back() -> None:
    """A pull toward zero stands for honest gradients; the liar pushes as hard as it can."""
    study = company_study("masking off").with_mechanism(momentum=0.0, steps=100)
    part, state = part_of(study), RunState.start(study)
    target = np.ones(part.mechanism.length)

    def honest(state: RunState) -> dict[str, Any]:
        steps = np.rint((state.weights - target) * 40 * GRID / part.mechanism.norm)
        return {name: steps.astype(np.int64) for name in HOSPITALS}

    for _ in range(5):
        values = honest(state)
        values[LIAR] = np.full(part.mechanism.length, 10**9 * GRID, dtype=np.int64)
        state = advance(study, state, values)
    away = float(np.linalg.norm(state.weights - target))
    for _ in range(40):
        state = advance(study, state, honest(state))
    assert away > 1
    assert float(np.linalg.norm(state.weights - target)) < 0.01


# -- without masks: it is found --------------------------------------------------------------------


def test_without_masks_a_sum_beyond_its_hospitals_reach_is_refused_and_named() -> None:
    def shouting(site: Site, request: Any) -> bytes:
        from flo.protocol.messages import decode_reply, encode_reply

        reply = decode_reply(site.answer(request))
        return encode_reply(Reply(reply.header, np.full_like(reply.values, 10**4 * GRID)))

    run = stage("masking off", {LIAR: only(training(2, 1), shouting)})
    state = run.run()
    assert state.phase == "done"
    (bad,) = run.of_kind("bad-reply")
    assert bad["hospital"] == LIAR
    assert "the limit for its declared patients" in bad["why"]
    attempts = [(*asked[:3], PAIR if asked[1:2] == (2,) else asked[3]) for asked in run.counted]
    assert same_model(state, model_after(run.study, attempts))


@pytest.mark.parametrize("aggregation", ["median", "trimmed-mean"])
def test_one_liar_within_its_reach_hardly_moves_a_robust_mean(aggregation: str) -> None:
    names = ("east", "north", "south", "west")
    study = company_study("masking off", names).with_mechanism()
    document = study.model_dump(mode="json")
    document["limits"]["minimum_cohort"] = 3
    document["mechanism"]["aggregation"] = aggregation
    study = Study.model_validate(document)
    rng = np.random.default_rng(3)
    honest = {name: 40 * (1 + 0.1 * rng.standard_normal(6)) for name in names}
    lie = honest | {LIAR: np.full(6, -1e6)}
    assert np.abs(robust_mean(study, honest) - 1).max() < 0.3
    assert np.abs(robust_mean(study, lie) - 1).max() < 0.3


def test_robust_means_are_those_of_the_definitions() -> None:
    document = study_document(limits={"deadline_seconds": 10, "minimum_cohort": 3})
    for aggregation, expected in (("median", 3.0), ("trimmed-mean", 3.0)):
        document["mechanism"]["aggregation"] = aggregation
        study = small_study(**document)
        sums = {"north": np.array([40.0]), "south": np.array([120.0]), "west": np.array([4000.0])}
        assert robust_mean(study, sums) == pytest.approx([expected])


def test_a_run_with_a_robust_mean_trains_to_the_end() -> None:
    run = stage("masking off")
    document = run.study.model_dump(mode="json")
    document["limits"]["minimum_cohort"] = 3
    document["mechanism"]["aggregation"] = "median"
    run = replace(run, study=Study.model_validate(document), history=[], events=[], replies=[])
    state = run.run()
    assert state.phase == "done"
    assert not same_model(state, model_after(stage("masking off").study, run.counted))


# -- the study -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "cohort"), [*((m, 3) for m in MASKED), ("masking off", 2)])
def test_robust_aggregation_needs_each_hospitals_numbers_and_three_of_them(
    mode: str, cohort: int
) -> None:
    document = study_document(limits={"deadline_seconds": 10, "minimum_cohort": cohort})
    document["mechanism"] |= {**MODES[mode], "aggregation": "median"}
    with pytest.raises(StudyError, match="it needs masking"):
        small_study(**document)


def test_a_study_without_aggregation_keeps_its_digest() -> None:
    study = small_study()
    assert b"aggregation" not in study.canonical_bytes
    document = study_document(limits={"deadline_seconds": 10, "minimum_cohort": 3})
    document["mechanism"]["aggregation"] = "median"
    robust = small_study(**document)
    assert from_canonical(robust.canonical_bytes) == robust
    assert b'"aggregation":"median"' in robust.canonical_bytes
