"""State of a run, and how replies advance it: rules without IO.

A run is one frozen ``RunState``; functions take one and return the next, so saving it is the
checkpoint. Each training round divides the cohort's noisy sum by its public planned size and takes
a momentum step; the published model averages the last half of the rounds. A whitened study sums
second moments first, and then trains on whitened inputs. For least squares, the sum of the only
round is solved. A model that continues earlier ones is combined with them before it is evaluated
(``flo.server.rounds.continuing``). All of it is post-processing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from flo.arrays import Floats
from flo.errors import MessageError, StudyError
from flo.keys.claims import HeadAttestation, LedgerHead, RunKey
from flo.privacy.accounting.plan import Plan, PlannedPurpose, combined_variance, reach_of, ring_of
from flo.privacy.releases import (
    asked_model,
    calibration,
    evaluation,
    fisher_scoring,
    gate,
    horizon_risks,
    least_squares,
    quantities,
    score_waves,
    survey,
    whitening,
)
from flo.privacy.releases.calibration import Calibration
from flo.privacy.releases.score_waves import Estimate
from flo.privacy.secure_sum.masking import cohort_digest
from flo.protocol.deals import Deal
from flo.protocol.messages import (
    LARGEST_WEIGHT,
    MAX_ATTEMPTS,
    Reply,
    RequestHeader,
    model_digest,
)
from flo.server.rounds.aggregation import StreamingSum, blocks_of, norm_of
from flo.server.rounds.continuing import EarlierModel, combined, starts_from_earlier
from flo.server.rounds.robust import largest_norm, robust_mean
from flo.study.document import Study
from flo.study.models import initial_weights, precision, request_length
from flo.study.parameters import Vector
from flo.study.terms import Purpose

NO_WEIGHTS: Vector = np.zeros(0)
_ANSWERS = {
    **{"join": "joined", "release": "release", "sign": "signed", "reveal": "revealed"},
    "finish": "settled",
}
Phase = Purpose | Literal["done"]


@dataclass(frozen=True)
class RunState:
    """State that a restart needs. ``round``, ``attempt``, ``cohort``: those of the next request.

    ``cohort`` is empty until it is chosen for this attempt, with the ledger ``heads`` that are sent
    to it. ``keys``: the latest run key of each hospital. ``vouchers``: a partner's attestation of
    the ledger head of the hospital with that key. ``whitening``: W, (d²,), while a study trains on
    whitened inputs; ``weights`` and ``tail_sum`` are then of z = xW. ``earlier``: the model that
    the study continues, until it is part of ``weights``; ``earlier_worth``: what it counts for.

    ``sums``: what statistics, a gate or a monitor released, (length,); ``sums_of``: of which
    hospitals. ``regressed``, ``regressed_of``: the same of its rounds of regressions so far, in
    order, and ``regressed_at``: the coefficients at which they asked.

    ``compared``: of the models that a gate compares or a monitor watches, those that were published
    before; from the evaluation on, what the request carries. After it, the digest of that is kept,
    and its release is in ``sums``.

    ``released``: what the noise of the trained model follows from, the first sum of its training
    (``flo.server.rounds.known_noise``). ``released_by``: the hospitals of all sums behind the
    model; empty if they were not the same throughout.

    ``evaluated``: what the evaluation released, if the model's card is to state it, of the
    hospitals ``evaluated_by``.

    ``calibration``: of yes and no; of the time to an event, of the risk by the last horizon, and
    ``earlier_horizons``: by those before, in order; of a quantity, of its expected value, and
    ``steps``: of the share of each step between levels that is reached. ``by_class``: of each of
    several classes, which have no ``calibration``.

    Where sums survive dropouts: ``deals``, what each hospital dealt for the next request;
    ``survivors``, once their list was named to anybody.
    """

    phase: Phase
    round: int
    attempt: int
    weights: Vector
    velocity: Vector
    tail_sum: Vector
    tail_count: int
    retries: int = 0
    cohort: tuple[str, ...] = ()
    heads: dict[str, LedgerHead] = field(default_factory=dict)
    keys: dict[str, RunKey] = field(default_factory=dict)
    vouchers: dict[str, HeadAttestation] = field(default_factory=dict)
    estimate: Estimate | None = None
    subgroups: dict[str, Estimate] = field(default_factory=dict)
    calibration: Calibration | None = None
    earlier_horizons: tuple[Calibration, ...] = ()
    steps: tuple[Calibration, ...] = ()
    by_class: tuple[Calibration, ...] = ()
    sums: Vector = field(default_factory=lambda: NO_WEIGHTS)
    sums_of: tuple[str, ...] = ()
    regressed: Vector = field(default_factory=lambda: NO_WEIGHTS)
    regressed_at: Vector = field(default_factory=lambda: NO_WEIGHTS)
    regressed_of: tuple[tuple[str, ...], ...] = ()
    whitening: Vector = field(default_factory=lambda: NO_WEIGHTS)
    earlier: Vector = field(default_factory=lambda: NO_WEIGHTS)
    earlier_worth: float = 0.0
    compared: Vector = field(default_factory=lambda: NO_WEIGHTS)
    compared_digest: str = ""
    released: Vector = field(default_factory=lambda: NO_WEIGHTS)
    released_by: tuple[str, ...] = ()
    evaluated: Vector = field(default_factory=lambda: NO_WEIGHTS)
    evaluated_by: tuple[str, ...] = ()
    deals: dict[str, Deal] = field(default_factory=dict)
    survivors: tuple[str, ...] = ()

    @classmethod
    def start(
        cls, study: Study, earlier: EarlierModel | None = None, compared: Vector = NO_WEIGHTS
    ) -> RunState:
        """Return the initial state: the model's public initial weights, if it trains one.

        ``earlier``: what the study continues; where its rule says so, training starts from it.
        ``compared``: the models of its gate or monitor that were published before.
        """
        weights = initial_weights(study) if study.trains else np.zeros(0)
        if "regression" in study.purposes:
            weights = np.zeros(request_length(study, "regression"))
        kept, worth = NO_WEIGHTS, 0.0
        if earlier is not None:
            kept, worth = earlier.weights.astype(precision(study)), earlier.worth
            weights = kept.copy() if starts_from_earlier(study) else weights
        velocity = np.zeros_like(weights) if study.mechanism.momentum else NO_WEIGHTS
        tail_sum = np.zeros_like(weights)
        first = study.purposes[0]
        if first == "survey":
            raise StudyError(survey.NONE, hint=survey.INSTEAD)
        start = cls(first, 1, 1, weights, velocity, tail_sum, 0)
        return replace(start, earlier=kept, earlier_worth=worth, compared=compared)

    @property
    def model(self) -> Vector:
        """The model to publish, once training is over."""
        return self.weights

    @property
    def asked(self) -> Vector:
        """What the next request carries: the model, and W if the inputs are whitened."""
        match self.phase:
            case "moments" | "statistics":
                return NO_WEIGHTS
            case "gate" | "monitor":
                return self.compared
            case "training" if len(self.whitening):
                return np.concatenate([self.weights, self.whitening])
        return self.weights

    def purpose_in(self, study: Study) -> Purpose:
        """Return the purpose of the next request; after the end of the run, of the last one."""
        return study.purposes[-1] if self.phase == "done" else self.phase


def request_header(
    study: Study, run: str, state: RunState, kind: str, hospitals: tuple[str, ...]
) -> RequestHeader:
    """Return what all hospitals are told; every kind but ``join`` relays the state's heads."""
    among = hospitals if kind == "release" else tuple(state.keys)
    deals = {name: state.deals[name].public for name in hospitals if name in state.deals}
    model = state.asked if kind == "release" else NO_WEIGHTS
    return RequestHeader.model_validate(
        {
            "kind": kind,
            "study": study.digest,
            "run": run,
            "purpose": state.purpose_in(study),
            "round": state.round,
            "attempt": state.attempt,
            "cohort": hospitals,
            "model": model_digest(model),
            "bits": 8 * model.itemsize,
            "heads": {} if kind == "join" else state.heads,
            "keys": {name: state.keys[name] for name in among if kind != "finish"},
            "deals": deals if kind == "release" else {},
        }
    )


