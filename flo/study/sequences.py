"""Torch layers over the steps of a record: recurrent layers and self-attention, made by Opacus.

Inputs and outputs are (n, steps, numbers), records first. Opacus writes these layers with plain
linear layers inside, of which each record's gradient is known; torch's own are closed kernels. The
parameters mean what torch's do (``nn.GRU``, ``nn.LSTM``, ``nn.MultiheadAttention``). Opacus is
imported only when a layer is made, since that takes seconds.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

Cell = Literal["RNN", "GRU", "LSTM"]


class Recurrent(nn.Module):
    """One recurrent layer from the first step to the last: the hidden state after each step."""

    def __init__(self, cell: Cell, inputs: int, hidden: int) -> None:
        from opacus import layers

        super().__init__()
        made = {"RNN": layers.DPRNN, "GRU": layers.DPGRU, "LSTM": layers.DPLSTM}[cell]
        self.core = made(inputs, hidden, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (n, steps, inputs) to (n, steps, hidden)."""
        states: torch.Tensor = self.core(x)[0]
        return states


class SelfAttention(nn.Module):
    """x plus what each step sees at all steps: multi-head attention with a residual path.

    Opacus 1.6 mixes up heads and steps if records come first (its pull request 825), so that steps
    come first inside.
    """

    def __init__(self, width: int, heads: int) -> None:
        from opacus.layers import DPMultiheadAttention

        super().__init__()
        self.core = DPMultiheadAttention(width, heads, batch_first=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (n, steps, width) to the same shape."""
        steps = x.transpose(0, 1)
        seen: torch.Tensor = self.core(steps, steps, steps, need_weights=False)[0]
        return x + seen.transpose(0, 1)


class Steps(nn.Module):
    """The steps of a flat record: each with the record's own inputs before, and its place behind.

    The place rises from -1 at the first step to 1 at the last.
    """

    def __init__(self, same: int, steps: int, each: int) -> None:
        super().__init__()
        self.same, self.steps, self.each = same, steps, each

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (n, same + steps * each) to (n, steps, same + each + 1)."""
        count = x.shape[:-1]
        own = x[..., : self.same].unsqueeze(-2).expand(*count, self.steps, self.same)
        steps = x[..., self.same :].reshape(*count, self.steps, self.each)
        place = torch.linspace(-1, 1, self.steps, dtype=x.dtype, device=x.device)
        return torch.cat([own, steps, place.reshape(-1, 1).expand(*count, self.steps, 1)], -1)


class LastStep(nn.Module):
    """The numbers of the last step."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (n, steps, width) to (n, width)."""
        return x[:, -1]


class MeanOfSteps(nn.Module):
    """The mean over all steps."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (n, steps, width) to (n, width)."""
        return x.mean(1)
