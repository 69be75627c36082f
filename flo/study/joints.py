"""Torch modules of networks whose paths part and join, and of layers that torch has as functions.

Inputs and outputs are (n, …), records first. A *side* is one of a record, 1 for the first, so that
no layer here can reach the dimension that counts records.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from flo.arrays import Float32s


class Joined(nn.Sequential):
    """Layers of which each takes the outputs of named earlier ones.

    ``of``: for each layer the places of those, -1 for the network's own input.
    """

    def __init__(self, layers: Sequence[nn.Module], of: Sequence[tuple[int, ...]]) -> None:
        super().__init__(*layers)
        self.of = list(of)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (n, …) to the last layer's output."""
        outputs = [x]  # place p is at p + 1
        for layer, taken in zip(self, self.of, strict=True):
            outputs.append(layer(*(outputs[place + 1] for place in taken)))
        return outputs[-1]


class Frozen(nn.Module):
    """A layer whose numbers are given and not trained.

    ``layer``: a layer of a network, of which the numbers are replaced by ``numbers``, by name.
    """

    def __init__(self, layer: nn.Module, numbers: Mapping[str, Float32s]) -> None:
        super().__init__()
        for name, given in list(layer.named_parameters()):
            delattr(layer, name)
            layer.register_buffer(name, torch.tensor(numbers[name], dtype=given.dtype))
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (n, …) as the layer does."""
        out: torch.Tensor = self.layer(x)
        return out


def _refuse_mixing(*outputs: torch.Tensor, sides: int = 1) -> None:
    """Raise ValueError unless all are (n, …) of as many records and sides, ``sides`` or more.

    Otherwise torch would repeat, or sum over, the dimension that counts records.
    """
    first = outputs[0]
    if first.dim() <= sides or any(
        one.dim() != first.dim() or one.shape[0] != first.shape[0] for one in outputs
    ):
        shown = ", ".join(str(tuple(one.shape)) for one in outputs)
        raise ValueError(f"a layer that would reach across records: it takes {shown}")


class Softmax(nn.Module):
    """Softmax over the last side."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (n, …) to numbers that sum to 1 along the last side."""
        _refuse_mixing(x)
        return x.softmax(-1)


class Add(nn.Module):
    """The sum of two outputs."""

    def forward(self, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        """Add (n, …) and (n, …); a side of 1 is repeated."""
        _refuse_mixing(one, other)
        return one + other


class Multiply(nn.Module):
    """The product of two outputs, number by number."""

    def forward(self, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        """Multiply (n, …) and (n, …); a side of 1 is repeated."""
        _refuse_mixing(one, other)
        return one * other


class Product(nn.Module):
    """The matrix product of two outputs."""

    def forward(self, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        """Multiply (n, …, a, b) and (n, …, b, c)."""
        _refuse_mixing(one, other, sides=2)
        return one @ other


class Concat(nn.Module):
    """Several outputs, one behind the other along a side."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, *outputs: torch.Tensor) -> torch.Tensor:
        """Join outputs (n, …)."""
        _refuse_mixing(*outputs)
        return torch.cat(outputs, self.side)


class Mean(nn.Module):
    """The mean over a side, which is gone."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (n, …) to one side fewer."""
        return x.mean(self.side)


class Permute(nn.Module):
    """The sides in another order."""

    def __init__(self, *order: int) -> None:
        super().__init__()
        self.order = order

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Reorder the sides of (n, …)."""
        return x.permute(0, *self.order)


class Slice(nn.Module):
    """Some places along a side: from the first to the last, both included, 1 for the first."""

    def __init__(self, side: int, first: int, last: int) -> None:
        super().__init__()
        self.side, self.first, self.last = side, first, last

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Cut (n, …)."""
        return x.narrow(self.side, self.first - 1, self.last - self.first + 1)


class Scale(nn.Module):
    """A public factor."""

    def __init__(self, by: float) -> None:
        super().__init__()
        self.by = by

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply (n, …)."""
        return x * self.by


class Shift(nn.Module):
    """A public summand."""

    def __init__(self, by: float) -> None:
        super().__init__()
        self.by = by

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Add to (n, …)."""
        return x + self.by


class Offset(nn.Module):
    """A learnt summand for each place, such as of a token's place; a side of 1 is repeated."""

    def __init__(self, *sizes: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(sizes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Add to (n, …)."""
        return x + self.bias


class Gain(nn.Module):
    """A learnt factor for each place; a side of 1 is repeated."""

    def __init__(self, *sizes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(sizes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply (n, …)."""
        return x * self.weight
