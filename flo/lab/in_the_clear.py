"""Rounds whose releases are summed in this process: no messages, keys or masks; noise as usual."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace

from flo.clients.data_process.trainer import Trainer, private_step
from flo.lab.folds import Fold
from flo.lab.hospitals import enrol
from flo.privacy.accounting.plan import Plan, ring_of
from flo.privacy.secure_sum.ring import to_ring
from flo.server.rounds.aggregation import StreamingSum
from flo.server.rounds.continuing import EarlierModel
from flo.server.rounds.state import RunState, advance
from flo.study.document import Study
from flo.study.parameters import Vector


def run_in_the_clear(study: Study, fold: Fold) -> tuple[RunState, list[float]]:
    """Run the whole study on one fold. Return the final state and seconds per round."""
    trainers = trainers_of(study, fold)
    state, seconds = RunState.start(study), list[float]()
    while state.phase != "done":
        began = time.monotonic()
        state = round_in_the_clear(study, trainers, state)
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
    part = Plan.of(study).purpose(state.purpose_in(study))
    gathered, ring = StreamingSum(study, part, len(everyone)), ring_of(study, part, len(everyone))
    for hospital in everyone:
        noisy = trainers[hospital].release(state.purpose_in(study), state.asked, len(everyone))
        gathered.add(hospital, to_ring(noisy, ring) if ring else noisy)
    return advance(study, replace(state, cohort=everyone), gathered)


def trainers_of(study: Study, fold: Fold) -> dict[str, Trainer]:
    """Create a trainer for each hospital; all share one module."""
    step = private_step(study, "cpu")
    return {
        hospital: Trainer(study, snapshot, step=step)
        for hospital, snapshot in fold.snapshots.items()
    }
