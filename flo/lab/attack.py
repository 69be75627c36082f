"""``flo audit attack``: try to infer which made-up patients took part in a study.

A shadow site trains on *canaries*: patients made up from the study's schema at the edges of its
bounds, each included or excluded by a fair coin. A dishonest coordinator sends the same model in
every round, so that every release answers the same question. It estimates which canaries were
included by the best linear guess, given each canary's contribution and the noise. There are four
guesses, which assume that the trainer clips or not, and adds noise or not; each has a quarter of
the allowed error. Several such sites share no patient, so together they are one mechanism with the
same ε, and ``flo.privacy.accounting.audit_bound`` turns the guesses into a lower bound.

The attack detects a trainer without noise or without clipping; ``flo.lab.release_checks`` looks for
other faults of noise and clip. Only training rounds are attacked, and the claimed ε is theirs; a
whitened study's second moments are left to those checks. The attack cannot certify an ε below 1:
the bound of a correct trainer is far below the claimed ε because no attacker here is perfect. Under
distributed noise the sum of the shares is attacked, drawn at one site as local noise of the same
variance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from flo.arrays import Floats
from flo.clients.data_process.trainer import Trainer
from flo.clients.records.snapshot import Snapshot
from flo.errors import UsageError
from flo.lab.canaries import coins, contributions, made_up_patients, request_for
from flo.lab.release_checks import MakeTrainer, Progress
from flo.privacy.accounting.audit_bound import lower_bound
from flo.privacy.accounting.plan import Plan
from flo.privacy.mechanisms.mechanisms import GRID
from flo.privacy.patients.patients import Patients
from flo.study import models
from flo.study.document import Study

_CANARIES = 1000
_MOST_IN_ONE_RUN = 20


@dataclass(frozen=True)
class Attacked:
    """Result of the attack, with the ε ``claimed`` for training."""

    claimed: float
    lower_bound: float
    confidence: float
    canaries: int
    guesses: int
    right: int

    @property
    def broken(self) -> bool:
        """Whether the claim is refuted: the trainer has a bug."""
        return self.lower_bound > self.claimed


def attack(
    study: Study,
    *,
    make_trainer: MakeTrainer = Trainer,
    confidence: float = 0.95,
    progress: Progress = lambda text: None,
) -> Attacked:
    """Attack the training of ``study`` with its real trainer. Raises UsageError if it has none."""
    if not study.trains:
        raise UsageError("this study trains no model", hint="attack one that does")
    if study.mechanism.noise != "local":
        study = study.with_mechanism(noise="local")
    part = Plan.of(study).purpose("training")
    each = min(_MOST_IN_ONE_RUN, max(1, part.mechanism.length // 2))
    runs = -(-_CANARIES // each)
    scores, truth = [], []
    for run in range(runs):
        progress(f"shadow site {run + 1} of {runs}")
        canaries, inside = made_up_patients(study.data, each), coins(each)
        scores.append(_scores(study, canaries, inside, make_trainer))
        truth.append(inside)
    guessed, inside = np.concatenate(scores, axis=1), np.concatenate(truth)
    allowed = (1 - confidence) / len(guessed)
    found = []
    for score in guessed:
        surest = np.argsort(-np.abs(score), kind="stable")[: len(score) // 2]
        right = int(((score > 0) == inside)[surest].sum())
        bound = lower_bound(len(score), len(surest), right, part.delta, 1 - allowed)
        found.append(Attacked(part.epsilon, bound, confidence, len(score), len(surest), right))
    return max(found, key=lambda one: (one.lower_bound, one.right))


def _scores(
    study: Study, canaries: Patients, inside: npt.NDArray[np.bool_], make_trainer: MakeTrainer
) -> Floats:
    """Return the best linear guess of each canary's coin, minus a half, (4, canaries)."""
    mechanism = Plan.of(study).purpose("training").mechanism
    taking_part = Patients(
        canaries.inputs[inside], canaries.labels[inside], np.arange(inside.sum()), int(inside.sum())
    )
    nobody = Patients(canaries.inputs[:0], canaries.labels[:0], np.arange(0), 0)
    trainer = make_trainer(study, Snapshot(taking_part, nobody))
    weights = models.initial_weights(study)
    steps = study.mechanism.steps
    asked = request_for(study, "training", weights)
    releases = [trainer.release("training", asked, 1) for _ in range(steps)]
    mean = mechanism.to_real(np.mean(releases, axis=0)) / study.mechanism.sampling
    exact = contributions(study, "training", weights, canaries)
    norms = np.linalg.norm(exact, axis=1, keepdims=True)
    clipped = exact * np.minimum(1.0, mechanism.norm / np.maximum(norms, 1e-300))
    claimed = mechanism.variance_steps() * (mechanism.norm / GRID) ** 2 / steps
    claimed /= study.mechanism.sampling**2
    return np.stack(
        [
            _best_guess(gradients, mean, variance)
            for gradients in (clipped, exact)
            for variance in (claimed, 1e-9 * mechanism.norm**2)
        ]
    )


def _best_guess(gradients: Floats, mean: Floats, variance: float) -> Floats:
    """Solve z - 1/2 = (G Gᵀ + 4·variance)^-1 G (mean - Σ G/2): a coin has variance 1/4."""
    surprise = gradients @ (mean - 0.5 * gradients.sum(0))
    gram = gradients @ gradients.T + 4 * variance * np.eye(len(gradients))
    return np.asarray(np.linalg.solve(gram, surprise), dtype=np.float64)
