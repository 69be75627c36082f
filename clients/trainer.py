"""From a snapshot and a model to one release: clip or count, round, add noise.

``flo.privacy`` decides what is summed and how much noise it takes; this runs it. The exact sum
never leaves ``release``. Nothing here depends on how often, when or for whom it is called.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from flo import models
from flo.clients.snapshot import Snapshot
from flo.errors import UsageError
from flo.messages import Purpose
from flo.privacy.clipping import clipped_gradient_sum
from flo.privacy.discrete_gaussian import Noise, SystemNoise
from flo.privacy.evaluation import histogram, public_edges
from flo.privacy.plan import Plan, noise_shares
from flo.study import Study

Floats = npt.NDArray[np.float64]


class Trainer:
    """One approved study on one frozen snapshot."""

    def __init__(
        self, study: Study, snapshot: Snapshot, *, device: str = "cpu", noise: Noise | None = None
    ) -> None:
        self._study, self._snapshot, self._device = study, snapshot, device
        self._noise = noise or SystemNoise()
        self._plan = Plan.of(study)

    def release(self, purpose: Purpose, weights: Floats, cohort_size: int) -> npt.NDArray[np.int64]:
        """The noisy sum on its grid: (p,) for training, (2·bins,) for evaluation."""
        mechanism = self._plan.part(purpose).mechanism
        exact = self._gradient(weights) if purpose == "training" else self._histogram(weights)
        shares = noise_shares(self._study, cohort_size)
        return mechanism.release(exact, self._noise, shares=shares)

    def _gradient(self, weights: Floats) -> Floats:
        module = models.build(self._study, weights)
        clip = self._study.mechanism.clip
        return clipped_gradient_sum(module, self._snapshot.training, clip, self._device)

    def _histogram(self, weights: Floats) -> Floats:
        held_out = self._snapshot.held_out
        return histogram(
            models.log_odds(weights, held_out.inputs),
            held_out.labels,
            held_out.patient,
            held_out.count,
            public_edges(self._study, weights),
        )


def choose_device(wanted: str) -> str:
    """``auto``, ``cpu`` or ``cuda`` to a device that is there.

    Raises:
        UsageError: cuda was asked for and is not there.
    """
    import torch

    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UsageError("device = cuda, but torch sees no CUDA device", hint="use device = auto")
    if wanted not in ("cpu", "cuda"):
        raise UsageError(f"device {wanted!r} is not one of auto, cpu, cuda")
    return wanted
