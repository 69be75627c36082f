"""One private step (clip, sum, noise; no ledger) against one plain step and against Opacus' hooks.

Needs only numpy, scipy, cryptography, torch and Opacus, so that it runs from a bare checkout on a
GPU machine.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import nn

from flo.bench import BenchRow, compared
from flo.host.memory import keep_freed_memory
from flo.lab.adapters import Asked, adapted
from flo.privacy.gradients.bookkeeping import categorical_loss
from flo.privacy.gradients.step import PrivateStep
from flo.privacy.mechanisms.discrete_gaussian import SystemNoise
from flo.privacy.mechanisms.mechanisms import FullBatchSum
from flo.privacy.patients.patients import Patients
from flo.study import networks
from flo.study.layers import Layer

_CLIP, _SIGMA = 1.0, 20.0
_STEPS = (4, 24, 16)  # inputs of a record, its steps, inputs of each
_HEADS = (24, 4, 8)  # steps, heads, numbers of each
_TRANSFORMER = [  # a block as a pack states it, records first; the place of each line's first layer
    *(Layer("Steps", _STEPS), Layer("Linear", (21, 32)), Layer("LayerNorm", (32,))),
    Layer("Linear", (32, 96)),
    *(Layer("Slice", (2, 1, 32)), Layer("Flatten"), Layer("Unflatten", _HEADS)),  # 4
    Layer("Permute", (2, 1, 3)),
    *(Layer("Slice", (2, 33, 64), (3,)), Layer("Flatten"), Layer("Unflatten", _HEADS)),  # 8
    Layer("Permute", (2, 3, 1)),
    *(Layer("Product", (), (7, 11)), Layer("Scale", by=8**-0.5), Layer("Softmax")),  # 12
    *(Layer("Slice", (2, 65, 96), (3,)), Layer("Flatten"), Layer("Unflatten", _HEADS)),  # 15
    Layer("Permute", (2, 1, 3)),
    *(Layer("Product", (), (14, 18)), Layer("Permute", (2, 1, 3)), Layer("Flatten")),  # 19
    *(Layer("Unflatten", (24, 32)), Layer("Linear", (32, 32)), Layer("Add", (), (1, 23))),  # 22
    *(Layer("LayerNorm", (32,)), Layer("Linear", (32, 64)), Layer("GELU")),  # 25
    *(Layer("Linear", (64, 32)), Layer("Add", (), (24, 28)), Layer("Mean", (1,))),  # 28
    Layer("Linear", (32, 2)),
]
_LINEAR = {3: "qkv", 23: "out", 26: "up", 28: "down"}  # that get adapters
_ADAPTED = adapted(  # the same block frozen but for its last layer
    _TRANSFORMER,
    {place: _LINEAR.get(place, str(place)) for place in range(len(_TRANSFORMER))},
    Asked(train=(str(len(_TRANSFORMER) - 1),), adapt=tuple(_LINEAR.values()), rank=4),
).layers
MODELS: dict[str, tuple[list[Layer], int, int]] = {  # layers, inputs, patients
    "logistic 30-2, b=64": ([Layer("Linear", (30, 2))], 30, 64),
    "MLP 30-64-64-2, b=512": (networks.mlp(30, (64, 64), 2), 30, 512),
    "CNN 28x28 GroupNorm, b=128": (networks.cnn(1, 28, 28, 2), 784, 128),
    "GRU 24 x 16, 32 hidden, b=128": (networks.recurrent("GRU", *_STEPS, 32, 2), 388, 128),
    "LSTM 24 x 16, 32 hidden, b=128": (networks.recurrent("LSTM", *_STEPS, 32, 2), 388, 128),
    "attention 24 x 32, 4 heads, b=128": (networks.attention(*_STEPS, 32, 4, 2), 388, 128),
    "transformer block 24 x 32, 4 heads, b=128": (_TRANSFORMER, 388, 128),
    "the same frozen, adapters of rank 4, b=128": (_ADAPTED, 388, 128),
}


def rows(device: str = "cpu") -> Iterator[BenchRow]:
    """Yield a row or two for each model. A CPU uses one thread: ratios do not depend on cores."""
    keep_freed_memory()  # as the agent's child does; both sides benefit
    warnings.filterwarnings("ignore", message="Full backward hook")  # Opacus emits it at every step
    threads = torch.get_num_threads()
    if device == "cpu":
        torch.set_num_threads(1)
    for name, (layers, width, count) in MODELS.items():
        patients, module = _patients(width, count), _built(layers)
        private, way = _private(module, patients, device)
        plain = _plain(copy.deepcopy(module), patients, device)
        yield compared("step", f"{name}, {device}", private, plain, how=f"plain step; {way}")
        if not any(layer.kind == "SelfAttention" for layer in layers):
            # Steps come first inside an attention (flo.study.sequences); hooks expect records.
            hooks = _hooks(copy.deepcopy(module), patients, device)
            yield compared("step", f"{name}, {device}", private, hooks, how="Opacus hooks")
    torch.set_num_threads(threads)


def private_step_of(name: str) -> Callable[[], object]:
    """Return a private step of a model of ``MODELS``, with its noise, on this machine's CPU."""
    keep_freed_memory()
    layers, width, count = MODELS[name]
    private, _ = _private(_built(layers), _patients(width, count), "cpu")
    return private


