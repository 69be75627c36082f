"""The private step before noise: every patient's gradient, clipped, summed.

Promise: for any data whatsoever, adding or removing one patient changes the result by at most
``clip`` in L2 (plus float64 rounding, covered by the mechanism's slack of 2^-10).

* Per-record gradients come from Opacus hooks; a patient's records are summed, then clipped.
* A patient whose gradient or norm is not finite counts as zero; nobody outside can tell.
* Records pass in micro-batches of one fixed padded shape, in float64, so that a patient's result
  does not depend on who else is present. There is no early exit and no sampling.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from opacus import GradSampleModule

from flo.privacy.patients import Patients

Floats = npt.NDArray[np.float64]

BATCH = 256


def clipped_gradient_sum(
    module: torch.nn.Module, patients: Patients, clip: float, device: str = "cpu"
) -> Floats:
    """Sum over patients of clip(∇ Σ_records loss, ``clip``), shape (p,), float64.

    ``module`` maps inputs (n, d) to log odds (n,); the loss is binary cross-entropy per record.
    """
    hooked = GradSampleModule(module.to(device), loss_reduction="sum")
    parameters = [p for p in hooked.parameters() if p.requires_grad]
    width = sum(p.numel() for p in parameters)
    by_patient = torch.zeros((patients.count, width), dtype=torch.float64, device=device)
    inputs = torch.from_numpy(patients.inputs).to(device)
    labels = torch.from_numpy(patients.labels).to(device)
    owner = torch.from_numpy(patients.patient).to(device)
    for start in range(0, len(inputs), BATCH):
        size = min(BATCH, len(inputs) - start)
        hooked.zero_grad(set_to_none=True)
        # Inputs that want a gradient keep Opacus' hooks on the first layer from firing early.
        logits = hooked(_padded(inputs[start : start + size]).requires_grad_())
        target = _padded(labels[start : start + size])
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, target, reduction="sum")
        torch.autograd.backward(loss)
        per_record = torch.cat([p.grad_sample.flatten(1) for p in parameters], dim=1)[:size]
        by_patient.index_add_(0, owner[start : start + size], per_record.detach())
    hooked.remove_hooks()
    norms = torch.linalg.vector_norm(by_patient, dim=1)
    usable = torch.isfinite(norms)
    factors = torch.clamp(clip / norms[usable].clamp_min(1e-300), max=1.0)
    return np.asarray((by_patient[usable] * factors[:, None]).sum(dim=0).cpu().numpy())


def _padded(rows: torch.Tensor) -> torch.Tensor:
    full = torch.zeros((BATCH, *rows.shape[1:]), dtype=rows.dtype, device=rows.device)
    full[: len(rows)] = rows
    return full
