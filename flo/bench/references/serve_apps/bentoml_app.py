"""The reference in BentoML, with the same scorer."""

from typing import Any

import bentoml
import numpy as np


@bentoml.service(workers=1)
class Scorer:
    """The scorer."""

    def __init__(self) -> None:
        self.weights = np.random.default_rng(1).normal(size=13)

    @bentoml.api
    async def score(self, record: dict[str, Any]) -> dict[str, float]:
        """Return the risk."""
        inputs = np.array([float(len(str(cell))) for cell in record.values()])
        return {"risk": float(1 / (1 + np.exp(-inputs @ self.weights)))}
