"""Compute one release from a snapshot and a model: clip or count, round, add noise.

``flo.privacy`` decides what is summed and how much noise is added; this module runs it. The exact
sum never leaves ``release``; helpers give it theirs (``flo.clients.data_process.helpers``). The
computation does not depend on how often, when or for whom it is called.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import nn

from flo.arrays import Floats, Integers, Mask
from flo.clients.data_process.helpers import Helpers, StudyHelpers
from flo.clients.records.snapshot import Snapshot
from flo.errors import UsageError
from flo.privacy.accounting.plan import Plan, noise_shares
from flo.privacy.gradients.augmentation import augmented, copies
from flo.privacy.gradients.batches import EVERY_BLOCK, Slot
from flo.privacy.gradients.bookkeeping import loss_of
from flo.privacy.gradients.step import PrivateStep
from flo.privacy.mechanisms.discrete_gaussian import Noise, SystemNoise
from flo.privacy.releases import (
    evaluation,
    gate,
    least_squares,
    monitor,
    regressions,
    second_moments,
    statistics,
    survey,
    whitening,
)
from flo.privacy.secure_sum import ring
from flo.study import frozen, models
from flo.study.document import Study
from flo.study.parameters import Vector
from flo.study.synthetic import made_up_inputs
from flo.study.terms import Purpose


class Trainer:
    """One approved study on one frozen snapshot."""

    def __init__(
        self,
        study: Study,
        snapshot: Snapshot,
        *,
        device: str = "cpu",
        noise: Noise | None = None,
        step: PrivateStep | None = None,
        slot: Slot = EVERY_BLOCK,
        at_once: int | None = None,
        others: StudyHelpers | None = None,
    ) -> None:
        """Prepare the patients of this process.

        Args:
            study: an approved study.
            snapshot: its frozen patients.
            device: a name that torch knows.
            noise: where noise is drawn; the operating system's generator if None.
            step: a step of the same study to share; it holds no patient data.
            slot: the blocks of patients whose gradients this process sums.
            at_once: the most records to compute at once; as memory allows if None.
            others: the helpers that sum all other blocks; none if None.
        """
        survey.refuse(study)
        if snapshot.frozen:
            frozen.learn(snapshot.frozen)
        self._study, self._snapshot = study, snapshot
        self.frozen_file = study.frozen_file
        self._noise = noise or SystemNoise()
        self._slot, self._others = slot, others or StudyHelpers(Helpers([]), "", "")
        # Once: these look at all of the study's hospitals, of which there may be thousands.
        self._plan, self._gains_from_threads = Plan.of(study), models.gains_from_threads(study)
        self._limit = ring.clamp_bound(study.largest_size) if study.masked else None
        self._matrix: Floats | None = None  # W of the inputs in self._batches, if whitened
        self.manner: dict[str, str | int] = {}  # of training by gradients
        if step := step or private_step(study, device, at_once):
            self._step, self.manner = step, step.manner
            if study.mechanism.algorithm != "whitened":
                self._batches = step.batches(augmented(study, snapshot.training), slot)

    def release(self, purpose: Purpose, weights: Vector, cohort_size: int) -> Integers:
        """Return the noisy sum on its grid, shape (length of the purpose's mechanism,)."""
        mechanism = self._plan.purpose(purpose).mechanism
        match purpose:
            case "moments":
                exact = second_moments.clipped_sum(self._study, self._snapshot.training)
            case "training" if self._study.mechanism.algorithm == "least-squares":
                exact = least_squares.clipped_sum(self._study, self._snapshot.training)
            case "training":
                chosen = mechanism.choose(self._snapshot.training.count, self._noise)
                total = self._others.total(
                    weights, chosen, partial(self.gradient_sum, weights, chosen)
                )
                exact = self._step.to_real(total) / copies(self._study)
            case "evaluation":
                exact = evaluation.sums(self._study, weights, self._snapshot.held_out)
            case "gate":
                exact = gate.sums(self._study, weights, self._snapshot.held_out)
            case "monitor":
                exact = monitor.sums(self._study, weights, self._snapshot.held_out)
            case "statistics":
                exact = statistics.exact(self._study, self._snapshot.training)
                exact += statistics.exact(self._study, self._snapshot.held_out)
            case "regression":
                exact = regressions.exact(self._study, self._snapshot.training, weights)
                exact += regressions.exact(self._study, self._snapshot.held_out, weights)
        shares = noise_shares(self._study, cohort_size)
        return mechanism.release(exact, self._noise, shares=shares, limit=self._limit)

    def gradient_sum(self, weights: Vector, chosen: Mask | None) -> Integers:
        """Return the exact sum over this process's blocks, integers (2, p); no noise is added."""
        if self._study.mechanism.algorithm == "whitened":
            weights = self._whiten(weights)
        with models.as_many_threads_as_help(gains=self._gains_from_threads):
            return self._step.integer_sum(weights, self._batches, chosen)

    def _whiten(self, asked: Vector) -> Vector:
        """Whiten the inputs, unless they already are by this W; return the weights on them."""
        weights, matrix = whitening.divided(self._study, asked)
        if self._matrix is None or not np.array_equal(matrix, self._matrix):
            patients = whitening.whitened(self._snapshot.training, matrix)
            self._batches, self._matrix = self._step.batches(patients, self._slot), matrix
        return weights


def private_step(study: Study, device: str, at_once: int | None = None) -> PrivateStep | None:
    """Return the private step that a study trains with; None if it uses none."""
    if not study.trains or study.mechanism.algorithm == "least-squares":
        return None
    module, examples = models.build(study), made_up_inputs(study.data)
    if study.mechanism.algorithm == "whitened":  # the intercept is one of the inputs
        d = second_moments.width(study)
        outputs = models.layers(study)[0].sizes[1]
        module[0] = nn.Linear(d, outputs, bias=False, dtype=torch.float64)
        examples = np.hstack([examples, np.ones((len(examples), 1))]) @ whitening.dense(d, d)
    return PrivateStep(
        module,
        loss_of(study.data.outcome),
        Plan.of(study).purpose("training").mechanism.norm * copies(study),
        examples=examples,
        batch=models.largest_batch(study, copies(study), device),
        most_records=models.most_records(study) * copies(study),
        at_once=at_once,
        device=device,
    )


def choose_device(wanted: str, number: int = 0) -> str:
    """Resolve ``auto``, ``cpu`` or ``cuda`` to a device, for a site's process of this number.

    Raises:
        UsageError: cuda is requested but not available, there are fewer GPUs than processes, or
            the name is unknown.
    """
    if wanted not in ("auto", "cpu", "cuda"):
        raise UsageError(f"device {wanted!r} is not one of auto, cpu, cuda")
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UsageError("device = cuda, but torch sees no CUDA device", hint="use device = auto")
    if wanted == "cpu" or not torch.cuda.is_available():
        return "cpu"
    if number >= (count := torch.cuda.device_count()):
        raise UsageError(
            f"process {number + 1} has no GPU of its own: torch sees {count}",
            hint=f"set processes = {count} or less in site.toml",
        )
    return f"cuda:{number}"
