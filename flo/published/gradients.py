"""With which weights a model's inputs move its log odds: its own, or a network's mean gradients.

Integrated gradients (Sundararajan, Taly, Yan 2017) are computed by Captum, of the extra
``explain``.
"""

from __future__ import annotations

import numpy as np

from flo.arrays import Floats
from flo.errors import UsageError
from flo.published.model_card import PublishedModel
from flo.study.models import build

_STEPS = 16  # of the way from the baseline (Gauss-Legendre), exact for a nearly linear network
_AT_ONCE = 256  # patients


def slopes_of(model: PublishedModel, inputs: Floats, baseline: Floats) -> Floats:
    """Return the mean gradient of log odds on the way from ``baseline`` (d,) to inputs (n, d).

    (n, d). Of a logistic model it is the weights everywhere. Raises UsageError: the model is a
    network, and the extra ``explain`` is not installed.
    """
    if model.is_linear:
        return np.broadcast_to(model.weights[:-1], inputs.shape)
    try:
        from captum.attr import IntegratedGradients
    except ImportError as error:
        raise UsageError(
            "explaining a network needs captum", hint="pip install 'flo-federated[explain]'"
        ) from error
    import torch

    module = build(model.study).double()
    torch.nn.utils.vector_to_parameters(
        torch.from_numpy(model.weights.astype(np.float64)), module.parameters()
    )
    gradients = IntegratedGradients(module, multiply_by_inputs=False)
    beginning = torch.from_numpy(np.asarray(baseline, dtype=np.float64))[None]
    found = [np.empty((0, inputs.shape[1]))]
    for start in range(0, len(inputs), _AT_ONCE):
        some = np.ascontiguousarray(inputs[start : start + _AT_ONCE], dtype=np.float64)
        way = torch.from_numpy(some), beginning
        found.append(gradients.attribute(*way, target=0, n_steps=_STEPS).numpy())
    return np.concatenate(found)
