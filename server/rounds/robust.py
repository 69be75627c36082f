"""Limits on how far one lying hospital can move the model: rules without IO.

| the coordinator sees | rule |
|---|---|
| sums only (``masking = "on"``) | the sum is clipped to ``largest_norm`` of the whole cohort |
| each hospital's sum (``"off"``) | a hospital beyond its ``largest_norm`` is refused and named |
| the same, ``aggregation = "median"`` or ``"trimmed-mean"`` | robust mean per coordinate |

All of it is post-processing of noisy releases: it costs no privacy. Masks hide which hospital lied,
and FLO has no range proof for masked numbers: a liar can change the sum by as much as the whole
cohort could. So whatever is sent, a round of sums changes the velocity by at most ``largest_norm``
/ (declared patients · sampling), and the weights by learning_rate times that, 1/(1 - momentum)
times in the long run; once the liar is gone, honest rounds correct the model. Least squares has
only one round, so later rounds cannot correct it. Robust aggregation needs each hospital's numbers:
``masking = "off"``.

Coordinate median and trimmed mean: Yin, Chen, Kannan, Bartlett (2018), "Byzantine-Robust
Distributed Learning", Definitions 1 and 2. Hospitals count equally; the median of noisy means has
more noise than their mean (π/2 of its variance for many hospitals).
"""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np

from flo.arrays import Floats
from flo.privacy.accounting.plan import PlannedPurpose, combined_variance
from flo.study.document import Study

_MOST_TIMES = 2.0  # a hospital may have grown since it declared its size
_RARELY = 1e-9
_TRIMMED = 4  # trim 1/_TRIMMED of the hospitals, at least one, from either end


def largest_norm(study: Study, part: PlannedPurpose, hospitals: Collection[str]) -> float:
    """Return the L2 norm that these hospitals' honest noisy sum exceeds with probability < 10^-9.

    In the unit of the summed values: clip norm times twice the planned patients, plus the bound of
    the noise, whose norm exceeds s·(√length + √(2 ln 10^9)) with probability below 10^-9 (s:
    standard deviation of a coordinate; Gaussian concentration of a 1-Lipschitz function).
    """
    patients = _MOST_TIMES * sum(study.planned_at(hospitals).values())
    deviation = math.sqrt(combined_variance(study, part, len(hospitals)))
    noise = math.sqrt(part.mechanism.length) + math.sqrt(-2 * math.log(_RARELY))
    return part.mechanism.norm * patients + deviation * noise


def robust_mean(study: Study, sums: dict[str, Floats]) -> Floats:
    """Return a patient's mean contribution from each hospital's sum, by the study's aggregation."""
    share = study.mechanism.sampling
    planned = study.planned_at(sums)
    means = np.stack([total / (planned[name] * share) for name, total in sums.items()])
    if study.mechanism.aggregation == "median":
        return np.asarray(np.median(means, axis=0))
    trimmed = max(1, len(means) // _TRIMMED)
    kept = np.sort(means, axis=0)[trimmed : len(means) - trimmed]
    return np.asarray(kept.mean(axis=0))
