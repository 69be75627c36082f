"""A model as one flat vector, one number a parameter, in the precision it is trained in."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float32] | npt.NDArray[np.float64]
