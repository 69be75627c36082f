"""Type of a model as one flat vector of its parameters, in the precision of its training."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float32] | npt.NDArray[np.float64]
