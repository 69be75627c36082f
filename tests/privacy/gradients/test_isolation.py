"""No network hides from its test that a patient's result depends on others.

The first version of the test ran a network as a whole on made-up records. An author whose network
adds -100 and cuts off at 0 then hid in which bits kernels differ; 40 rounds of arithmetic enlarged
them, and one patient moved the sum by 3 times the clip.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from flo.arrays import Floats, Integers
from flo.privacy.gradients.bookkeeping import BookKeeping, binary_loss
from flo.privacy.gradients.independence import find_cross_patient_dependence
from flo.privacy.gradients.isolation import Isolated
from flo.privacy.gradients.step import PrivateStep
from flo.privacy.patients.patients import Patients
from flo.study import joints, networks
from flo.study.layers import Layer
from tests.privacy.slow_step import NETWORKS, built, examples, file_of, seeded

PATIENTS, CLIP, FAR = 60, 1.0, 30  # FAR: how far patients are from what made-up records reach


def enlarging(gate: float, *, frozen: bool) -> list[Layer]:
    """A linear layer, a gate that made-up records do not pass, and a map that doubles the
    distance of any two numbers 40 times."""
    layers = [Layer("Linear", (6, 4), (-1,), frozen=frozen), Layer("Shift", (), (0,), gate)]
    layers += [Layer("ReLU", (), (1,)), Layer("Scale", (), (2,), 0.01)]
    for _ in range(40):
        last = len(layers) - 1
        layers += [Layer("Shift", (), (last,), -0.5), Layer("ReLU", (), (last + 1,))]
        layers += [Layer("Scale", (), (last + 2,), -2.0), Layer("Add", (), (last, last + 3))]
        layers += [Layer("Scale", (), (last + 4,), 1.97)]
    return [*layers, Layer("Linear", (4, 1), (len(layers) - 1,))]


@pytest.mark.parametrize("frozen", [True, False], ids=["frozen", "trained"])
@pytest.mark.parametrize("gate", [-100.0, -12.0], ids=["gate", "narrow gate"])
def test_a_network_made_to_enlarge_the_last_bit_moves_the_sum_by_no_more_than_the_clip(
    gate: float, frozen: bool
) -> None:
    dice = np.random.default_rng(0)
    first, bias = dice.normal(size=(4, 6)), np.full(4, -gate - 12)
    numbers = {"0.weight": first.astype(np.float32), "0.bias": bias.astype(np.float32)}
    module = networks.build(enlarging(gate, frozen=frozen), numbers if frozen else None)
    made_up = examples(6, 256)
    step = PrivateStep(module, binary_loss, CLIP, examples=made_up, batch=64, most_records=1)
    head = np.array([300.0, -300.0, 300.0, -300.0, 0.0])
    chosen = head if frozen else np.concatenate([first.ravel(), bias, head])
    weights = chosen.astype(np.float32) if step._flat.dtype == torch.float32 else chosen
    inputs, labels = FAR * dice.normal(size=(PATIENTS, 6)), np.zeros(PATIENTS)

    def total(kept: Integers) -> Floats:
        patients = Patients(inputs[kept], labels[kept], np.arange(len(kept)), len(kept))
        return step.clipped_sum(weights, step.batches(patients))

    everyone = np.arange(PATIENTS)
    whole = total(everyone)
    for one in range(0, PATIENTS, 7):
        assert np.linalg.norm(whole - total(np.delete(everyone, one))) <= CLIP * (1 + 1e-6)


def place_tells(layer: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """A kernel whose last bits depend on a record's place."""

    def told(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
        place = torch.arange(len(x), dtype=x.dtype).reshape(-1, *[1] * (x.dim() - 1))
        return layer(self, x) * (1 + 1e-6 * place)

    return told


@pytest.mark.parametrize("hidden", ["behind", "before"])
def test_a_kernel_that_tells_places_is_found_where_the_whole_network_hides_it(
    hidden: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``behind``: a gate that is closed for made-up records. ``before``: they all look alike."""
    monkeypatch.setattr(joints.Softmax, "forward", place_tells(joints.Softmax.forward))
    around = {
        "behind": [Layer("Softmax"), Layer("Shift", by=-100.0), Layer("ReLU")],
        "before": [
            Layer("Shift", by=-100.0),
            Layer("ReLU"),
            Layer("Softmax"),
            Layer("Scale", by=0),
        ],
    }
    layers = [Layer("Linear", (6, 4)), *around[hidden], Layer("Linear", (4, 1))]
    module = seeded(networks.build(layers)).double()
    step = PrivateStep(module, binary_loss, CLIP, examples=examples(6), batch=16, most_records=1)
    assert step.way.name == "loop"  # in which each patient is alone
    way = BookKeeping(module.double(), binary_loss)
    frame = next(step.batches(file_of([1] * 16, 6)).frames())
    assert find_cross_patient_dependence(way.observables, frame) is None
    found = find_cross_patient_dependence(Isolated(way).observables, frame)
    assert found == "a record's result changes with its place in the batch"


@pytest.mark.parametrize("kind", NETWORKS)
def test_every_layer_alone_is_independent_in_every_network_of_flos(kind: str) -> None:
    layers, width = NETWORKS[kind]
    module = built(layers)
    step = PrivateStep(
        module, binary_loss, CLIP, examples=examples(width), batch=32, most_records=4
    )
    assert isinstance(step.way, BookKeeping)
    before = [p.clone() for p in (*module.parameters(), *module.buffers())]
    records = file_of([4] * 8, width)
    frame = next(step.batches(records).frames())
    inputs, alone = frame.inputs.clone(), Isolated(step.way)
    rows = alone.observables(frame)
    assert find_cross_patient_dependence(alone.observables, frame) is None
    assert all(len(row) == frame.patients and torch.isfinite(row).all() for row in rows)
    assert torch.equal(frame.inputs, inputs)
    assert all(map(torch.equal, before, (*module.parameters(), *module.buffers())))
    assert sum(bool(row.any()) for row in rows) > len(rows) / 2
