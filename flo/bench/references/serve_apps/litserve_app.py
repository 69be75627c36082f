"""The reference in LitServe, with the same scorer."""

import sys
from typing import Any

import litserve as ls
import numpy as np


class Scorer(ls.LitAPI):
    """The scorer."""

    def setup(self, device: str) -> None:
        """Make the weights."""
        self.weights = np.random.default_rng(1).normal(size=13)

    def predict(self, request: dict[str, Any]) -> dict[str, float]:
        """Return the risk."""
        inputs = np.array([float(len(str(cell))) for cell in request["record"].values()])
        return {"risk": float(1 / (1 + np.exp(-inputs @ self.weights)))}


if __name__ == "__main__":
    server = ls.LitServer(Scorer(api_path="/score"), accelerator="cpu", workers_per_device=1)
    port = int(sys.argv[1])
    server.run(port=port, host="127.0.0.1", generate_client_file=False, num_api_servers=1)