def retried(study: Study, state: RunState, *, drawn: bool) -> RunState | None:
    """Return the state for another attempt at the round; None if that is not allowed. [8]

    Local noise: sites send the same noisy bits again at no charge, so the only limit is
    ``MAX_ATTEMPTS``. Distributed noise: an attempt in which noise was ``drawn`` also counts
    against the study's retry allowance for this purpose.
    """
    allowance = Plan.of(study).purpose(state.purpose_in(study)).allowance
    retries = state.retries + (drawn and study.mechanism.noise == "distributed")
    if state.attempt >= MAX_ATTEMPTS or retries > allowance:
        return None
    return replace(state, attempt=state.attempt + 1, retries=retries, cohort=())


def check_reply(study: Study, header: RequestHeader, hospital: str, reply: Reply) -> None:
    """Refuse a reply that does not answer this request in this hospital's name.

    Without masking, also refuse a sum beyond the hospital's ``largest_norm``.

    Raises:
        MessageError: the reply is refused; the message names the difference.
    """
    got = reply.header
    for name in ("study", "run", "purpose", "round", "attempt", "model"):
        if getattr(got, name) != getattr(header, name):
            raise MessageError(f"{hospital}: the reply is for another {name}")
    if got.hospital != hospital:
        raise MessageError(f"{hospital}: the reply is in the name of {got.hospital}")
    if got.kind not in (_ANSWERS[header.kind], "refused"):
        raise MessageError(f"{hospital}: a reply {got.kind!r} to a request {header.kind!r}")
    if got.kind == "release":
        part = Plan.of(study).purpose(header.purpose)
        if got.cohort != cohort_digest(header.members()):
            raise MessageError(f"{hospital}: the reply is for another cohort")
        if got.ring != ring_of(study, part, len(header.cohort)):
            raise MessageError(f"{hospital}: the reply is in another ring")
        if reply.values.shape != (part.mechanism.length,):
            raise MessageError(
                f"{hospital}: {reply.values.size} values, {part.mechanism.length} expected"
            )
        if not study.masked:
            blocks = map(reply.values.__getitem__, blocks_of(part.mechanism.length))
            norm = norm_of(map(part.mechanism.to_real, blocks))
            largest = largest_norm(study, part, [hospital])
            if norm > largest:
                raise MessageError(
                    f"{hospital}: the norm of its sum is {norm:.3g}; the limit for its declared "
                    f"patients and noise is {largest:.3g}"
                )


