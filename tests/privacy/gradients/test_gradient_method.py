"""A way of getting gradients is taken only if place and neighbours tell nothing on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import nn

from flo.privacy.gradients import step as step_module
from flo.privacy.gradients.batches import Frame
from flo.privacy.gradients.bookkeeping import BookKeeping, Loss, binary_loss, categorical_loss
from flo.privacy.gradients.independence import Seen, find_cross_patient_dependence
from flo.privacy.gradients.step import PrivateStep
from tests.privacy.slow_step import BATCH, examples, file_of, seeded, slow_sum, summed, weights_of


def frames(step: PrivateStep, width: int, batch: int) -> Iterator[Frame]:
    """A full frame of every shape."""
    records = 1
    while records <= batch:
        patients = file_of([records] * (batch // records), width, records)
        yield next(step.batches(patients).frames())
        records *= 2


@pytest.mark.parametrize(
    ("layers", "loss"),
    [
        (lambda: [nn.Linear(30, 2)], categorical_loss),
        (lambda: [nn.Linear(30, 1)], binary_loss),
        (lambda: [nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 1)], binary_loss),
        (lambda: [nn.Linear(34, 1), nn.Tanh(), nn.Linear(1, 1)], binary_loss),
        (lambda: [nn.Linear(30, 64), nn.Tanh(), nn.Linear(64, 1)], binary_loss),
    ],
)
@pytest.mark.parametrize("batch", [16, 64])
def test_the_way_that_is_taken_is_one_on_which_place_and_neighbours_tell_nothing(
    batch: int, layers: Callable[[], list[nn.Module]], loss: Loss
) -> None:
    first, *others = layers()
    assert isinstance(first, nn.Linear)
    module, width = seeded(nn.Sequential(first, *others)), first.in_features
    made_up = examples(width, 256)
    step = PrivateStep(module, loss, 0.5, examples=made_up, batch=batch, most_records=batch)
    for frame in frames(step, width, batch):
        assert find_cross_patient_dependence(step.way.observables, frame) is None


def test_a_way_is_tried_out_on_every_shape_that_a_patient_can_have(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried = set()

    def noted(seen: Seen, frame: Frame) -> str | None:
        tried.add(frame.patients)
        return find_cross_patient_dependence(seen, frame)

    monkeypatch.setattr(step_module, "find_cross_patient_dependence", noted)
    module = nn.Sequential(nn.Linear(3, 1)).double()
    made_up = examples(3)
    PrivateStep(module, binary_loss, 0.5, examples=made_up, batch=64, most_records=64)
    assert tried == {64, 32, 16, 8, 4, 2, 1}
    tried.clear()
    PrivateStep(module, binary_loss, 0.5, examples=made_up, batch=64)
    assert tried == {64}


def test_a_kernel_that_depends_on_place_in_float32_alone_makes_the_step_take_float64(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def by_place(_: BookKeeping, frame: Frame) -> list[torch.Tensor]:
        place = torch.arange(frame.patients)
        return [place if frame.inputs.dtype == torch.float32 else torch.zeros_like(place)]

    monkeypatch.setattr(BookKeeping, "observables", by_place)
    module, patients = seeded(nn.Sequential(nn.Linear(3, 1))), file_of([1, 2, 9], 3)
    weights, wanted = weights_of(module), slow_sum(module, binary_loss, patients, 0.5)
    step = PrivateStep(module, binary_loss, 0.5, examples=examples(3), batch=BATCH)
    assert (
        step.reasons[0] == "not book-keeping: a record's result changes with its place in the batch"
    )
    assert summed(step, weights, patients).dtype == np.float64
    assert (step.way.name, next(module.parameters()).dtype) == ("book-keeping", torch.float64)
    np.testing.assert_allclose(summed(step, weights, patients), wanted, atol=1e-6)
