"""The exact interval of a rate, by Clopper and Pearson (1934): k hits of n independent trials.

``scipy.stats`` has it, too, but loading that takes a third as long as all else that an agent loads.
"""

from __future__ import annotations

import numpy as np
from scipy.special import betainccinv, betaincinv

from flo.arrays import Floats


def upper_end(hits: Floats | float, trials: Floats | float, miss: Floats | float) -> Floats:
    """Return the highest rate at which so few hits have a probability of ``miss``; 1 if all hit.

    Shapes as the arguments'; ``miss`` in (0, 1), ``trials`` at least 1.
    """
    misses = np.maximum(np.asarray(trials) - hits, 0)
    ends: Floats = np.where(
        misses > 0, betainccinv(np.asarray(hits) + 1, np.maximum(misses, 1), miss), 1.0
    )
    return ends


def lower_end(hits: Floats | float, trials: Floats | float, miss: Floats | float) -> Floats:
    """Return the lowest rate at which so many hits have a probability of ``miss``; 0 if none hit.

    Shapes and ranges as of ``upper_end``.
    """
    misses = np.maximum(np.asarray(trials) - hits, 0)
    ends: Floats = np.where(
        np.asarray(hits) > 0, betaincinv(np.maximum(hits, 1), misses + 1, miss), 0.0
    )
    return ends