def is_complete(study: Study, state: RunState, gathered: StreamingSum) -> bool:
    """Return whether enough replies are in: masks cancel only if the whole cohort answered."""
    if study.tolerance:
        return gathered.is_open and gathered.hospitals == set(state.survivors or state.cohort)
    if study.masked:
        return gathered.hospitals == set(state.cohort)
    return len(gathered.hospitals) >= study.cohort_floor


def advance(study: Study, state: RunState, gathered: StreamingSum) -> RunState:
    """Return the state after a complete attempt. Mutates the arrays of ``state`` and ``gathered``.

    Raises:
        MessageError: the sum is larger than honest hospitals could make it: one of them lied.
    """
    part, count = Plan.of(study).purpose(state.purpose_in(study)), len(gathered.hospitals)
    reach = reach_of(study, part, count)
    if study.masked and gathered.exceeds(reach):
        raise MessageError(f"the sum exceeds ±{reach} grid steps, the limit for honest hospitals")
    state = replace(state, cohort=())
    if state.phase == "statistics":
        following: Phase = "regression" if "regression" in study.purposes else "done"
        of = tuple(sorted(gathered.hospitals))
        state = replace(state, phase=following, round=1, attempt=1, retries=0)
        return replace(state, sums=gathered.all_values(), sums_of=of)
    if state.phase == "regression":
        return _regressed(study, state, part, gathered)
    if state.phase == "evaluation":
        if study.schema_version >= 4 and evaluation.fits_a_card(study):
            by = tuple(sorted(gathered.hospitals))
            state = replace(state, evaluated=gathered.all_values(), evaluated_by=by)
        return _evaluated(
            study, state, gathered.all_values(), combined_variance(study, part, count)
        )
    if state.phase in ("gate", "monitor"):
        of = tuple(sorted(gathered.hospitals))
        asked = model_digest(state.compared)
        state = replace(state, phase="done", compared=NO_WEIGHTS, compared_digest=asked)
        return replace(state, sums=gathered.all_values(), sums_of=of)
    if state.phase == "moments":
        return _whitened(study, state, part, gathered)
    if study.mechanism.algorithm == "least-squares":
        return _solved(study, state, part, gathered)
    return _stepped(study, state, part, gathered)