def _built(layers: list[Layer]) -> nn.Sequential:
    """Return the network; numbers of frozen layers are made up."""
    dice, shapes = np.random.default_rng(2), networks.frozen_shapes(layers)
    return networks.build(
        layers, {name: (dice.normal(size=of) / 8).astype(np.float32) for name, of in shapes.items()}
    )


def _patients(width: int, count: int) -> Patients:
    generator = np.random.default_rng(1)
    return Patients(
        generator.normal(size=(count, width)),
        generator.integers(0, 2, count).astype(np.float64),
        np.arange(count),
        count,
    )


def _private(
    module: nn.Module, patients: Patients, device: str
) -> tuple[Callable[[], object], str]:
    step = PrivateStep(
        copy.deepcopy(module),
        categorical_loss,
        _CLIP,
        examples=patients.inputs,
        batch=patients.count,
        device=device,
    )
    batches, noise = step.batches(patients), SystemNoise()
    weights = torch.nn.utils.parameters_to_vector(module.parameters()).detach().double().numpy()
    mechanism = FullBatchSum(len(weights), _SIGMA, _CLIP)

    def run() -> object:
        return mechanism.release(step.clipped_sum(weights, batches), noise)

    return run, f"ours: {step.way.name}"


def _plain(module: nn.Module, patients: Patients, device: str) -> Callable[[], object]:
    module.to(device).requires_grad_(True)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    inputs = torch.from_numpy(patients.inputs).float().to(device)
    labels = torch.from_numpy(patients.labels).long().to(device)

    def run() -> None:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(module(inputs), labels)
        torch.autograd.backward(loss)
        optimizer.step()
        _wait(device)

    return run


def _hooks(module: nn.Module, patients: Patients, device: str) -> Callable[[], object]:
    from opacus import GradSampleModule

    hooked = GradSampleModule(module.to(device).requires_grad_(True), loss_reduction="sum")
    inputs = torch.from_numpy(patients.inputs).float().to(device)
    labels = torch.from_numpy(patients.labels).long().to(device)

    def run() -> None:
        hooked.zero_grad(set_to_none=True)
        loss = torch.nn.functional.cross_entropy(hooked(inputs), labels, reduction="sum")
        torch.autograd.backward(loss)
        parameters = [p for p in hooked.parameters() if p.requires_grad]
        norms = torch.stack([p.grad_sample.flatten(1).norm(dim=1) for p in parameters], dim=1).norm(
            dim=1
        )
        factors = (_CLIP / (norms + 1e-6)).clamp(max=1.0)
        with torch.no_grad():
            for p in parameters:
                summed = torch.einsum("i,i...", factors, p.grad_sample)
                p -= 0.1 * (summed + _SIGMA * _CLIP * torch.randn_like(p)) / patients.count
        _wait(device)

    return run


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()
