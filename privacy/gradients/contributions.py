"""Gradients of a frame's patients for some parameters: their norms, and their clipped sum.

Rounding: a and b, as the hardware computed them, *define* the patient's gradient. The norm and the
clipped sum of that gradient are computed in float64. A norm computed from products of scalar
products suffers cancellation, so 10^-10 of its largest possible value is added: rounded towards a
larger norm, so more privacy. With this slack a rounding error moves a patient's part by at most
10^-11 of the clip. So only a and b must be the same to the last bit; where a gradient is
materialised (``Dense``), it must be too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

_CANCELLATION = 1e-10


class PatientGradients(Protocol):
    """Gradients of a frame's patients for some parameters."""

    @property
    def norm_squared(self) -> torch.Tensor:
        """Upper bound on the squared L2 norm of each patient's gradient, (P,) float64."""

    def total(self, factors: torch.Tensor) -> list[torch.Tensor]:
        """Return Σ factor × gradient over patients, float64, one tensor for each parameter.

        A patient of factor 0 adds exact zeros, whatever their gradient is.
        """


@dataclass(frozen=True)
class Dense:
    """Materialised gradients of each patient: (P, …) for each parameter."""

    gradients: list[torch.Tensor]

    @property
    def norm_squared(self) -> torch.Tensor:
        """Squared norm in float64; needs no slack, as no terms cancel."""
        parts = [
            torch.linalg.vector_norm(g.flatten(1), dim=1, dtype=torch.float64) ** 2
            for g in self.gradients
        ]
        return torch.stack(parts).sum(0) if len(parts) > 1 else parts[0]

    def total(self, factors: torch.Tensor) -> list[torch.Tensor]:
        """Sum gradients times factors in float64; non-finite values count as finite numbers."""
        return [
            (factors @ torch.nan_to_num(g.flatten(1)).double()).reshape(g.shape[1:])
            for g in self.gradients
        ]


@dataclass(frozen=True)
class RankOne:
    """Weight gradient b aᵀ and bias gradient b; a (P, d), b (P, o), float64."""

    a: torch.Tensor
    b: torch.Tensor
    bias: bool

    @property
    def norm_squared(self) -> torch.Tensor:
        """‖b‖²·(‖a‖² + 1 for a bias) in float64; needs no slack, as no terms cancel."""
        return _length(self.b) ** 2 * (_length(self.a) ** 2 + self.bias)

    def total(self, factors: torch.Tensor) -> list[torch.Tensor]:
        """Sum weight and bias in one product each, without materialising a patient's gradient."""
        b = torch.nan_to_num(self.b) * factors[:, None]
        weight = b.T @ torch.nan_to_num(self.a)
        return [weight, b.sum(0)] if self.bias else [weight]


@dataclass(frozen=True)
class SumOfRankOne:
    """Weight gradient Σ_l b_l a_lᵀ and bias gradient Σ_l b_l; a (P, L, d), b (P, L, o)."""

    a: torch.Tensor
    b: torch.Tensor
    bias: bool
    shape: tuple[int, ...]

    @property
    def norm_squared(self) -> torch.Tensor:
        """Σ_lm (a_l·a_m + bias)(b_l·b_m), plus 10^-10 of its largest possible value; float64.

        That value is (Σ_l √(‖a_l‖² + bias)·‖b_l‖)²: products of both signs cancel.
        """
        a, b = self.a.double(), self.b.double()
        similar = torch.bmm(a, a.transpose(1, 2)) + self.bias
        squares = (similar * torch.bmm(b, b.transpose(1, 2))).sum((1, 2))
        largest = (_length(a) ** 2 + self.bias).sqrt() * _length(b)
        return squares.clamp_min(0) + _CANCELLATION * largest.sum(1) ** 2

    def total(self, factors: torch.Tensor) -> list[torch.Tensor]:
        """Sum over patients and L at once, in float64; the weight has the layer's ``shape``."""
        b = (torch.nan_to_num(self.b).double() * factors[:, None, None]).flatten(0, 1)
        weight = b.T @ torch.nan_to_num(self.a).double().flatten(0, 1)
        return [weight.reshape(self.shape), *([b.sum(0)] if self.bias else [])]


@dataclass(frozen=True)
class EmbeddingRows:
    """Looked-up rows of an embedding: ids (P, L) and b (P, L, e) float64."""

    ids: torch.Tensor
    b: torch.Tensor
    rows: int

    @property
    def norm_squared(self) -> torch.Tensor:
        """Σ_lm b_l·b_m where l and m look up one row, plus 10^-10 of (Σ_l ‖b_l‖)²."""
        same = self.ids[:, :, None] == self.ids[:, None, :]
        squares = (torch.bmm(self.b, self.b.transpose(1, 2)) * same).sum((1, 2))
        return squares.clamp_min(0) + _CANCELLATION * _length(self.b).sum(1) ** 2

    def total(self, factors: torch.Tensor) -> list[torch.Tensor]:
        """Return the table's gradient (rows, e) in float64, zero in rows without a look-up."""
        b = torch.nan_to_num(self.b) * factors[:, None, None]
        table = torch.zeros((self.rows, b.shape[2]), dtype=torch.float64, device=b.device)
        return [table.index_add_(0, self.ids.flatten(), b.flatten(0, 1))]


def _length(values: torch.Tensor) -> torch.Tensor:
    """Return the L2 norm over the last dimension, added up in float64."""
    length: torch.Tensor = torch.linalg.vector_norm(values, dim=-1, dtype=torch.float64)
    return length
