"""Networks as a researcher writes them in torch, and their export as ONNX."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import nn
from torch.nn import functional

Net = Callable[[], nn.Module]


class Gated(nn.Module):
    """A residual path through a gate, and the record itself beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 8), nn.Linear(8, 8)
        self.gate, self.last = nn.Linear(8, 8), nn.Linear(13, 1)

    def forward(self, x: torch.Tensor) -> Any:
        h = torch.tanh(self.first(x))
        h = h + self.second(h) * torch.sigmoid(self.gate(h))
        return self.last(torch.cat([h, x], 1))


class Residual(nn.Module):
    """A small residual network of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(1, 4, 3, padding=1, stride=2), nn.GroupNorm(2, 4)
        self.conv2, self.norm2 = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.GroupNorm(4, 4)
        self.pool, self.last = nn.MaxPool2d(2), nn.Linear(4, 1)

    def forward(self, x: torch.Tensor) -> Any:
        x = functional.silu(self.norm1(self.conv1(x)))
        x = x + functional.relu(self.norm2(self.conv2(x)))
        return self.last(self.pool(x).mean((2, 3)))


class Transformer(nn.Module):
    """Torch's own encoder layer over five steps, with learnt places."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.places = nn.Linear(3, 8), nn.Parameter(torch.randn(1, 5, 8))
        self.layer = nn.TransformerEncoderLayer(
            8, 2, 12, dropout=0.0, batch_first=True, norm_first=True
        )
        self.last = nn.Linear(8, 1)

    def forward(self, x: torch.Tensor) -> Any:
        steps = self.embed(x.reshape(-1, 5, 3)) + self.places
        return self.last(self.layer(steps)[:, 0])


class OwnAttention(nn.Module):
    """Attention as vision transformers write it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Linear(3, 8), nn.LayerNorm(8)
        self.qkv, self.out, self.last = nn.Linear(8, 24), nn.Linear(8, 8), nn.Linear(8, 1)

    def forward(self, x: torch.Tensor) -> Any:
        x = self.embed(x.reshape(-1, 5, 3))
        n, steps, width = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(n, steps, 3, 2, 4).permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        return self.last((x + self.out(seen.reshape(n, steps, width))).mean(1))


class MeanTaken(nn.Module):
    """It subtracts the mean over records."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(5, 8), nn.Linear(8, 1)

    def forward(self, x: torch.Tensor) -> Any:
        h = self.first(x)
        return self.last(h - 0.5 * h.mean(0, keepdim=True))


class Recurrent(nn.Module):
    """Torch's GRU."""

    def __init__(self) -> None:
        super().__init__()
        self.over_steps, self.last = nn.GRU(3, 4, batch_first=True), nn.Linear(4, 1)

    def forward(self, x: torch.Tensor) -> Any:
        return self.last(self.over_steps(x.reshape(-1, 5, 3))[0][:, -1])


class Causal(nn.Module):
    """Attention that sees earlier steps only."""

    mask: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.last = nn.Linear(3, 8), nn.Linear(8, 1)
        self.register_buffer("mask", torch.triu(torch.full((5, 5), -torch.inf), 1))

    def forward(self, x: torch.Tensor) -> Any:
        x = self.embed(x.reshape(-1, 5, 3))
        seen = (x @ x.transpose(1, 2) + self.mask).softmax(-1) @ x
        return self.last(seen.mean(1))


class Placed(nn.Module):
    """Fixed waves are added to the steps."""

    waves: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.last = nn.Linear(3, 8), nn.Linear(8, 1)
        self.register_buffer("waves", torch.sin(torch.arange(40.0)).reshape(1, 5, 8))

    def forward(self, x: torch.Tensor) -> Any:
        return self.last((self.embed(x.reshape(-1, 5, 3)) + self.waves).mean(1))


class FromNothing(nn.Module):
    """A residual path that starts at nothing (ReZero), and a score of each step."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.more = nn.Linear(3, 4), nn.Linear(4, 4)
        self.alpha, self.last = nn.Parameter(torch.zeros(1)), nn.Linear(4, 1)

    def forward(self, x: torch.Tensor) -> Any:
        x = self.embed(x.reshape(-1, 5, 3))
        x = x + self.alpha * torch.tanh(self.more(x))
        return self.last(x).mean(1)


class Tied(nn.Module):
    """One layer is used three times."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again, self.last = nn.Linear(5, 8), nn.Linear(8, 8), nn.Linear(8, 1)

    def forward(self, x: torch.Tensor) -> Any:
        h = torch.tanh(self.first(x))
        for _ in range(3):
            h = torch.tanh(self.again(h))
        return self.last(h)


class Squared(nn.Module):
    """A product that is used with and without its bias."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(5, 8)), nn.Parameter(torch.zeros(8))
        self.last = nn.Linear(8, 1)

    def forward(self, x: torch.Tensor) -> Any:
        y = x @ self.weight
        return self.last((y + self.bias) * y)


class Doubled(nn.Module):
    """Two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(5, 1), nn.Linear(5, 1)

    def forward(self, x: torch.Tensor) -> Any:
        return self.one(x), self.other(x)


def coarse() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 8), nn.LayerNorm(8, eps=1e-3), nn.Linear(8, 1))


def roughly() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 8), nn.GELU(approximate="tanh"), nn.Linear(8, 1))


def normed() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 1))


def even_kernel() -> nn.Module:
    return nn.Sequential(nn.Unflatten(1, (1, 5)), nn.Conv1d(1, 2, 2), nn.Flatten(), nn.Linear(8, 1))


def blunt() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 1), nn.Sigmoid())


def tail() -> nn.Module:
    """What follows an encoder of six numbers."""
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))


@lru_cache
def exported(make: Net, *record: int) -> bytes:
    """The network with numbers that depend on its shapes alone, exported for one record."""
    network, dice = make().eval(), torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=dice))
    with warnings.catch_warnings():  # torch's exporter warns about its own deprecations
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            network, (torch.zeros(1, *record),), dynamo=True, external_data=False, verbose=False
        )
        assert program is not None
    data: bytes = program.model_proto.SerializeToString()
    return data
