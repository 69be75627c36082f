"""The networks that studies can name, as lists of layers: torch modules and parameter shapes.

A network is a plain list, so that its parameters can be counted without torch and its module is
built from the same lines. Every layer here treats one record at a time. There is no batch
normalisation, no dropout and no state, so a network has only parameters. This module does not
depend on studies.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

Shape = tuple[int, ...]
LayerKind = Literal[
    "Linear",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "GroupNorm",
    "LayerNorm",
    "RMSNorm",
    "RNN",
    "GRU",
    "LSTM",
    "SelfAttention",
    "Steps",
    "LastStep",
    "MeanOfSteps",
    "Tanh",
    "AvgPool2d",
    "AdaptiveAvgPool2d",
    "Unflatten",
    "Flatten",
]
NORMS: tuple[LayerKind, ...] = ("GroupNorm", "LayerNorm", "RMSNorm")  # start as the identity
_GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}  # rows of weights for each hidden number
MOST_PARAMETERS = 4_000_000  # limit for a model pack
MOST_NUMBERS = 1_000_000  # per record after any layer


@dataclass(frozen=True)
class Layer:
    """One layer: its torch name and its sizes."""

    kind: LayerKind
    sizes: Shape = ()

    @property
    def parameters(self) -> dict[str, Shape]:
        """Shapes of the layer's parameters, in torch's order."""
        match self.kind, self.sizes:
            case "Linear", (inputs, outputs):
                return {"weight": (outputs, inputs), "bias": (outputs,)}
            case (("Conv1d" | "Conv2d" | "Conv3d"), (inputs, outputs, kernel)):
                sides = (kernel,) * int(self.kind[4])
                return {"weight": (outputs, inputs, *sides), "bias": (outputs,)}
            case "GroupNorm", (_, channels):
                return {"weight": (channels,), "bias": (channels,)}
            case "LayerNorm", (width,):
                return {"weight": (width,), "bias": (width,)}
            case "RMSNorm", (width,):
                return {"weight": (width,)}
            case (("RNN" | "GRU" | "LSTM"), (inputs, hidden)):
                rows = _GATES[self.kind] * hidden
                return {
                    **{"weight_ih_l0": (rows, inputs), "bias_ih_l0": (rows,)},
                    **{"weight_hh_l0": (rows, hidden), "bias_hh_l0": (rows,)},
                }
            case "SelfAttention", (width, _):
                return {
                    f"{part}_{name}": shape
                    for part in ("query", "key", "value", "out")
                    for name, shape in (("weight", (width, width)), ("bias", (width,)))
                }
        return {}

    @property
    def fan_in(self) -> int:
        """How many numbers a number of the layer's output is a sum of; in a cell, hidden ones."""
        if self.kind in _GATES:
            return self.sizes[1]
        if self.kind == "SelfAttention":
            return self.sizes[0]
        return math.prod(self.parameters.get("weight", (1,))[1:])

    def after(self, record: Shape) -> Shape | None:
        """Return the shape of one record after this layer; None if it does not fit ``record``."""
        match self.kind, self.sizes, record:
            case "Linear", (inputs, outputs), (*rows, width) if width == inputs:
                return (*rows, outputs)
            case "Conv2d", (inputs, outputs, kernel), (channels, height, width) if (
                channels == inputs and kernel % 2 == 1 and kernel < 2 * max(height, width)
            ):
                return (outputs, height, width)
            case "GroupNorm", (groups, channels), (first, height, width) if (
                channels == first
                and channels % groups == 0
                and channels // groups * height * width > 1
            ):
                return record
            case (("Conv1d" | "Conv3d"), (inputs, outputs, kernel), (channels, *sides)) if (
                channels == inputs
                and len(sides) == int(self.kind[4])
                and kernel % 2 == 1
                and kernel < 2 * max(sides)
            ):
                return (outputs, *sides)
            case (("LayerNorm" | "RMSNorm"), (inputs,), (*_, width)) if 1 < width == inputs:
                return record
            case (("RNN" | "GRU" | "LSTM"), (inputs, hidden), (steps, width)) if width == inputs:
                return (steps, hidden)
            case "SelfAttention", (inputs, heads), (steps, width) if (
                width == inputs and inputs % heads == 0 and heads * steps**2 <= MOST_NUMBERS
            ):
                return record
            case "Steps", (same, steps, each), (width,) if width == same + steps * each:
                return (steps, same + each + 1)
            case (("LastStep" | "MeanOfSteps"), (), (_, width)):
                return (width,)
            case "Tanh", (), _:
                return record
            case "AvgPool2d", (kernel,), (channels, height, width) if kernel <= min(height, width):
                return (channels, height // kernel, width // kernel)
            case "AdaptiveAvgPool2d", (side,), (channels, height, width) if side <= min(
                height, width
            ):
                return (channels, side, side)
            case "Unflatten", (_, _, *_), (width,) if math.prod(self.sizes) == width:
                return self.sizes
            case "Flatten", (), _:
                return (math.prod(record),)
        return None


_WANTED: dict[LayerKind, str] = {
    "Linear": "sizes: inputs, outputs; it takes a flat record of that many inputs, or steps of it",
    "Conv1d": "sizes: channels in, channels out, kernel; it takes (channels in, length), and its "
    "kernel is odd and less than twice the length",
    "Conv2d": "sizes: channels in, channels out, kernel; it takes (channels in, height, width), "
    "and its kernel is odd and less than twice the image",
    "GroupNorm": "sizes: groups, channels; it takes (channels, height, width), groups divide the "
    "channels, and a group holds more than one number of a record",
    "Conv3d": "sizes: channels in, channels out, kernel; it takes (channels in, depth, height, "
    "width), and its kernel is odd and less than twice the volume",
    "LayerNorm": "sizes: width, 2 or more; it takes (…, width)",
    "RMSNorm": "sizes: width, 2 or more; it takes (…, width)",
    "RNN": "sizes: inputs, hidden; it takes (steps, inputs)",
    "GRU": "sizes: inputs, hidden; it takes (steps, inputs)",
    "LSTM": "sizes: inputs, hidden; it takes (steps, inputs)",
    "SelfAttention": "sizes: width, heads; it takes (steps, width), heads divide the width, and "
    f"heads × steps² are at most {MOST_NUMBERS:,}",
    "Steps": "sizes: inputs of the whole record, steps, inputs of each step; it takes a flat "
    "record of these, in this order",
    "LastStep": "no sizes; it takes (steps, width)",
    "MeanOfSteps": "no sizes; it takes (steps, width)",
    "Tanh": "no sizes",
    "AvgPool2d": "sizes: kernel, at most the image's sides; it takes (channels, height, width)",
    "AdaptiveAvgPool2d": "sizes: the side it makes, at most the image's; it takes (channels, "
    "height, width)",
    "Unflatten": "sizes: steps and width, or channels and sides; it takes a flat record of as many "
    "numbers",
    "Flatten": "no sizes",
}


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
        ValueError: a layer does not accept the output of the one before it; the network is larger
            than ``MOST_PARAMETERS`` or ``MOST_NUMBERS``, has no parameters, or ends in a Tanh.
    """
    record: Shape = (inputs,)
    for place, layer in enumerate(layers):
        after = layer.after(record)
        if after is None:
            raise ValueError(
                f"layer {place}: {layer.kind} of sizes {layer.sizes} does not take a record of "
                f"shape {record} ({_WANTED[layer.kind]})"
            )
        if math.prod(after) > MOST_NUMBERS:
            raise ValueError(
                f"layer {place}: a record becomes {math.prod(after)} numbers, limit {MOST_NUMBERS}"
            )
        record = after
    if layers[-1].kind == "Tanh":
        raise ValueError("the last layer is a Tanh, which would limit the log odds to -1 to 1")
    if size(layers) == 0:
        raise ValueError("no layer has parameters to train")
    if size(layers) > MOST_PARAMETERS:
        raise ValueError(f"{size(layers)} parameters, limit {MOST_PARAMETERS}")
    return record


def shapes(layers: list[Layer]) -> dict[str, Shape]:
    """Return parameter name -> shape, in the order of the flat vector."""
    return {
        f"{place}.{name}": shape
        for place, layer in enumerate(layers)
        for name, shape in layer.parameters.items()
    }


def size(layers: list[Layer]) -> int:
    """Return the number of parameters p."""
    return sum(math.prod(shape) for shape in shapes(layers).values())


def build(layers: list[Layer]) -> torch.nn.Sequential:
    """Build the module, float32. A convolution preserves height and width."""
    from torch import nn

    from flo.study import sequences

    make: dict[str, Callable[..., nn.Module]] = {
        "Linear": lambda i, o: nn.Linear(i, o),
        "Conv1d": lambda i, o, k: nn.Conv1d(i, o, k, padding=k // 2),
        "Conv2d": lambda i, o, k: nn.Conv2d(i, o, k, padding=k // 2),
        "Conv3d": lambda i, o, k: nn.Conv3d(i, o, k, padding=k // 2),
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
        "AvgPool2d": lambda k: nn.AvgPool2d(k),
        "AdaptiveAvgPool2d": lambda k: nn.AdaptiveAvgPool2d(k),
        "Unflatten": lambda *sizes: nn.Unflatten(1, sizes),
        "Flatten": lambda: nn.Flatten(1),
    }
    return nn.Sequential(*(make[layer.kind](*layer.sizes) for layer in layers))
