"""An ordinary regression without privacy, as the baseline for a study."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from flo.arrays import Floats
from flo.clients.prediction.linear_fit import Records, margins_of, plain
from flo.privacy.patients.patients import Patients
from flo.study.outcome import Outcome

_PENALTY = 3.0  # L2; of 1, 3, 10 and 30 the best for both baselines on the heart data


def unprotected(
    training: Sequence[Patients], outcome: Outcome | None
) -> Callable[[Floats], Floats]:
    """Train on patients of one or several hospitals; return the map from inputs (n, d) to margins
    (n, m), as ``flo.clients.prediction.margins`` says what they mean."""
    inputs = np.concatenate([patients.inputs for patients in training])
    labels = np.concatenate([patients.labels for patients in training])
    model = plain(Records.of(outcome, inputs, labels), _PENALTY)
    return lambda rows: margins_of(outcome, model, rows)
