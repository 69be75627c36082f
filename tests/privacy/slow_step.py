"""A second, independent private step to hold the fast one against, and files with somebody gone.

One patient at a time, by plain autograd on the summed loss of their records; clipped; summed.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch
from torch import nn

from flo.arrays import Floats
from flo.lab.adapters import Asked, adapted
from flo.privacy.gradients.batches import Batches
from flo.privacy.gradients.bookkeeping import BookKeeping, Loss, binary_loss
from flo.privacy.gradients.per_sample import Looped, Vmapped
from flo.privacy.gradients.step import PrivateStep, _views_of_one_vector
from flo.privacy.patients.patients import Patients
from flo.study import networks
from flo.study.layers import Layer

BATCH = 32
# Paths that part and join: a block of a transformer, and of a residual network.
TRANSFORMER = [
    *(Layer("Unflatten", (3, 4)), Layer("Linear", (4, 4)), Layer("Offset", (3, 4))),
    *(Layer("LayerNorm", (4,)), Layer("Linear", (4, 12))),
    *(Layer("Slice", (2, 1, 4)), Layer("Slice", (2, 5, 8), (4,)), Layer("Slice", (2, 9, 12), (4,))),
    *(Layer("Permute", (2, 1), (6,)), Layer("Product", (), (5, 8)), Layer("Scale", by=0.5)),
    *(Layer("Softmax"), Layer("Product", (), (11, 7)), Layer("Gain", (1, 4))),
    *(Layer("Add", (), (2, 13)), Layer("Linear", (4, 6)), Layer("GELU"), Layer("Linear", (6, 4))),
    *(Layer("Add", (), (14, 17)), Layer("Mean", (1,)), Layer("Linear", (4, 1))),
]
RESIDUAL = [
    *(Layer("Unflatten", (1, 6, 6)), Layer("Conv2d", (1, 4, 3, 2)), Layer("GroupNorm", (2, 4))),
    *(Layer("SiLU"), Layer("Conv2d", (4, 4, 3)), Layer("Add", (), (3, 4)), Layer("ReLU")),
    *(Layer("AdaptiveAvgPool2d", (1,), (5,)), Layer("Sigmoid"), Layer("Multiply", (), (6, 8))),
    *(Layer("MaxPool2d", (3, 2)), Layer("Concat", (1,), (10, 10)), Layer("Shift", by=0.25)),
    *(Layer("Flatten"), Layer("Linear", (32, 1))),
]
# All frozen but the last layer, with adapters beside two layers of the first block.
ADAPTED = adapted(
    TRANSFORMER,
    {place: f"{layer.kind}-{place}" for place, layer in enumerate(TRANSFORMER)},
    Asked(train=(f"Linear-{len(TRANSFORMER) - 1}",), adapt=("Linear-4", "Linear-15"), rank=2),
).layers
FROZEN_IMAGES = [replace(layer, frozen=bool(layer.shapes)) for layer in RESIDUAL[:-1]]
NETWORKS: dict[str, tuple[list[Layer], int]] = {
    "logistic": (networks.logistic(3), 3),
    "mlp": (networks.mlp(3, (16,)), 3),
    "cnn": (networks.cnn(1, 8, 8), 64),
    "gru": (networks.recurrent("GRU", 2, 3, 2, 3, 1), 8),
    "attention over steps": (networks.attention(0, 3, 2, 4, 2, 1), 6),
    "transformer": (TRANSFORMER, 12),
    "residual": (RESIDUAL, 36),
    "adapted": (ADAPTED, 12),
    "frozen convolutions": ([*FROZEN_IMAGES, RESIDUAL[-1]], 36),
    "lstm": (
        [
            *(Layer("Unflatten", (3, 2)), Layer("LSTM", (2, 3)), Layer("MeanOfSteps")),
            Layer("Linear", (3, 1)),
        ],
        6,
    ),
    "attention": (
        [
            *(Layer("Unflatten", (3, 4)), Layer("SelfAttention", (4, 2)), Layer("LayerNorm", (4,))),
            *(Layer("MeanOfSteps"), Layer("Linear", (4, 1))),
        ],
        12,
    ),
}
WAYS: dict[str, type[BookKeeping | Vmapped | Looped]] = {
    "book-keeping": BookKeeping,
    "vmap": Vmapped,
    "loop": Looped,
}
CASES = [
    (kind, way)
    for kind in NETWORKS
    for way in WAYS
    if way == "book-keeping" or kind in ("logistic", "mlp") or (kind, way) == ("cnn", "loop")
]  # the others are slow by vmap and by loop, and nothing in them is their own


@lru_cache
def step_of(
    kind: str, way: str | None, clip: float = 0.5, dtype: torch.dtype = torch.float64
) -> tuple[PrivateStep, Floats, nn.Module]:
    """A step that goes that way (None: its own choice), weights, and a module for the oracle."""
    layers, width = NETWORKS[kind]
    module, twin = (seeded(built(layers).to(dtype)) for _ in range(2))
    step = PrivateStep(
        module, binary_loss, clip, examples=examples(width), batch=BATCH, most_records=BATCH
    )
    if way is not None:
        step.way = WAYS[way](module.to(dtype), binary_loss)
        step._flat = _views_of_one_vector(list(module.parameters()))
    return step, weights_of(twin), twin


def built(layers: list[Layer]) -> nn.Module:
    """The network, with made-up numbers in its frozen layers."""
    dice = np.random.default_rng(5)
    numbers = {
        name: (dice.normal(size=shape) / math.sqrt(math.prod(shape[1:]))).astype(np.float32)
        for name, shape in networks.frozen_shapes(layers).items()
    }
    return networks.build(layers, numbers)


def examples(width: int, count: int = 64) -> Floats:
    """Inputs of made-up records in [-1, 1], (count, width), all different."""
    return np.random.default_rng(99).uniform(-1, 1, (count, width))


def seeded(module: nn.Module, seed: int = 0) -> nn.Module:
    """The module with parameters that depend on the seed alone."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.data.copy_(drawn / math.sqrt(max(1, parameter[:1].numel())))
    return module


