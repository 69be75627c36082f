"""Records grouped by patient, the unit of every guarantee. Arrays only, no torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from flo.arrays import Floats


@dataclass(frozen=True)
class Patients:
    """Records of some patients, numbered 0 .. count-1 in ``patient``; one patient may have many.

    Shapes: inputs (records, d), labels (records,) in {0, 1}, patient (records,).
    """

    inputs: Floats
    labels: Floats
    patient: npt.NDArray[np.int64]
    count: int
