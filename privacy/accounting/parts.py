"""What each part of a study of statistics costs of the ε that they share."""

from __future__ import annotations

import math
from dataclasses import dataclass

from flo.privacy.accounting import accounting
from flo.privacy.accounting.plan import Plan
from flo.privacy.mechanisms.mechanisms import FullBatchSum
from flo.study.document import Study


@dataclass(frozen=True)
class PartCost:
    """``share``: of the Rényi cost of the study, in [0, 1]. ``epsilon``: of the part alone."""

    name: str
    share: float
    epsilon: float


def costs_of_parts(study: Study) -> list[PartCost]:
    """Return the cost of each part in the order of the study; empty if it asks no statistics.

    Parts share one Gaussian's Rényi cost (``flo.privacy.accounting.plan``): a part of share s has
    noise of σ/√s. Their ε do not add up: composed, they are the study's ε.
    """
    asked = study.statistics
    if asked is None:
        return []
    whole = sum(part.share for part in asked.parts)
    delta = study.mechanism.delta

    def made(sigma: float) -> FullBatchSum:
        return FullBatchSum(1, sigma, 1.0)

    sigma = accounting.calibrate(made, Plan.of(study).epsilon, delta, 1).noise_multiplier
    found = []
    for part in asked.parts:
        share = part.share / whole
        alone = accounting.epsilon_of(made(sigma / math.sqrt(share)), 1, delta)
        found.append(PartCost(part.name, share, alone))
    return found