def weights_of(module: nn.Module) -> Floats:
    flat = torch.nn.utils.parameters_to_vector(module.parameters())
    return np.asarray(flat.detach().double().numpy())


def file_of(records: list[int], width: int, seed: int = 0) -> Patients:
    """Patients with these numbers of records, in an order that is mixed up."""
    generator = np.random.default_rng(seed)
    owner = generator.permutation(np.repeat(np.arange(len(records)), records))
    return Patients(
        generator.normal(size=(len(owner), width)),
        generator.integers(0, 2, len(owner)).astype(np.float64),
        owner.astype(np.int64),
        len(records),
    )


def those(patients: Patients, kept: list[int]) -> Patients:
    """The same file had the others never been there; patients are numbered anew, in order."""
    rows = np.isin(patients.patient, kept)
    owner = np.searchsorted(np.array(sorted(kept), dtype=np.int64), patients.patient[rows])
    return Patients(patients.inputs[rows], patients.labels[rows], owner.astype(np.int64), len(kept))


def without(patients: Patients, who: int) -> Patients:
    return those(patients, [one for one in range(patients.count) if one != who])


def only(patients: Patients, who: int) -> Patients:
    return those(patients, [who])


def summed(step: PrivateStep, weights: Floats, patients: Patients) -> Floats:
    batches: Batches = step.batches(patients)
    return step.clipped_sum(weights, batches)


def slow_gradient(module: nn.Module, loss: Loss, one: Patients) -> Floats:
    """Gradient of one patient's summed loss, (p,), in the module's own precision."""
    parameters = list(module.parameters())
    dtype = parameters[0].dtype
    for parameter in parameters:
        parameter.requires_grad_(True)
    inputs = torch.from_numpy(one.inputs).to(dtype)
    value = loss(module(inputs), torch.from_numpy(one.labels).to(dtype)).sum()
    slopes = torch.autograd.grad(value, parameters, allow_unused=True, materialize_grads=True)
    for parameter in parameters:
        parameter.requires_grad_(False)
    return np.asarray(torch.cat([slope.flatten() for slope in slopes]).double().numpy())


def slow_sum(module: nn.Module, loss: Loss, patients: Patients, clip: float) -> Floats:
    total = np.zeros(len(weights_of(module)))
    for who in range(patients.count):
        one = only(patients, who)
        if len(one.inputs) == 0:
            continue
        gradient = slow_gradient(module, loss, one)
        norm = float(np.linalg.norm(gradient))
        if math.isfinite(norm):
            total += gradient * min(1.0, clip / max(norm, 1e-300))
    return total
