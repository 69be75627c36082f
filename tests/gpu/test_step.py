"""The private step on the device that hospitals have: same numbers, same promises as on a CPU.

    python3 -m pytest -m gpu tests/gpu -s --confcutdir=tests/gpu

From a bare checkout, with torch, numpy, scipy, cryptography, opacus, dp-accounting and pytest only.
Without a CUDA device the same tests run on the CPU, so that they stay alive; the table is printed.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from flo.bench import step as step_table
from flo.privacy.gradients.bookkeeping import Loss, binary_loss
from flo.privacy.gradients.independence import find_cross_patient_dependence
from flo.privacy.gradients.step import PrivateStep
from flo.privacy.patients.patients import Patients
from flo.study import networks
from flo.study.layers import Layer

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore")]

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CLIP = 0.5

MODELS: dict[str, Callable[[], nn.Module]] = {
    "logistic": lambda: networks.build(networks.logistic(64)),
    "mlp": lambda: networks.build(networks.mlp(64, (32, 16))),
    "cnn": lambda: networks.build(networks.cnn(1, 8, 8)),
    "conv1d": lambda: nn.Sequential(
        nn.Unflatten(1, (4, 16)),
        nn.Conv1d(4, 8, 5, stride=2, padding=2),
        nn.LayerNorm(8),
        nn.GELU(),
        nn.Flatten(1),
        nn.Linear(64, 1),
    ),
    "volume": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 4, 4, 4)),
        nn.Conv3d(1, 4, 3, padding=1),
        nn.InstanceNorm3d(4, affine=True),
        nn.Tanh(),
        nn.AdaptiveAvgPool3d(2),
        nn.Flatten(1),
        nn.Linear(32, 1),
    ),
    "gru": lambda: networks.build(
        [
            *(Layer("Unflatten", (8, 8)), Layer("GRU", (8, 16)), Layer("LastStep")),
            Layer("Linear", (16, 1)),
        ]
    ),
    "lstm": lambda: networks.build(
        [
            *(Layer("Unflatten", (8, 8)), Layer("LSTM", (8, 16)), Layer("MeanOfSteps")),
            Layer("Linear", (16, 1)),
        ]
    ),
    "attention": lambda: networks.build(
        [
            *(Layer("Unflatten", (8, 8)), Layer("SelfAttention", (8, 2)), Layer("LayerNorm", (8,))),
            *(Layer("MeanOfSteps"), Layer("Linear", (8, 1))),
        ]
    ),
    "sequence": lambda: nn.Sequential(
        nn.Unflatten(1, (8, 8)), nn.Linear(8, 40), nn.ReLU(), nn.Flatten(1), nn.Linear(320, 1)
    ),
}


def patients(seed: int, count: int, records: int) -> Patients:
    generator = np.random.default_rng(seed)
    owner = np.concatenate([np.arange(count), generator.integers(0, count, records - count)])
    return Patients(
        generator.normal(size=(records, 64)),
        generator.integers(0, 2, records).astype(np.float64),
        owner.astype(np.int64),
        count,
    )


def without(some: Patients, who: int) -> Patients:
    kept = some.patient != who
    owner = some.patient[kept]
    return Patients(some.inputs[kept], some.labels[kept], owner - (owner > who), some.count - 1)


def made(
    module: nn.Module, some: Patients, *, device: str = DEVICE, loss: Loss = binary_loss
) -> tuple[PrivateStep, np.ndarray]:
    step = PrivateStep(module, loss, CLIP, examples=some.inputs, batch=64, device=device)
    weights = nn.utils.parameters_to_vector(module.parameters()).detach().cpu().double().numpy()
    return step, weights


def opacus_sum(module: nn.Module, some: Patients) -> np.ndarray:
    """Every record's gradient by Opacus' hooks, summed by patient, clipped, summed; float64."""
    from opacus import GradSampleModule

    hooked = GradSampleModule(module.double().to(DEVICE), loss_reduction="sum")
    hooked.requires_grad_(True)
    outputs = hooked(torch.from_numpy(some.inputs).to(DEVICE).requires_grad_())
    torch.autograd.backward(binary_loss(outputs, torch.from_numpy(some.labels).to(DEVICE)).sum())
    rows = torch.cat([p.grad_sample.flatten(1) for p in hooked.parameters()], dim=1).cpu().numpy()
    by_patient = np.zeros((some.count, rows.shape[1]))
    np.add.at(by_patient, some.patient, rows)
    norms = np.linalg.norm(by_patient, axis=1, keepdims=True)
    return np.asarray((by_patient * np.minimum(1.0, CLIP / norms)).sum(0))


# Opacus' hooks take the first dimension for the records, which inside an attention counts steps.
@pytest.mark.parametrize("name", [name for name in MODELS if name != "attention"])
def test_float64_gradients_equal_opacus_hooks(name: str) -> None:
    some = patients(1, 40, 90)
    torch.manual_seed(3)
    module = MODELS[name]().double()
    step, weights = made(module, some)
    ours = step.clipped_sum(weights, step.batches(some))
    torch.manual_seed(3)
    theirs = opacus_sum(MODELS[name](), some)
    assert np.linalg.norm(ours - theirs) <= 1e-9 * np.linalg.norm(theirs)


@pytest.mark.parametrize("name", MODELS)
def test_float32_gradients_are_close_to_float64(name: str) -> None:
    some = patients(2, 200, 200)
    module = MODELS[name]()
    step, weights = made(module, some)
    ours = step.clipped_sum(weights, step.batches(some))
    exact, _ = made(module.double(), some, device="cpu")
    theirs = exact.clipped_sum(weights, exact.batches(some))
    assert np.linalg.norm(ours - theirs) <= 1e-4 * np.linalg.norm(theirs)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("strange", [1.0, math.nan, math.inf, 1e38, 1e300, 1e-300])
def test_removing_a_patient_moves_the_sum_by_at_most_the_clip(name: str, strange: float) -> None:
    some = patients(4, 70, 150)
    some.inputs[some.patient == 5] *= strange
    step, weights = made(MODELS[name](), patients(4, 70, 150))
    everyone = step.clipped_sum(weights, step.batches(some))
    assert np.isfinite(everyone).all()
    for who in (0, 5, 69):
        others = step.clipped_sum(weights, step.batches(without(some, who)))
        assert np.linalg.norm(everyone - others) <= CLIP * (1 + 2**-10)


@pytest.mark.parametrize("name", MODELS)
def test_no_patient_depends_on_place_or_neighbours_bit_by_bit(name: str) -> None:
    some = patients(6, 64, 64)
    step, _ = made(MODELS[name](), some)
    with torch.no_grad():
        frame = next(step.batches(some).frames())
    assert find_cross_patient_dependence(step.way.observables, frame) is None


def test_the_same_patients_give_the_same_bits_twice_whatever_the_process_prefers() -> None:
    some = patients(7, 300, 300)
    step, weights = made(MODELS["cnn"](), some)
    first = step.clipped_sum(weights, step.batches(some))
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    try:
        with torch.autocast(DEVICE, dtype=torch.bfloat16):
            second = step.clipped_sum(weights, step.batches(some))
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
        torch.backends.cudnn.benchmark = False
    np.testing.assert_array_equal(first, second)


@pytest.mark.skipif(DEVICE == "cpu", reason="no CUDA device")
def test_memory_does_not_grow_with_the_number_of_patients() -> None:
    peaks = []
    for count in (512, 4096):
        some = patients(8, count, count)
        step, weights = made(MODELS["cnn"](), some)
        batches = step.batches(some)
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        step.clipped_sum(weights, batches)
        peaks.append(torch.cuda.max_memory_allocated() - held)
    assert peaks[1] <= 1.2 * peaks[0]


def test_the_step_table() -> None:
    for row in step_table.rows(DEVICE):
        print(  # noqa: T201 - the table is what whoever runs this on a GPU wants to see
            f"{row['name']:36} {row['flo'] * 1e3:9.3f} ms {row['reference'] * 1e3:9.3f} ms "
            f"× {row['ratio']:.2f}  {row['how']}"
        )
        assert row["ratio"] > 0
