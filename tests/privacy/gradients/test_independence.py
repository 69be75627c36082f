"""Whatever lets one patient's numbers depend on another's is noticed, or done without it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from flo.arrays import Floats
from flo.errors import StudyError
from flo.privacy.gradients.batches import Batches, Frame
from flo.privacy.gradients.bookkeeping import Loss, binary_loss
from flo.privacy.gradients.independence import Seen, find_cross_patient_dependence
from flo.privacy.gradients.step import PrivateStep
from flo.privacy.patients.patients import Patients
from tests.privacy.slow_step import examples, file_of, only, seeded, summed, weights_of, without

WIDTH = 4
PLACE, CHANGED, GONE = "its place in the batch", "another record does", "is taken away"


class Written(nn.Module):
    """A layer that is one line of somebody's code."""

    def __init__(self, line: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.line = line

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.line(x)


class Remembering(nn.Module):
    """Takes the mean of all it has seen so far away: a state from one patient to the next."""

    def __init__(self) -> None:
        super().__init__()
        self.mean: torch.Tensor | float = 0.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.mean = 0.5 * self.mean + 0.5 * x.detach().mean(0)
        return x - self.mean


class Averaging(nn.Module):
    """The same with the state in a buffer, which the step may throw away."""

    mean: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(WIDTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x - self.mean.mul_(0.5).add_(0.5 * x.detach().mean(0))


def written(line: Callable[[torch.Tensor], torch.Tensor]) -> nn.Module:
    return nn.Sequential(Written(line), nn.Linear(WIDTH, 1))


def used_twice() -> nn.Module:
    layer = nn.Linear(WIDTH, WIDTH)
    return nn.Sequential(layer, nn.Tanh(), layer, nn.Linear(WIDTH, 1))


def honest() -> nn.Module:
    return nn.Sequential(nn.Linear(WIDTH, 1))


def contrastive_loss(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Each record's distance to all records of the batch that have the other label."""
    apart = (outputs - outputs.T) ** 2
    return (apart * (labels[:, None] != labels[None, :])).sum(1) + binary_loss(outputs, labels)


def sized_loss(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return binary_loss(outputs, labels) / len(labels)


NASTY: dict[str, tuple[Callable[[], nn.Module], Loss]] = {
    "batch norm": (lambda: nn.Sequential(nn.BatchNorm1d(WIDTH), *honest().children()), binary_loss),
    "batch norm without state": (
        lambda: nn.Sequential(nn.BatchNorm1d(WIDTH, track_running_stats=False), nn.Linear(4, 1)),
        binary_loss,
    ),
    "x - x.mean(0)": (lambda: written(lambda x: x - x.mean(0)), binary_loss),
    "x / len(x)": (lambda: written(lambda x: x / len(x)), binary_loss),
    "running sums": (lambda: written(lambda x: x.cumsum(0)), binary_loss),
    "the neighbour's record": (lambda: written(lambda x: x + x.roll(1, 0)), binary_loss),
    "sorted records": (lambda: written(lambda x: x.sort(0).values), binary_loss),
    "softmax over the batch": (lambda: written(lambda x: x.softmax(0)), binary_loss),
    "contrastive loss": (honest, contrastive_loss),
    "loss divided by the batch": (honest, sized_loss),
}
FOR_THE_STEP = NASTY | {
    "a layer used twice": (used_twice, binary_loss),
    "batch norm, evaluating": (
        lambda: nn.Sequential(nn.BatchNorm1d(WIDTH), nn.Linear(WIDTH, 1)).eval(),
        binary_loss,
    ),
    "a memory": (lambda: nn.Sequential(Remembering(), nn.Linear(WIDTH, 1)), binary_loss),
    "a memory in a buffer": (
        lambda: nn.Sequential(Averaging(), nn.Linear(WIDTH, 1)),
        binary_loss,
    ),
    "written into the records": (lambda: written(lambda x: x.mul_(0.5)), binary_loss),
    "dropout": (lambda: nn.Sequential(nn.Dropout(0.5), nn.Linear(WIDTH, 1)), binary_loss),
    "layer norm over the batch": (
        lambda: nn.Sequential(nn.LayerNorm((8, WIDTH)), nn.Linear(WIDTH, 1)),
        binary_loss,
    ),
    "instance norm of records as channels": (
        lambda: nn.Sequential(nn.InstanceNorm1d(8, affine=True), nn.Linear(WIDTH, 1)),
        binary_loss,
    ),
    "records as channels": (
        lambda: nn.Sequential(
            nn.Unflatten(1, (2, 2)), nn.Conv2d(8, 8, 1), nn.Flatten(), nn.Linear(4, 1)
        ),
        binary_loss,
    ),
}
# These cannot be computed for one patient alone, or carry something from one to the next.
REFUSED = {
    "batch norm": "",
    "batch norm without state": "",
    "a memory": "its place in the batch",
    "dropout": "its place in the batch",
    "layer norm over the batch": "",
    "instance norm of records as channels": "",
    "records as channels": "",
}


def frame_of(patients: Patients, batch: int = 8) -> Frame:
    return next(Batches(patients, batch, "cpu", torch.float64).frames())


def halves(count: int = 8) -> Patients:
    """All different, in eighths, so that whatever order sums are taken in, they are exact."""
    inputs = np.arange(count)[:, None] * 0.25 + np.arange(WIDTH)[None] * 0.125
    return Patients(inputs, (np.arange(count) % 2).astype(np.float64), np.arange(count), count)


def batched(module: nn.Module, loss: Loss, *, hooks: bool) -> Seen:
    """As one would naively do it: all real records at once; losses, and Opacus's gradients."""
    from opacus import GradSampleModule

    def seen(frame: Frame) -> list[torch.Tensor]:
        real = frame.weights > 0
        hooked = GradSampleModule(module, loss_reduction="sum", strict=False) if hooks else None
        losses = loss((hooked or module)(frame.inputs[real]), frame.labels[real])
        found = [losses.detach()]
        if hooked:
            torch.autograd.backward(losses.sum())
            found += [vars(p)["grad_sample"] for p in module.parameters()]
            hooked.to_standard_module()
            module.zero_grad()
        whole = [torch.zeros(len(real), *t.shape[1:], dtype=t.dtype) for t in found]
        for t, some in zip(whole, found, strict=True):
            t[real] = some
        return [frame.by_patient(t) for t in whole]

    return seen


def weighed(x: torch.Tensor) -> torch.Tensor:
    """Honest, and exact on eighths."""
    return x * torch.tensor([0.5, -0.25, 1.0, 2.0], dtype=x.dtype)


def squared_loss(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return (outputs.sum(1) - labels) ** 2


@pytest.mark.parametrize("name", NASTY)
def test_a_batched_loss_that_mixes_records_is_noticed(name: str) -> None:
    make, loss = NASTY[name]
    seen = batched(seeded(make().double()), loss, hooks=False)
    assert find_cross_patient_dependence(seen, frame_of(halves())) is not None


@pytest.mark.filterwarnings("ignore:Full backward hook is firing", "ignore:The .grad attribute")
@pytest.mark.parametrize("name", ["x - x.mean(0)", "x / len(x)", "contrastive loss"])
def test_gradients_that_opacus_takes_for_per_record_are_noticed(name: str) -> None:
    make, loss = NASTY[name]
    seen = batched(seeded(make().double()), loss, hooks=True)
    assert find_cross_patient_dependence(seen, frame_of(halves())) is not None


def test_an_honest_computation_is_cleared() -> None:
    assert find_cross_patient_dependence(
        batched(Written(weighed), squared_loss, hooks=False), frame_of(halves())
    ) is (None)


@pytest.mark.parametrize("batch", [1, 2, 8])
def test_an_honest_computation_is_cleared_whatever_the_number_of_patients(batch: int) -> None:
    seen = batched(Written(weighed), squared_loss, hooks=False)
    assert find_cross_patient_dependence(seen, frame_of(halves(batch), batch)) is None


def last_rows_differ(frame: Frame) -> list[torch.Tensor]:
    """A kernel whose remainder is rounded otherwise: one unit in the last place."""
    sums = frame.by_patient(frame.inputs).sum(1)
    sums[-3:] = torch.nextafter(sums[-3:], torch.full_like(sums[-3:], torch.inf))
    return [sums]


def largest_of_all(frame: Frame) -> list[torch.Tensor]:
    return [frame.by_patient(frame.inputs).sum(1) + frame.inputs.max()]


def how_many(frame: Frame) -> list[torch.Tensor]:
    return [frame.by_patient(frame.inputs).sum(1) / frame.weights.sum()]


def labels_of_all(frame: Frame) -> list[torch.Tensor]:
    return [frame.by_patient(frame.inputs).sum(1) + frame.labels.sum()]


@pytest.mark.parametrize(
    ("seen", "what"),
    [
        (last_rows_differ, PLACE),
        (lambda frame: [torch.arange(frame.patients)], PLACE),
        (lambda frame: [frame.by_patient(frame.inputs).roll(1, 0)], CHANGED),
        (labels_of_all, CHANGED),
        (how_many, GONE),
    ],
)
def test_the_answer_says_what_moved_a_record(seen: Seen, what: str) -> None:
    found = find_cross_patient_dependence(seen, frame_of(halves()))
    assert found is not None
    assert what in found


def test_a_maximum_over_the_batch_is_noticed_when_the_largest_is_the_one_who_goes() -> None:
    patients = halves()
    order = np.roll(np.arange(8), 5)  # the largest is now the patient who is changed
    frame = frame_of(replace(patients, inputs=patients.inputs[order]))
    assert find_cross_patient_dependence(largest_of_all, frame) is not None


def perturbed(patients: Patients, who: int) -> Patients:
    inputs = np.where(patients.patient[:, None] == who, -3 * patients.inputs, patients.inputs)
    labels = np.where(patients.patient == who, 1 - patients.labels, patients.labels)
    return replace(patients, inputs=inputs, labels=labels)


def assert_everybody_is_alone(step: PrivateStep, weights: Floats, patients: Patients) -> None:
    everyone = summed(step, weights, patients)
    for who in range(patients.count):
        alone = summed(step, weights, only(patients, who))
        rest = summed(step, weights, without(patients, who))
        np.testing.assert_allclose(everyone - rest, alone, rtol=0, atol=1e-12)
        other = perturbed(patients, who)
        moved = summed(step, weights, other) - everyone
        as_alone = summed(step, weights, only(other, who)) - alone
        np.testing.assert_allclose(moved, as_alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", FOR_THE_STEP)
def test_the_step_refuses_a_model_that_mixes_or_keeps_everybody_alone_in_it(name: str) -> None:
    make, loss = FOR_THE_STEP[name]
    module = seeded(make().double())
    weights, patients = weights_of(module), file_of([1, 1, 2, 3, 1, 8, 7], WIDTH)
    if name in REFUSED:
        with pytest.raises(StudyError, match="one patient at a time") as refused:
            PrivateStep(module, loss, 0.5, examples=examples(WIDTH), batch=8, most_records=8)
        assert REFUSED[name] in str(refused.value)
        return
    step = PrivateStep(module, loss, 0.5, examples=examples(WIDTH), batch=8, most_records=8)
    assert step.way.name in ("vmap", "loop")
    assert_everybody_is_alone(step, weights, patients)


def test_the_check_above_would_notice_a_step_that_mixes() -> None:
    module = seeded(honest().double())
    step = PrivateStep(module, binary_loss, 0.5, examples=examples(WIDTH), batch=8, most_records=8)
    parts = step.way.contributions
    step.way.contributions = lambda frame: parts(  # type: ignore[method-assign]
        replace(frame, inputs=frame.inputs - frame.inputs.mean(0))
    )
    with pytest.raises(AssertionError):
        assert_everybody_is_alone(step, weights_of(module), file_of([1, 1, 2, 3], WIDTH))
