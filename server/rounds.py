"""What the coordinator does with replies: rules without IO.

A run is one frozen ``RunState`` that goes in and comes out, so saving it is the checkpoint. Each
training round divides the cohort's noisy sum by its public declared size and takes a momentum
step; the published model averages the last half of the rounds (all of it post-processing).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from flo.errors import MessageError
from flo.messages import LARGEST_WEIGHT, MAX_ATTEMPTS, Purpose, Reply, RequestHeader, model_digest
from flo.models import initial_weights
from flo.privacy import evaluation, survey
from flo.privacy.evaluation import Estimate
from flo.privacy.masking import unmasked_sum
from flo.privacy.plan import Part, Plan, combined_variance, ring_of
from flo.privacy.ring import enter
from flo.study import Study

Floats = npt.NDArray[np.float64]
EVERYONE = ""  # among hospital ids: the sum of all
Phase = Literal["survey", "training", "evaluation", "done"]


@dataclass(frozen=True)
class RunState:
    """Everything a restart needs. ``round``, ``attempt`` and ``cohort`` are what is asked for."""

    phase: Phase
    round: int
    attempt: int
    weights: Floats
    velocity: Floats
    tail_sum: Floats
    tail_count: int
    retries: int = 0
    cohort: tuple[str, ...] = ()
    estimate: Estimate | None = None
    subgroups: dict[str, Estimate] = field(default_factory=dict)
    counted: dict[str, list[survey.Counted]] = field(default_factory=dict)

    @classmethod
    def start(cls, study: Study) -> RunState:
        weights = np.zeros(0) if study.survey else initial_weights(study)
        zero = np.zeros_like(weights)
        return cls("survey" if study.survey else "training", 1, 1, weights, zero, zero, 0)

    @property
    def model(self) -> Floats:
        """The model to publish as things stand: the tail average, or the last weights."""
        return self.tail_sum / self.tail_count if self.tail_count else self.weights

    @property
    def asked(self) -> Floats:
        """The model that the next request carries."""
        return self.model if self.phase == "evaluation" else self.weights

    @property
    def purpose(self) -> Purpose:
        """What the next request is for; a run that is over goes by its last."""
        if self.phase == "done":
            return "survey" if self.counted else "evaluation"
        return self.phase


def request_header(
    study: Study, run: str, state: RunState, cohort: tuple[str, ...]
) -> RequestHeader:
    """The next request of a run, without relayed heads."""
    return RequestHeader(
        study=study.digest,
        run=run,
        purpose=state.purpose,
        round=state.round,
        attempt=state.attempt,
        cohort=cohort,
        model=model_digest(state.asked),
    )


def retried(study: Study, state: RunState) -> RunState | None:
    """The state that asks for the same round once more, or None if that is not allowed.

    Local noise: sites send the same bits again at no charge, so only patience ends it.
    Distributed noise: every attempt draws noise anew and comes out of the study's allowance.
    """
    allowance = Plan.of(study).part(state.purpose).allowance
    free = study.mechanism.noise == "local"
    if state.attempt >= MAX_ATTEMPTS or (not free and state.retries >= allowance):
        return None
    return replace(state, attempt=state.attempt + 1, retries=state.retries + 1)


def check_reply(study: Study, header: RequestHeader, hospital: str, reply: Reply) -> None:
    """Refuse a reply that does not answer this request in this hospital's name.

    Raises:
        MessageError: naming what differs.
    """
    got = reply.header
    for name in ("study", "run", "purpose", "round", "attempt", "model"):
        if getattr(got, name) != getattr(header, name):
            raise MessageError(f"{hospital}: the reply is for another {name}")
    if got.hospital != hospital:
        raise MessageError(f"{hospital}: the reply is in the name of {got.hospital}")
    if got.kind == "release":
        mechanism = Plan.of(study).part(header.purpose).mechanism
        if reply.values.shape != (mechanism.length,):
            raise MessageError(
                f"{hospital}: {reply.values.size} values, {mechanism.length} expected"
            )


def advance(study: Study, state: RunState, values: dict[str, npt.NDArray[np.int64]]) -> RunState:
    """Take a complete round into account: hospital id -> release on the grid."""
    part = Plan.of(study).part(state.purpose)
    if state.phase == "survey":
        alone = combined_variance(study, part, 1) if study.mechanism.noise == "local" else 0.0
        counted = {
            hospital: survey.read(study, part.mechanism.to_real(steps), alone)
            for hospital, steps in values.items()
            if alone
        }
        everyone = part.mechanism.to_real(_sum(study, part, values))
        variance = combined_variance(study, part, len(values))
        counted[EVERYONE] = survey.read(study, everyone, variance)
        return replace(state, phase="done", counted=counted)
    total = part.mechanism.to_real(_sum(study, part, values))
    if state.phase == "evaluation":
        variance = combined_variance(study, part, len(values))
        estimate, subgroups = evaluation.read(study, total, variance)
        return replace(state, phase="done", estimate=estimate, subgroups=subgroups)
    sizes = sum(study.hospital(hospital).declared_size for hospital in values)
    expected = sizes * study.mechanism.sampling  # public: patients in the sum, as declared
    velocity = study.mechanism.momentum * state.velocity + total / expected
    weights = state.weights - study.mechanism.learning_rate * velocity
    weights = np.clip(weights, -LARGEST_WEIGHT, LARGEST_WEIGHT)
    in_tail = state.round > study.mechanism.steps // 2
    finished = state.round == study.mechanism.steps
    return replace(
        state,
        phase="evaluation" if finished else "training",
        round=1 if finished else state.round + 1,
        attempt=1,
        retries=0 if finished else state.retries,
        weights=weights,
        velocity=velocity,
        tail_sum=state.tail_sum + weights if in_tail else state.tail_sum,
        tail_count=state.tail_count + in_tail,
    )


def _sum(
    study: Study, part: Part, values: dict[str, npt.NDArray[np.int64]]
) -> npt.NDArray[np.int64]:
    """The cohort's noisy sum in grid steps; masks, if there are any, cancel in it."""
    steps = list(values.values())
    if study.mechanism.noise == "local":
        return np.asarray(np.sum(steps, axis=0), dtype=np.int64)
    ring = ring_of(study, part, len(steps))
    return unmasked_sum([enter(one, ring) for one in steps], ring)
