"""The reference in FastAPI: one record as a Pydantic model, a product by numpy, JSON."""

from typing import Any

import numpy as np
from fastapi import FastAPI
from pydantic import BaseModel

app = FastAPI()
WEIGHTS = np.random.default_rng(1).normal(size=13)


class Request(BaseModel):
    """A request."""

    record: dict[str, Any]


@app.post("/score")
async def score(request: Request) -> dict[str, float]:
    """Return the risk."""
    inputs = np.array([float(len(str(cell))) for cell in request.record.values()])
    return {"risk": float(1 / (1 + np.exp(-inputs @ WEIGHTS)))}
