"""Rounds whose releases are summed in this process: no messages, keys or masks; noise as usual."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from functools import partial

import numpy as np

from flo.clients.data_process.trainer import Trainer, private_step
from flo.lab.folds import Fold
from flo.lab.hospitals import enrol
from flo.privacy.accounting.plan import Plan, ring_of
from flo.privacy.secure_sum.ring import to_ring
from flo.protocol.messages import Values
from flo.server.rounds.aggregation import StreamingSum, compares_hospitals
from flo.server.rounds.continuing import EarlierModel
from flo.server.rounds.state import RunState, advance
from flo.study.document import Study
from flo.study.parameters import Vector
from flo.study.terms import Purpose

Sums = Iterator[tuple[Collection[str], Values]]  # of some hospitals' releases each
Ask = Callable[[Purpose, Vector], Sums]


def run_in_the_clear(study: Study, fold: Fold) -> tuple[RunState, list[float]]:
    """Run the whole study on one fold. Return the final state and seconds per round."""
    hospitals = tuple(sorted(fold.snapshots))
    return rounds_in_the_clear(
        study, hospitals, partial(sums, study, trainers_of(study, fold), len(hospitals))
    )


def rounds_in_the_clear(
    study: Study, hospitals: tuple[str, ...], ask: Ask
) -> tuple[RunState, list[float]]:
    """Run the study; ``ask`` yields sums that together contain each hospital's release once."""
    state, seconds = RunState.start(study), list[float]()
    while state.phase != "done":
        began = time.monotonic()
        state = _advanced(study, hospitals, ask, state)
        seconds.append(time.monotonic() - began)
    return state, seconds


def train_in_the_clear(study: Study, fold: Fold, earlier: EarlierModel | None = None) -> Vector:
    """Return the model of a fold's patients, before its evaluation.

    ``earlier``: what the study continues.
    """
    enrolled, _ = enrol(study)
    trainers, state = trainers_of(enrolled, fold), RunState.start(enrolled, earlier)
    while state.phase != "evaluation":
        state = round_in_the_clear(enrolled, trainers, state)
    return state.model


def round_in_the_clear(study: Study, trainers: Mapping[str, Trainer], state: RunState) -> RunState:
    """Sum one release of each hospital, and return the state that it leads to."""
    everyone = tuple(sorted(trainers))
    return _advanced(study, everyone, partial(sums, study, trainers, len(everyone)), state)


def sums(
    study: Study,
    trainers: Mapping[str, Trainer],
    cohort_size: int,
    purpose: Purpose,
    weights: Vector,
) -> Sums:
    """Yield the sum of these hospitals' releases, on the grid or in the ring; each alone if the
    study compares hospitals.

    ``cohort_size``: how many hospitals take part, here and elsewhere.
    """
    ring = ring_of(study, Plan.of(study).purpose(purpose), cohort_size)
    total: Values | None = None
    for hospital in sorted(trainers):
        noisy = trainers[hospital].release(purpose, weights, cohort_size)
        values = to_ring(noisy, ring) if ring else noisy
        if compares_hospitals(study):
            yield (hospital,), values
        else:
            total = values if total is None else np.add(total, values, out=total)
    if total is not None:
        yield tuple(trainers), total


def _advanced(study: Study, hospitals: tuple[str, ...], ask: Ask, state: RunState) -> RunState:
    purpose = state.purpose_in(study)
    gathered = StreamingSum(study, Plan.of(study).purpose(purpose), len(hospitals))
    for named, values in ask(purpose, state.asked):
        gathered.add_sum(named, values)
    return advance(study, replace(state, cohort=hospitals), gathered)


def trainers_of(study: Study, fold: Fold) -> dict[str, Trainer]:
    """Create a trainer for each hospital; all share one module."""
    step = private_step(study, "cpu")
    return {
        hospital: Trainer(study, snapshot, step=step)
        for hospital, snapshot in fold.snapshots.items()
    }
