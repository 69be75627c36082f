"""The networks that studies can name, as lists of layers: torch modules and parameter shapes.

A network is a plain list, so that its parameters can be counted without torch and its module is
built from the same lines. ``flo.study.layers`` has the layers. This module does not depend on
studies.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from flo.arrays import Float32s
from flo.study.layers import (
    BOUNDED,
    MOST_FROZEN,
    MOST_NUMBERS,
    MOST_PARAMETERS,
    MOST_TOGETHER,
    WANTED,
    Layer,
    LayerKind,
    Shape,
)

if TYPE_CHECKING:
    import torch


def logistic(inputs: int, outputs: int = 1) -> list[Layer]:
    """Return the layers of log odds that are linear in the inputs."""
    return [Layer("Linear", (inputs, outputs))]


def mlp(inputs: int, hidden: Shape, outputs: int = 1) -> list[Layer]:
    """Return dense layers with tanh, whose bounded slope suits clipping (Papernot 2021)."""
    layers = []
    for before, width in zip((inputs, *hidden), hidden, strict=False):
        layers += [Layer("Linear", (before, width)), Layer("Tanh")]
    return [*layers, Layer("Linear", (hidden[-1], outputs))]


def cnn(channels: int, height: int, width: int, outputs: int = 1) -> list[Layer]:
    """Return two convolutions with group normalisation, for small images (at least 8 × 8)."""
    return [
        Layer("Unflatten", (channels, height, width)),
        Layer("Conv2d", (channels, 16, 3)),
        Layer("GroupNorm", (4, 16)),
        Layer("Tanh"),
        Layer("AvgPool2d", (2,)),
        Layer("Conv2d", (16, 32, 3)),
        Layer("GroupNorm", (8, 32)),
        Layer("Tanh"),
        Layer("AdaptiveAvgPool2d", (4,)),
        Layer("Flatten"),
        Layer("Linear", (32 * 16, outputs)),
    ]


def recurrent(
    cell: LayerKind, same: int, steps: int, each: int, hidden: int, outputs: int
) -> list[Layer]:
    """Return an embedding of each step, a recurrent layer, and the score of its last state.

    ``same``, ``steps``, ``each``: the sizes of the layer Steps.
    """
    return [
        *_embedded(same, steps, each, hidden),
        Layer(cell, (hidden, hidden)),
        Layer("LastStep"),
        Layer("Linear", (hidden, outputs)),
    ]


def attention(
    same: int, steps: int, each: int, width: int, heads: int, outputs: int
) -> list[Layer]:
    """Return an embedding of each step, attention between them, and the score of their mean."""
    return [
        *_embedded(same, steps, each, width),
        Layer("SelfAttention", (width, heads)),
        Layer("MeanOfSteps"),
        Layer("Linear", (width, outputs)),
    ]


def _embedded(same: int, steps: int, each: int, width: int) -> list[Layer]:
    return [
        Layer("Steps", (same, steps, each)),
        Layer("Linear", (same + each + 1, width)),
        Layer("Tanh"),
    ]


def output(layers: list[Layer], inputs: int) -> Shape:
    """Return the shape of a record of ``inputs`` numbers after all layers.

    Raises:
        ValueError: a layer does not accept what it takes, takes what comes later, or is taken by
            none; the network is larger than ``MOST_PARAMETERS``, ``MOST_FROZEN`` or
            ``MOST_NUMBERS``, has no parameters, or ends in a layer that limits the log odds.
    """
    outputs: list[Shape] = []
    for place, layer in enumerate(layers):
        taken = layer.of or (place - 1,)
        if not all(-1 <= one < place for one in taken):
            raise ValueError(f"layer {place}: {layer.kind} takes the output of a later layer")
        records = [outputs[one] if one >= 0 else (inputs,) for one in taken]
        after = layer.after(*records)
        if after is None:
            shown = " and ".join(map(str, records))
            raise ValueError(
                f"layer {place}: {layer.kind} of sizes {layer.sizes} does not take a record of "
                f"shape {shown} ({WANTED[layer.kind]})"
            )
        if math.prod(after) > MOST_NUMBERS:
            raise ValueError(
                f"layer {place}: a record becomes {math.prod(after)} numbers, limit {MOST_NUMBERS}"
            )
        outputs.append(after)
    together = sum(math.prod(shape) for shape in outputs)
    if together > MOST_TOGETHER:
        raise ValueError(
            f"a record becomes {together} numbers in all layers together, limit {MOST_TOGETHER}"
        )
    taken_by_some = {one for place, layer in enumerate(layers) for one in layer.of or (place - 1,)}
    for place, layer in enumerate(layers[:-1]):
        if place not in taken_by_some:
            raise ValueError(f"layer {place}: no layer takes the output of this {layer.kind}")
    if layers[-1].kind in BOUNDED:
        raise ValueError(f"the last layer is a {layers[-1].kind}, which would limit the log odds")
    if size(layers) == 0:
        raise ValueError("no layer has parameters to train")
    if size(layers) > MOST_PARAMETERS:
        raise ValueError(f"{size(layers)} parameters, limit {MOST_PARAMETERS}")
    frozen = sum(math.prod(shape) for shape in frozen_shapes(layers).values())
    if frozen > MOST_FROZEN:
        raise ValueError(f"{frozen} frozen numbers, limit {MOST_FROZEN}")
    return outputs[-1]


def shapes(layers: list[Layer]) -> dict[str, Shape]:
    """Return parameter name -> shape, in the order of the flat vector."""
    return {
        f"{place}.{name}": shape
        for place, layer in enumerate(layers)
        for name, shape in layer.parameters.items()
    }


def frozen_shapes(layers: list[Layer]) -> dict[str, Shape]:
    """Return the same of the numbers that are not trained."""
    return {
        f"{place}.{name}": shape
        for place, layer in enumerate(layers)
        if layer.frozen
        for name, shape in layer.shapes.items()
    }


def size(layers: list[Layer]) -> int:
    """Return the number of parameters p."""
    return sum(math.prod(shape) for shape in shapes(layers).values())


def build(
    layers: list[Layer], numbers: Mapping[str, Float32s] | None = None
) -> torch.nn.Sequential:
    """Build the module, float32. A convolution preserves height and width.

    ``numbers``: of frozen layers, named as in ``frozen_shapes``.
    """
    from torch import nn

    from flo.study import joints, sequences

    make: dict[str, Callable[..., nn.Module]] = {
        "Linear": lambda i, o: nn.Linear(i, o),
        "Conv1d": lambda i, o, k, s=1: nn.Conv1d(i, o, k, stride=s, padding=k // 2),
        "Conv2d": lambda i, o, k, s=1: nn.Conv2d(i, o, k, stride=s, padding=k // 2),
        "Conv3d": lambda i, o, k, s=1: nn.Conv3d(i, o, k, stride=s, padding=k // 2),
        "LayerNorm": nn.LayerNorm,
        "RMSNorm": lambda width: nn.RMSNorm(width, eps=1e-5),
        "RNN": lambda i, h: sequences.Recurrent("RNN", i, h),
        "GRU": lambda i, h: sequences.Recurrent("GRU", i, h),
        "LSTM": lambda i, h: sequences.Recurrent("LSTM", i, h),
        "SelfAttention": sequences.SelfAttention,
        "Steps": sequences.Steps,
        "LastStep": sequences.LastStep,
        "MeanOfSteps": sequences.MeanOfSteps,
        "GroupNorm": lambda groups, channels: nn.GroupNorm(groups, channels),
        "Tanh": lambda: nn.Tanh(),
        "ReLU": lambda: nn.ReLU(),
        "GELU": lambda: nn.GELU(),
        "SiLU": lambda: nn.SiLU(),
        "Sigmoid": lambda: nn.Sigmoid(),
        "Softmax": joints.Softmax,
        "AvgPool2d": lambda k: nn.AvgPool2d(k),
        "MaxPool2d": lambda k, s: nn.MaxPool2d(k, stride=s, padding=k // 2 if k % 2 else 0),
        "AdaptiveAvgPool2d": lambda k: nn.AdaptiveAvgPool2d(k),
        "Unflatten": lambda *sizes: nn.Unflatten(1, sizes),
        "Flatten": lambda: nn.Flatten(1),
        "Mean": joints.Mean,
        "Permute": joints.Permute,
        "Slice": joints.Slice,
        "Concat": joints.Concat,
        "Add": joints.Add,
        "Multiply": joints.Multiply,
        "Product": joints.Product,
        "Offset": joints.Offset,
        "Gain": joints.Gain,
    }
    given: dict[str, Callable[[float], nn.Module]] = {"Scale": joints.Scale, "Shift": joints.Shift}
    modules = [
        given[layer.kind](layer.by) if layer.kind in given else make[layer.kind](*layer.sizes)
        for layer in layers
    ]
    for place, layer in enumerate(layers):
        if layer.frozen:
            own = {name: (numbers or {})[f"{place}.{name}"] for name in layer.shapes}
            modules[place] = joints.Frozen(modules[place], own)
    if not any(layer.of for layer in layers):
        return nn.Sequential(*modules)
    return joints.Joined(modules, [layer.of or (n - 1,) for n, layer in enumerate(layers)])


def without_last(module: torch.nn.Sequential) -> torch.nn.Sequential:
    """Return a built network up to its last layer, which takes the output of the one before."""
    from torch import nn

    from flo.study.joints import Joined

    if isinstance(module, Joined):
        return Joined(list(module)[:-1], module.of[:-1])
    return nn.Sequential(*list(module)[:-1])
