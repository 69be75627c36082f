"""The layers that networks are made of: their parameters, and what a record becomes after each.

Every layer treats one record at a time: there is no batch normalisation, no dropout and no state.
Parameters and shapes are known without torch. Most layers take the output of the layer before; a
layer may name the outputs that it takes instead, so that paths part and join.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

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
    "ReLU",
    "GELU",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "AvgPool2d",
    "MaxPool2d",
    "AdaptiveAvgPool2d",
    "Mean",
    "Unflatten",
    "Flatten",
    "Permute",
    "Slice",
    "Concat",
    "Add",
    "Multiply",
    "Product",
    "Scale",
    "Shift",
    "Offset",
    "Gain",
]
START_AS_ONE: tuple[LayerKind, ...] = ("GroupNorm", "LayerNorm", "RMSNorm", "Gain")
BOUNDED: tuple[LayerKind, ...] = ("Tanh", "ReLU", "Sigmoid", "Softmax")  # no network ends in one
FREEZABLE: tuple[LayerKind, ...] = (
    *("Linear", "Conv1d", "Conv2d", "Conv3d", "GroupNorm", "LayerNorm", "RMSNorm"),
    *("Offset", "Gain"),
)
_GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}  # rows of weights for each hidden number
MOST_PARAMETERS = 4_000_000  # of a model pack that are trained
MOST_FROZEN = 32_000_000  # that are not
MOST_NUMBERS = 1_000_000  # per record after any layer
MOST_TOGETHER = 4_000_000  # per record after all layers: a step keeps them for its gradient


@dataclass(frozen=True)
class Layer:
    """One layer: its torch name and its sizes.

    ``of``: places of the layers whose outputs it takes, -1 for the record itself; empty for the
    layer before. ``by``: what Scale multiplies by and Shift adds. ``frozen``: whether its numbers
    are given and not trained. ``zero``: whether it starts at 0.
    """

    kind: LayerKind
    sizes: Shape = ()
    of: tuple[int, ...] = ()
    by: float = 0.0
    frozen: bool = False
    zero: bool = False

    @property
    def parameters(self) -> dict[str, Shape]:
        """Shapes of what is trained of the layer, in torch's order."""
        return {} if self.frozen else self.shapes

    @property
    def shapes(self) -> dict[str, Shape]:
        """Shapes of the layer's numbers, trained or frozen, in torch's order."""
        match self.kind, self.sizes:
            case "Linear", (inputs, outputs):
                return {"weight": (outputs, inputs), "bias": (outputs,)}
            case (("Conv1d" | "Conv2d" | "Conv3d"), (inputs, outputs, kernel, *_)):
                sides = (kernel,) * int(self.kind[4])
                return {"weight": (outputs, inputs, *sides), "bias": (outputs,)}
            case "GroupNorm", (_, channels):
                return {"weight": (channels,), "bias": (channels,)}
            case "LayerNorm", (width,):
                return {"weight": (width,), "bias": (width,)}
            case "RMSNorm", (width,):
                return {"weight": (width,)}
            case "Offset", shape:
                return {"bias": shape}
            case "Gain", shape:
                return {"weight": shape}
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
        return math.prod(self.shapes.get("weight", (1,))[1:])

    def after(self, *records: Shape) -> Shape | None:
        """Return the shape of one record after this layer; None if it does not fit what it takes.

        ``records``: shapes of the outputs that it takes.
        """
        if self.kind in _OF_SEVERAL:
            return self._joined(records)
        if len(records) != 1:
            return None
        (record,) = records
        match self.kind, self.sizes, record:
            case "Linear", (inputs, outputs), (*rows, width) if width == inputs:
                return (*rows, outputs)
            case "GroupNorm", (groups, channels), (first, height, width) if (
                channels == first
                and channels % groups == 0
                and channels // groups * height * width > 1
            ):
                return record
            case (
                ("Conv1d" | "Conv2d" | "Conv3d"),
                (inputs, outputs, kernel, *step),
                (channels, *sides),
            ) if (
                channels == inputs
                and len(sides) == int(self.kind[4])
                and len(step) <= 1
                and kernel % 2 == 1
                and kernel < 2 * max(sides)
            ):
                (stride,) = step or (1,)
                return (outputs, *((side - 1) // stride + 1 for side in sides))
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
            case (
                ("Tanh" | "ReLU" | "GELU" | "SiLU" | "Sigmoid" | "Softmax" | "Scale" | "Shift"),
                (),
                _,
            ):
                return record
            case (("Offset" | "Gain"), shape, _) if _spread(shape, record) == record:
                return record
            case "AvgPool2d", (kernel,), (channels, height, width) if kernel <= min(height, width):
                return (channels, height // kernel, width // kernel)
            case "MaxPool2d", (kernel, stride), (channels, height, width) if (
                kernel % 2 == 1 and kernel < 2 * max(height, width)
            ):
                return (channels, (height - 1) // stride + 1, (width - 1) // stride + 1)
            case "MaxPool2d", (kernel, stride), (channels, height, width) if (
                kernel == stride <= min(height, width)
            ):
                return (channels, height // kernel, width // kernel)
            case "AdaptiveAvgPool2d", (side,), (channels, height, width) if side <= min(
                height, width
            ):
                return (channels, side, side)
            case "Mean", (place,), _ if 1 <= place <= len(record) > 1:
                return (*record[: place - 1], *record[place:])
            case "Unflatten", (_, _, *_), (width,) if math.prod(self.sizes) == width:
                return self.sizes
            case "Flatten", (), _:
                return (math.prod(record),)
            case "Permute", order, _ if sorted(order) == list(range(1, len(record) + 1)):
                return tuple(record[place - 1] for place in order)
            case "Slice", (place, first, last), _ if (
                1 <= place <= len(record) and first <= last <= record[place - 1]
            ):
                return (*record[: place - 1], last - first + 1, *record[place:])
        return None

    def _joined(self, records: tuple[Shape, ...]) -> Shape | None:
        match self.kind, self.sizes, records:
            case (("Add" | "Multiply"), (), (one, other)):
                return _spread(one, other)
            case "Concat", (place,), (first, _, *_) if 1 <= place <= len(first) and all(
                len(one) == len(first)
                and (*one[: place - 1], *one[place:]) == (*first[: place - 1], *first[place:])
                for one in records
            ):
                whole = sum(one[place - 1] for one in records)
                return (*first[: place - 1], whole, *first[place:])
            case "Product", (), ((*rows, _, left), (*columns, right, _)) if (
                rows == columns and left == right
            ):
                return (*records[0][:-1], records[1][-1])
        return None


_OF_SEVERAL: tuple[LayerKind, ...] = ("Add", "Multiply", "Concat", "Product")


def _spread(one: Shape, other: Shape) -> Shape | None:
    """Return the shape of two records' sum, where a side of 1 is repeated; None if they differ."""
    if len(one) != len(other) or any(
        a != b and 1 not in (a, b) for a, b in zip(one, other, strict=True)
    ):
        return None
    return tuple(map(max, one, other))


WANTED: dict[LayerKind, str] = {
    "Linear": "sizes: inputs, outputs; it takes a flat record of that many inputs, or steps of it",
    "Conv1d": "sizes: channels in, channels out, kernel, and stride if not 1; it takes "
    "(channels in, length), and its kernel is odd and less than twice the length",
    "Conv2d": "sizes: channels in, channels out, kernel, and stride if not 1; it takes "
    "(channels in, height, width), and its kernel is odd and less than twice the image",
    "GroupNorm": "sizes: groups, channels; it takes (channels, height, width), groups divide the "
    "channels, and a group holds more than one number of a record",
    "Conv3d": "sizes: channels in, channels out, kernel, and stride if not 1; it takes "
    "(channels in, depth, height, width), and its kernel is odd and less than twice the volume",
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
    "ReLU": "no sizes",
    "GELU": "no sizes",
    "SiLU": "no sizes",
    "Sigmoid": "no sizes",
    "Softmax": "no sizes; of the last side",
    "Scale": "no sizes",
    "Shift": "no sizes",
    "Offset": "sizes: as many as the record has sides, each the record's or 1",
    "Gain": "sizes: as many as the record has sides, each the record's or 1",
    "MaxPool2d": "sizes: kernel, stride; it takes (channels, height, width), and its kernel is odd "
    "and less than twice the image, or it is the stride and at most the image's sides",
    "Mean": "sizes: the side, 1 for the first; it takes two sides or more",
    "Permute": "sizes: the record's sides in their new order, 1 for the first",
    "Slice": "sizes: the side, 1 for the first, and the first and last place along it",
    "Concat": "sizes: the side, 1 for the first; it takes several outputs of the same other sides",
    "Add": "no sizes; it takes two outputs of the same shape, or with sides of 1",
    "Multiply": "no sizes; it takes two outputs of the same shape, or with sides of 1",
    "Product": "no sizes; it takes (…, a, b) and (…, b, c)",
    "AvgPool2d": "sizes: kernel, at most the image's sides; it takes (channels, height, width)",
    "AdaptiveAvgPool2d": "sizes: the side it makes, at most the image's; it takes (channels, "
    "height, width)",
    "Unflatten": "sizes: steps and width, or channels and sides; it takes a flat record of as many "
    "numbers",
    "Flatten": "no sizes",
}
