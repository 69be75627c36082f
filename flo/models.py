"""The models a study can name, as torch modules and as one flat vector of parameters.

The coordinator keeps a model as its vector and never needs torch; sites build the module to train.
Only parameters travel, never buffers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from flo.features import input_names
from flo.study import Study

if TYPE_CHECKING:
    import torch

Floats = npt.NDArray[np.float64]


def parameter_count(study: Study) -> int:
    """Number of parameters p of the study's model (logistic: one per input and a bias)."""
    return len(input_names(study.data)) + 1


def parameter_names(study: Study) -> list[str]:
    return [*input_names(study.data), "bias"]


def initial_weights(study: Study) -> Floats:
    """The public starting point, shape (p,): zero, where a logistic model says 0.5 to everyone."""
    return np.zeros(parameter_count(study))


def build(study: Study, weights: Floats) -> torch.nn.Module:
    """The study's model in float64 with ``weights`` (p,) loaded; output (n,) = log odds."""
    import torch

    module = torch.nn.Sequential(
        torch.nn.Linear(len(input_names(study.data)), 1, dtype=torch.float64),
        torch.nn.Flatten(0),
    )
    torch.nn.utils.vector_to_parameters(torch.tensor(weights), module.parameters())
    return module


def log_odds(weights: Floats, inputs: Floats) -> Floats:
    """Log odds of label 1, shape (n,), for inputs (n, p - 1) of a logistic model.

    One row at a time by construction: products, then a sum along each row, and nothing else. A
    matrix product would do, but its kernels treat the last rows of a block differently, so that
    removing one patient could move another's score by a bit, and across a bin's edge.
    """
    products = np.ascontiguousarray(inputs) * weights[:-1]
    return np.asarray(products.sum(axis=1) + weights[-1], dtype=np.float64)