def _evaluated(study: Study, state: RunState, noisy: Floats, variance: float) -> RunState:
    """Return the state after the evaluation: done, or about to be compared with the current model.

    Where there is no current model, the candidate is compared with stating the average risk, as
    this release has it.
    """
    estimate, subgroups = evaluation.read(study, noisy, variance)
    state = replace(state, estimate=estimate, subgroups=subgroups)
    if study.data.times is not None:
        curves = horizon_risks.fit(study, state.model, noisy, variance)
        last = curves[-1] if curves else None
        return replace(state, phase="done", calibration=last, earlier_horizons=curves[:-1])
    if study.data.quantity is not None:
        found = quantities.fit(study, state.model, noisy, variance)
        if found is None:
            return replace(state, phase="done")
        return replace(state, phase="done", calibration=found.expected, steps=found.steps)
    if study.data.classes is not None:
        each = calibration.fit_each(study, state.model, noisy, variance)
        return replace(state, phase="done", by_class=each)
    risks = calibration.fit(study, state.model, noisy, variance)
    state = replace(state, calibration=risks)
    if study.gate is None:
        return replace(state, phase="done")
    average = study.gate.prevalence
    if average is None:
        well, ill = score_waves.patients(evaluation.of_everyone(study, noisy, variance)[0])
        average = ill / (well + ill)
    current = state.compared if study.gate.current else gate.of_average(study, average)
    compared = gate.request(asked_model.scorer(state.model, risks), current, average)
    return replace(state, phase="gate", round=1, attempt=1, retries=0, compared=compared)


def _regressed(
    study: Study, state: RunState, part: PlannedPurpose, gathered: StreamingSum
) -> RunState:
    """Return the state after a round of regressions: the next one asks at better coefficients."""
    sums = np.concatenate([state.regressed, gathered.all_values()])
    asked = np.concatenate([state.regressed_at, state.weights])
    of = (*state.regressed_of, tuple(sorted(gathered.hospitals)))
    variances = [combined_variance(study, part, len(one)) for one in of]
    rounds = fisher_scoring.rounds_of(sums, asked, variances, of)
    finished = state.round == part.planned
    return replace(
        state,
        phase="done" if finished else "regression",
        round=1 if finished else state.round + 1,
        attempt=1,
        weights=fisher_scoring.next_coefficients(study, rounds),
        regressed=sums,
        regressed_at=asked,
        regressed_of=of,
    )


def _solved(
    study: Study, state: RunState, part: PlannedPurpose, gathered: StreamingSum
) -> RunState:
    """Return the state after the only round of least squares."""
    factor = _clipping(study, part, gathered)
    variance = factor**2 * combined_variance(study, part, len(gathered.hospitals))
    total = factor * gathered.all_values()
    solved = least_squares.solve(study, total, variance)
    by = tuple(sorted(gathered.hospitals)) if factor == 1 else ()
    return _trained(study, replace(state, weights=solved, released=total, released_by=by))


def _whitened(
    study: Study, state: RunState, part: PlannedPurpose, gathered: StreamingSum
) -> RunState:
    """Return the state after the second moments: training begins, on whitened inputs."""
    factor = _clipping(study, part, gathered)
    variance = factor**2 * combined_variance(study, part, len(gathered.hospitals))
    patients = whitening.planned_patients(study, gathered.hospitals)
    total = factor * gathered.all_values()
    matrix = whitening.matrix_of(study, total, variance, patients)
    by = tuple(sorted(gathered.hospitals)) if factor == 1 else ()
    state = replace(state, phase="training", round=1, attempt=1, retries=0, released_by=by)
    state = replace(state, whitening=matrix.ravel(), released=total)
    is_of_inputs = study.data.times is not None and study.model.kind == "logistic"
    if is_of_inputs or (len(state.earlier) and starts_from_earlier(study)):
        return replace(state, weights=whitening.on_whitened(study, state.weights, matrix))
    return state


