"""Bitwise test that a patient's result does not depend on other patients or on position.

It is the second defence after construction. The per-patient values of a micro-batch are computed
again with the patients shifted by a few places, with one patient changed, and with one removed. All
other patients must get exactly the same bits. The test finds batch statistics, losses that compare
records and divisions by the batch size. It also finds kernels that treat the last rows of a block
differently: such a difference is tiny, but it can flip a ReLU and then becomes large.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from flo.privacy.gradients.batches import Frame

Seen = Callable[[Frame], list[torch.Tensor]]

_SHIFTS = (1, 2, 5)


def find_cross_patient_dependence(seen: Seen, frame: Frame) -> str | None:
    """Return None if ``seen(frame)`` is independent for every patient, else a description.

    ``seen`` returns tensors (P, …), one row for each of the frame's patients, who all differ.
    """
    everyone = torch.arange(frame.patients, device=frame.inputs.device)
    before = seen(frame)
    for shift in _SHIFTS:
        order = everyone.roll(shift)
        if not _same(seen(frame.reordered(order)), [t[order] for t in before]):
            return "a record's result changes with its place in the batch"
    if frame.patients == 1:
        return None  # there is no other patient
    one = frame.patients // 2
    others = everyone != one
    changed = frame.by_patient(frame.inputs).clone()
    changed[one] = changed[0]
    labels = frame.by_patient(frame.labels).clone()
    labels[one] = 1 - labels[one]
    moved = replace(
        frame,
        inputs=changed.reshape(frame.inputs.shape),
        labels=labels.reshape(frame.labels.shape),
    )
    if not _same([t[others] for t in seen(moved)], [t[others] for t in before]):
        return "a record's result changes when another record does"
    gone = ~others.repeat_interleave(len(frame.weights) // frame.patients)
    absent = replace(
        frame,
        inputs=frame.inputs.masked_fill(gone.reshape(-1, *[1] * (frame.inputs.dim() - 1)), 0),
        labels=frame.labels.masked_fill(gone, 0),
        weights=frame.weights.masked_fill(gone, 0),
    )
    if not _same([t[others] for t in seen(absent)], [t[others] for t in before]):
        return "a record's result changes when another record is taken away"
    return None


def _same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
