"""Gradients of one record or one patient at a time, for models that book-keeping cannot treat.

No mixing, by construction: model and loss never see two patients together.

* ``Vmapped``: ``torch.func`` transforms the gradient of *one* record's loss; it cannot express an
  operation over the records of a batch.
* ``Looped``: plain autograd, one patient at a time. Slow, and correct for all that autograd
  supports.

Buffers are passed as copies and discarded: no state is carried from one patient to the next.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.func import functional_call, grad, vmap

from flo.privacy.gradients.batches import Frame
from flo.privacy.gradients.bookkeeping import Loss
from flo.privacy.gradients.contributions import Dense, PatientGradients

_CHUNK = 64


class Vmapped:
    """One record's gradient, mapped over the records by vmap; a patient's gradient is their sum.

    Patients share only the parameters. A forward pass that branches on values, or writes into a
    buffer in place, raises RuntimeError. Padding (zeros) has weight 0; if its gradient is not
    finite, neither is that of its patient.
    """

    name = "vmap"

    def __init__(self, module: nn.Module, loss: Loss) -> None:
        def one(
            values: dict[str, torch.Tensor],
            x: torch.Tensor,
            label: torch.Tensor,
            weight: torch.Tensor,
        ) -> tuple[torch.Tensor, torch.Tensor]:
            state = values | dict(module.named_buffers())
            value = (loss(functional_call(module, state, x[None]), label[None]) * weight).sum()
            return value, value.detach()

        self._parameters = dict(module.named_parameters())
        self._gradients = vmap(grad(one, has_aux=True), (None, 0, 0, 0), chunk_size=_CHUNK)

    def observables(self, frame: Frame) -> list[torch.Tensor]:
        """Return all values of records and patients: losses, gradients, squared norms; (P, …)."""
        losses, *gradients = self._records(frame)
        whole = self._whole(frame, gradients)
        seen = (losses, *gradients, *whole.gradients, whole.norm_squared)
        return [frame.by_patient(t) for t in seen]

    def contributions(self, frame: Frame) -> list[PatientGradients]:
        """Return one part with every parameter, its gradients (P, …) in the parameters' dtype."""
        _, *gradients = self._records(frame)
        return [self._whole(frame, gradients)]

    @staticmethod
    def _whole(frame: Frame, gradients: list[torch.Tensor]) -> Dense:
        return Dense([g.reshape(frame.patients, -1, *g.shape[1:]).sum(1) for g in gradients])

    def _records(self, frame: Frame) -> list[torch.Tensor]:
        """Return losses (P·R,) and gradients (P·R, …)."""
        parameters = {name: p.detach() for name, p in self._parameters.items()}
        gradients, losses = self._gradients(parameters, frame.inputs, frame.labels, frame.weights)
        return [losses, *(gradients[name] for name in parameters)]


class Looped:
    """Plain autograd, one patient's records at a time; the model never sees padding.

    Patients share only the parameters. A patient who is all padding has a gradient of zeros, and so
    has a parameter that the loss does not depend on.
    """

    name = "loop"

    def __init__(self, module: nn.Module, loss: Loss) -> None:
        self._module, self._loss = module, loss

    def observables(self, frame: Frame) -> list[torch.Tensor]:
        """Return all computed values: losses (P, 1) and, for each parameter, gradients (P, …)."""
        return [frame.by_patient(t) for t in self._patients(frame)]

    def contributions(self, frame: Frame) -> list[PatientGradients]:
        """Return one part with every parameter, its gradients (P, …) in the parameters' dtype."""
        return [Dense(self._patients(frame)[1:])]

    def _patients(self, frame: Frame) -> list[torch.Tensor]:
        """Return losses (P,) and gradients (P, …)."""

        def split(t: torch.Tensor) -> torch.Tensor:
            return t.reshape(frame.patients, -1, *t.shape[1:])

        each = [
            self._patient(*records)
            for records in zip(
                split(frame.inputs), split(frame.labels), split(frame.weights), strict=True
            )
        ]
        return [torch.stack(column) for column in zip(*each, strict=True)]

    def _patient(
        self, x: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor
    ) -> list[torch.Tensor]:
        """Return loss and gradients of one patient, without padding records."""
        real = weights > 0
        parameters = {
            name: p.detach().requires_grad_() for name, p in self._module.named_parameters()
        }
        if not bool(real.any()):
            zero = torch.zeros((), dtype=x.dtype, device=x.device)
            return [zero, *(torch.zeros_like(p) for p in parameters.values())]
        state = parameters | {name: b.clone() for name, b in self._module.named_buffers()}
        value = self._loss(functional_call(self._module, state, (x[real],)), labels[real]).sum()
        slopes = torch.autograd.grad(
            value, list(parameters.values()), allow_unused=True, materialize_grads=True
        )
        return [value.detach(), *slopes]
