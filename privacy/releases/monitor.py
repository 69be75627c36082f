"""One period of a monitor: whether outcomes are as often as a published model states.

Of each held-out patient that takes part, with label y and stated risk p, a release adds

    (y - p, c·p(1 - p)),   c = 3.33,

to the sums S and c·W. S is how many more had the outcome than stated; W is the variance that the
stated risks give S. ``flo.scores.drift`` reads them.

Norm. A patient's vector is no longer than 1: for y = 1 its square is (1 - p)²(1 + c²p²), which is
at most 1 if c² <= (2 - p)/(p(1 - p)²), whose least value in (0, 1) is φ⁵ = 11.09 at p = 2 - φ, with
φ = (1 + √5)/2; c² = 11.0889. For y = 0 the same holds of 1 - p. Equality at p = 0 and p = 1, so the
second sum costs nothing. A patient's records share a weight of 1, so by convexity a patient moves
the release by no more than 1, whatever model is asked.

Who takes part. A study of a series is charged to those generations only that no other period of
the same model was charged to, unless that one ended without a release here
(``flo.privacy.ledger.admission.not_counted``). The ledger decides by its own rows, whatever studies
say of each other. So each patient is counted in one period at most, and each generation pays for
one period of the series.
"""

from __future__ import annotations

import numpy as np

from flo.arrays import Floats
from flo.privacy.patients.patients import Patients
from flo.privacy.releases.asked_model import risks_of
from flo.privacy.releases.histograms import record_weights
from flo.study import models
from flo.study.document import Study
from flo.study.parameters import Vector

LENGTH = 2  # S, c·W
OF_VARIANCE = 3.33
NORM = 1.0 + 1e-12
_AT_ONCE = 1 << 14  # records


def sums(study: Study, asked: Vector, held_out: Patients) -> Floats:
    """Return the exact sums over a site's held-out patients, (2,).

    ``asked`` (request_length,): the model, as ``asked_model.scorer`` makes it. Whatever is asked,
    one patient moves the result by at most ``NORM`` and changes no other patient's contribution.
    """
    weight = record_weights(held_out.patient, held_out.count)
    risks, total = risks_of(study, models.watched(study), asked), np.zeros(LENGTH)
    for start in range(0, len(held_out.labels), _AT_ONCE):
        some = slice(start, start + _AT_ONCE)
        labels, stated = held_out.labels[some], risks(held_out.inputs[some])
        usable = np.isfinite(stated) & ((labels == 0) | (labels == 1))
        p = np.where(usable, stated, 0.0)
        each = np.stack([np.where(usable, labels, 0.0) - p, OF_VARIANCE * p * (1 - p)], axis=1)
        each *= weight[some, None]
        for place, column in enumerate(each.T):
            total[place] += column.sum()
    return total