def _trained(study: Study, state: RunState) -> RunState:
    """Return the state after training; ``state.weights``: what this study trained."""
    weights = state.weights
    if len(state.earlier):
        weights = combined(study, weights, EarlierModel(state.earlier, state.earlier_worth))
    return replace(
        state,
        phase="evaluation",
        round=1,
        attempt=1,
        retries=0,
        weights=weights,
        velocity=NO_WEIGHTS,
        tail_sum=NO_WEIGHTS,
        tail_count=0,
        earlier=NO_WEIGHTS,
    )


def with_model_of_inputs(study: Study, state: RunState) -> RunState:
    """Return a state whose ``model`` can be published, also if training was cut short."""
    if not len(state.whitening):
        return state
    weights = whitening.of_inputs(study, state.weights, state.whitening)
    return replace(state, weights=weights, whitening=NO_WEIGHTS)


def _stepped(
    study: Study, state: RunState, part: PlannedPurpose, gathered: StreamingSum
) -> RunState:
    """Return the state after a training round: FedAvgM (Hsu, Qi, Brown 2019) on the noisy mean."""
    training, by = study.mechanism, _still_by(study, state, part, gathered)
    mean = _mean(study, part, gathered)
    rate = training.learning_rate
    if training.algorithm == "whitened":
        rate /= whitening.steepness(study) ** 2
    in_tail, finished = state.round > training.steps // 2, state.round == training.steps
    weights = gathered.scratch_buffer(state.weights)
    velocity, tail_sum = state.velocity[:], state.tail_sum[:]  # new views, so that saves store them
    for block in gathered.blocks:
        step = mean(block)
        if training.momentum:
            step = velocity[block] = training.momentum * velocity[block] + step
        moved = state.weights[block] - rate * step
        weights[block] = np.clip(moved, -LARGEST_WEIGHT, LARGEST_WEIGHT)
        if in_tail:
            tail_sum[block] += weights[block]
    tail_count = state.tail_count + in_tail
    if finished:
        tail_sum /= tail_count
        state = replace(state, weights=tail_sum, released_by=by)
        return _trained(study, with_model_of_inputs(study, state))
    return replace(
        state,
        round=state.round + 1,
        attempt=1,
        weights=weights,
        velocity=velocity,
        tail_sum=tail_sum,
        tail_count=tail_count,
        released_by=by,
    )


def _still_by(
    study: Study, state: RunState, part: PlannedPurpose, gathered: StreamingSum
) -> tuple[str, ...]:
    """Return the hospitals of all sums so far, if this one is of the same and not clipped."""
    same = state.released_by == tuple(sorted(gathered.hospitals))
    return state.released_by if same and _clipping(study, part, gathered) == 1 else ()


def _mean(study: Study, part: PlannedPurpose, gathered: StreamingSum) -> Callable[[slice], Floats]:
    """Return a function from block to a patient's mean contribution.

    The sum is divided by public numbers: the planned patients times the sampling rate, or for
    whitened inputs those to train on, whose second moments W is made of.
    """
    if study.mechanism.aggregation != "sum":
        sums = {name: part.mechanism.to_real(steps) for name, steps in gathered.each.items()}
        mean = robust_mean(study, sums)
        return lambda block: mean[block]
    if study.mechanism.algorithm == "whitened":
        patients = whitening.planned_patients(study, gathered.hospitals)
    else:
        sizes = sum(study.planned_at(gathered.hospitals).values())
        patients = sizes * study.mechanism.sampling
    factor = _clipping(study, part, gathered) / patients
    return lambda block: gathered.to_real(block) * factor


def _clipping(study: Study, part: PlannedPurpose, gathered: StreamingSum) -> float:
    """Return the factor that clips the sum to ``largest_norm`` (``flo.server.rounds.robust``)."""
    return min(1.0, largest_norm(study, part, gathered.hospitals) / max(gathered.norm, 1e-300))
