"""Whether a federation has enough patients for a network at its ε; its size hardly matters.

A round's step on the mean of clipped gradients moves a patient's log odds by step × clip × ‖∇‖ ×
(mean cosine to the others' gradients), and noise moves them by step × clip × ‖∇‖ × a normal number.
‖∇‖ cancels, and with it the number of parameters. To first order only the *relative noise* of a
training counts, the noise of one coordinate over what all patients could do together:

    r = √(noise variance of one round's sum) / (clip · patients · √rounds)

Measured with FedAvgM (clip .3, rate .5, momentum .9, 15 rounds) on heart, SUPPORT2, wilms, nass and
LIDC, networks of 27 to 75,000 parameters, one or two hidden layers, and ``cnn`` of 170 to 44,000:
see docs/decisions/0027. Up to r = .0125 they lost .01 of AUC on average to noise; at .019 up to
.07, at .035 up to .09. No set showed a loss that grows with the number of parameters.

Smaller models win for another reason: on tables FedAvgM trains networks worse than ``whitened``
trains a logistic model, with and without noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from flo.privacy.accounting.plan import Plan, combined_variance
from flo.privacy.report.sheet import ASSUMED_HOLD_OUT
from flo.study.columns import EncodedColumn
from flo.study.document import Study
from flo.study.models import parameter_count

MOST_NOISE = 0.0125
LARGEST_TRIED = 75_000  # parameters; of images 44,000


@dataclass(frozen=True)
class NetworkSize:
    """Whether a federation's patients suffice for its network, and how many would.

    ``relative_noise``: r; ``patients``: who are expected to train, at all hospitals, and
    ``patients_needed``: for r = ``MOST_NOISE``; ``of_a_table``: its inputs are no images or notes.
    """

    parameters: int
    relative_noise: float
    patients: int
    patients_needed: int
    of_a_table: bool

    @property
    def enough(self) -> bool | None:
        """Whether the patients suffice; None if no network of this size was measured."""
        if self.relative_noise > MOST_NOISE:
            return False
        return None if self.parameters > LARGEST_TRIED else True


def network_size(study: Study) -> NetworkSize | None:
    """Return what the patients of ``study`` allow; None unless it trains a network by FedAvgM."""
    if not study.trains or study.model.kind == "logistic" or study.mechanism.algorithm != "fedavgm":
        return None
    part = Plan.of(study).purpose("training")
    patients = (1 - ASSUMED_HOLD_OUT) * sum(h.planned for h in study.hospitals)
    deviation = math.sqrt(combined_variance(study, part, len(study.hospitals)))
    reach = part.mechanism.norm * study.mechanism.sampling * patients
    noise = deviation / reach / math.sqrt(study.mechanism.steps)
    return NetworkSize(
        parameter_count(study),
        noise,
        round(patients),
        math.ceil(patients * noise / MOST_NOISE),
        not any(isinstance(column, EncodedColumn) for column in study.data.columns),
    )
