"""Each layer alone, on numbers that nobody chose: what a network could hide from its own test.

Kernels that treat the last rows of a block differently give a record other bits at another place.
Tested as a whole, a network can hide that: where a layer behind adds -100 and cuts off at 0, no
made-up record shows the bits, and a patient far from them does, enlarged by the layers that follow.
So every layer, and the loss, also gets inputs and slopes of its own, and other numbers in the place
of its parameters and frozen numbers. Inputs lie in memory as they do in the network.

The numbers are parts of multiples of √2, so that every process gets the same.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import nn

from flo.privacy.gradients.batches import Frame
from flo.privacy.gradients.bookkeeping import BookKeeping, Calls


class Isolated:
    """The layers of a network that book-keeping has rules for, each alone."""

    def __init__(self, way: BookKeeping) -> None:
        self._way = way
        self._layers = [_with_other_numbers(layer) for layer in way.layers]

    def observables(self, frame: Frame) -> list[torch.Tensor]:
        """Return all values computed for a patient, (P, …) each; they must not depend on others."""
        rows: list[torch.Tensor] = []
        outputs = [frame.inputs.clone()]  # place p is at p + 1
        for number, (layer, of) in enumerate(zip(self._layers, self._way.of, strict=True)):
            y, seen = self._alone(layer, [outputs[place + 1] for place in of], frame, number)
            rows += seen
            outputs.append(y)
        last = _filled(outputs[-1], frame, len(self._layers)).requires_grad_()
        losses = self._way.loss(last, frame.labels)
        rows += [losses.detach(), *torch.autograd.grad(losses @ frame.weights, [last])]
        return [frame.by_patient(t) for t in rows]

    def _alone(
        self, layer: nn.Module, taken: list[torch.Tensor], frame: Frame, number: int
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Return a layer's output, and all that is computed for it, forwards and backwards."""
        if type(layer) is not nn.Embedding:  # which takes codes
            taken = [_filled(x, frame, number).requires_grad_() for x in taken]
        calls = Calls()
        y = self._way.through(layer, *taken, keep=calls.of(layer))
        slopes = _filled(torch.empty_like(y), frame, number + 1)
        asked = [x for x in taken if x.requires_grad]
        found = torch.autograd.grad((y * slopes).sum(), [*asked, *calls.outputs])
        kept = calls.with_slopes(found[len(asked) :])
        y = y.detach()
        return y, [y.clone(), *found[: len(asked)], *self._way.seen(frame, kept)]


def _filled(x: torch.Tensor, frame: Frame, salt: int) -> torch.Tensor:
    """Write a record's own inputs into its part of x (n, …), mixed and multiplied, and return x.

    Multiplying is exact, so that what is written does not depend on a record's place.
    """
    records = frame.inputs.reshape(len(frame.inputs), -1)
    each, width = math.prod(x.shape[1:]), records.shape[1]
    place = torch.arange(1, each + 1, device=x.device) + 7919 * salt
    values = records[:, place % width] * _parts(place, x)
    x = x.detach()
    if any(side > 1 and step == 0 for side, step in zip(x.shape, x.stride(), strict=True)):
        x = x.clone()  # several of its numbers share a place in memory
    return x.copy_(values.reshape(x.shape))


def _parts(place: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Return numbers spread over -1 to 1, in the type of ``like``."""
    return ((place.double() * math.sqrt(2)).frac() * 2 - 1).to(like.dtype)


def _with_other_numbers(layer: nn.Module) -> nn.Module:
    """Return a copy whose numbers, trained or frozen, are others of a usual size."""
    other = copy.deepcopy(layer)
    for number, values in enumerate((*other.parameters(), *other.buffers())):
        place = torch.arange(1, values.numel() + 1, device=values.device) + number
        usual = math.sqrt(max(1, values[:1].numel()))
        values.data.copy_((_parts(place, values) / usual).reshape(values.shape))
    return other
