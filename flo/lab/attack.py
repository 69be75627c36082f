"""``flo audit attack``: try to tell who took part in a study, on made-up patients.

A shadow site trains on *canaries*: patients made up from the study's schema at the edges of its
bounds, each put in or left out by a fair coin. A coordinator who lies keeps sending the same model,
so that every release answers the same question, and solves for who was in: the best linear guess,
knowing what each canary adds and the noise. It is guessed four times, taking the trainer to clip
or not and to add noise or not, each at a quarter of the error allowed. Several such sites share no
patient, so together they are one mechanism with the same ε, and ``flo.privacy.one_run`` turns the
guesses into a lower bound.

It catches a trainer without noise or without clipping. It cannot certify an ε below 1: the bound of
a right trainer is far below the claimed ε because no attacker here is perfect.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from flo import models
from flo.clients.snapshot import Snapshot
from flo.clients.trainer import Trainer
from flo.errors import UsageError
from flo.features import encode_category, encode_image, encode_number
from flo.privacy.augmentation import augmented, copies
from flo.privacy.bookkeeping import binary_loss
from flo.privacy.entropy import SystemStream
from flo.privacy.mechanisms import GRID
from flo.privacy.one_run import lower_bound
from flo.privacy.patients import Patients
from flo.privacy.plan import Plan
from flo.schema import CategoryColumn, ImageColumn, Schema
from flo.study import Study
from flo.vectors import Vector

Floats = npt.NDArray[np.float64]
Progress = Callable[[str], None]
MakeTrainer = Callable[[Study, Snapshot], Trainer]

_CANARIES = 1000
_MOST_IN_ONE_RUN = 20


@dataclass(frozen=True)
class Attacked:
    """What the attack found, beside what is claimed for training."""

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
    """Attack the training of ``study`` as its trainer really runs it. Raises UsageError."""
    if study.survey:
        raise UsageError("a survey trains nothing", hint="attack the planned study instead")
    if study.mechanism.noise != "local":
        raise UsageError(
            "one shadow site has no secure sum to hide in",
            hint='attack the same study with noise = "local": the total noise is the same',
        )
    part = Plan.of(study).part("training")
    each = min(_MOST_IN_ONE_RUN, max(1, part.mechanism.length // 2))
    runs = -(-_CANARIES // each)
    scores, truth = [], []
    for run in range(runs):
        progress(f"shadow site {run + 1} of {runs}")
        canaries, inside = made_up_patients(study.data, each), _coins(each)
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


def made_up_patients(schema: Schema, count: int) -> Patients:
    """Patients at the edges of the schema's bounds, with random codes and labels."""
    parts = []
    for column in schema.columns:
        if isinstance(column, CategoryColumn):
            codes = (SystemStream().words(count) % np.uint64(len(column.codes))).astype(np.int64)
            parts.append(encode_category(column, codes))
        elif isinstance(column, ImageColumn):
            pixels = _coins(count * len(column.pixels)).reshape(count, -1)
            parts.append(encode_image(column, np.where(pixels, 1.0, -1.0)))
        else:
            edges = np.where(_coins(count), column.maximum, column.minimum)
            parts.append(encode_number(column, edges))
    labels = _coins(count).astype(np.float64)
    return Patients(np.concatenate(parts, axis=1), labels, np.arange(count), count)


def _scores(
    study: Study, canaries: Patients, inside: npt.NDArray[np.bool_], make_trainer: MakeTrainer
) -> Floats:
    """The best linear guess of each canary's coin, minus a half, (4, canaries)."""
    mechanism = Plan.of(study).part("training").mechanism
    taking_part = Patients(
        canaries.inputs[inside],
        canaries.labels[inside],
        np.arange(inside.sum()),
        int(inside.sum()),
    )
    nobody = Patients(canaries.inputs[:0], canaries.labels[:0], np.arange(0), 0)
    trainer = make_trainer(study, Snapshot(taking_part, nobody))
    weights = models.initial_weights(study)
    steps = study.mechanism.steps
    releases = [trainer.release("training", weights, 1) for _ in range(steps)]
    mean = mechanism.to_real(np.mean(releases, axis=0)) / study.mechanism.sampling
    exact = _contributions(study, weights, canaries)
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
    """z - 1/2 = (G Gᵀ + 4·variance)^-1 G (mean - Σ G/2): least squares, a coin varies by 1/4."""
    surprise = gradients @ (mean - 0.5 * gradients.sum(0))
    gram = gradients @ gradients.T + 4 * variance * np.eye(len(gradients))
    return np.asarray(np.linalg.solve(gram, surprise), dtype=np.float64)


def _contributions(study: Study, weights: Vector, canaries: Patients) -> Floats:
    """What each canary adds, unclipped, (canaries, length)."""
    if study.mechanism.algorithm == "least-squares":
        return _products(study, canaries)
    return _gradients(study, weights, canaries)


def _products(study: Study, canaries: Patients) -> Floats:
    """Each canary's part of least squares, written out once more, as its docstring has it."""
    r2, found = 1 + len(study.data.columns), []
    for record, label in zip(canaries.inputs, canaries.labels, strict=True):
        x = [*record, 1.0]
        pairs = [(i, j) for i in range(len(x)) for j in range(i, len(x))]
        products = [x[i] * x[j] / r2 / (math.sqrt(2) if i == j else 1) for i, j in pairs]
        found.append([*products, *((2 * label - 1) * value / math.sqrt(2 * r2) for value in x)])
    return np.array(found)


def _gradients(study: Study, weights: Vector, canaries: Patients) -> Floats:
    """Each canary's gradient, (canaries, p): plain autograd, none of the code under test."""
    import torch

    module = models.build(study).double()
    torch.nn.utils.vector_to_parameters(torch.from_numpy(weights).double(), module.parameters())
    rows = []
    turned, count = augmented(study, canaries), copies(study)
    for place in range(0, len(turned.labels), count):
        inputs, labels = (a[place : place + count] for a in (turned.inputs, turned.labels))
        loss = binary_loss(module(torch.from_numpy(inputs)), torch.from_numpy(labels)).mean()
        slopes = torch.autograd.grad(loss, list(module.parameters()))
        rows.append(torch.cat([slope.flatten() for slope in slopes]).numpy())
    return np.stack(rows)


def _coins(count: int) -> npt.NDArray[np.bool_]:
    return np.asarray(SystemStream().words(count) >> np.uint64(63), dtype=np.bool_)
