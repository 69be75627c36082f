"""Book-keeping rebuilds each patient's gradient, as Opacus and autograd find it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from flo.arrays import Floats
from flo.privacy.gradients import bookkeeping
from flo.privacy.gradients.batches import Batches, Frame
from flo.privacy.gradients.bookkeeping import BookKeeping, binary_loss, categorical_loss
from flo.privacy.gradients.contributions import (
    Dense,
    EmbeddingRows,
    PatientGradients,
    RankOne,
    SumOfRankOne,
)
from flo.privacy.gradients.step import PrivateStep
from flo.privacy.patients.patients import Patients
from flo.study.sequences import LastStep, MeanOfSteps, Recurrent, SelfAttention
from tests.privacy.slow_step import examples, file_of, only, seeded, slow_gradient

PATIENTS = 4


@pytest.fixture(autouse=True)
def _sizes_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Linear layers over a few rows are kept as products always; here both forms are wanted."""
    monkeypatch.setattr(bookkeeping, "_FEW", 0)


def head(size: int, outputs: int = 1) -> list[nn.Module]:
    return [nn.Tanh(), nn.Flatten(), nn.Linear(size, outputs)]


def image(*sizes: int) -> nn.Module:
    return nn.Unflatten(1, sizes)


# Name -> (layers, inputs d, the part that the layer in question is kept as with one record a
# patient, and its place among the parts).
LAYERS: dict[str, tuple[Callable[[], list[nn.Module]], int, type]] = {
    "linear": (lambda: [nn.Linear(6, 5), *head(5)], 6, RankOne),
    "linear without bias": (lambda: [nn.Linear(6, 5, bias=False), *head(5)], 6, RankOne),
    "linear over two rows": (lambda: [image(2, 6), nn.Linear(6, 5), *head(10)], 12, Dense),
    "linear over rows, whole": (lambda: [image(5, 3), nn.Linear(3, 4), *head(20)], 15, Dense),
    "linear over two rows without bias": (
        lambda: [image(2, 6), nn.Linear(6, 5, bias=False), *head(10)],
        12,
        Dense,
    ),
    "linear over rows without bias, whole": (
        lambda: [image(5, 3), nn.Linear(3, 4, bias=False), *head(20)],
        15,
        Dense,
    ),
    "linear over rows of rows": (
        lambda: [image(2, 2, 3), nn.Linear(3, 4), *head(16)],
        12,
        Dense,
    ),
    "conv1d, whole": (lambda: [image(2, 9), nn.Conv1d(2, 3, 3), *head(21)], 18, Dense),
    "conv1d with all settings": (
        lambda: [image(2, 9), nn.Conv1d(2, 6, 3, stride=2, padding=2, dilation=2), *head(30)],
        18,
        Dense,
    ),
    "conv1d, a product": (
        lambda: [image(4, 7), nn.Conv1d(4, 8, 3, stride=2, bias=False), *head(24)],
        28,
        SumOfRankOne,
    ),
    "conv2d, whole": (lambda: [image(1, 5, 6), nn.Conv2d(1, 3, 3), *head(36)], 30, Dense),
    "conv2d with all settings": (
        lambda: [
            image(2, 6, 5),
            nn.Conv2d(2, 4, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2)),
            *head(4 * 3 * 7),
        ],
        60,
        Dense,
    ),
    "conv2d, a product": (
        lambda: [image(3, 4, 4), nn.Conv2d(3, 6, 3, bias=False), *head(24)],
        48,
        SumOfRankOne,
    ),
    "layer norm": (lambda: [nn.LayerNorm(6), *head(6)], 6, Dense),
    "layer norm without bias": (lambda: [nn.LayerNorm(6, bias=False), *head(6)], 6, Dense),
    "layer norm over rows": (lambda: [image(3, 4), nn.LayerNorm(4), *head(12)], 12, Dense),
    "layer norm over images": (lambda: [image(3, 4), nn.LayerNorm((3, 4)), *head(12)], 12, Dense),
    "group norm": (lambda: [nn.GroupNorm(2, 6), *head(6)], 6, Dense),
    "group norm over images": (
        lambda: [image(4, 2, 3), nn.GroupNorm(2, 4), *head(24)],
        24,
        Dense,
    ),
    "instance norm 1d": (
        lambda: [image(3, 4), nn.InstanceNorm1d(3, affine=True), *head(12)],
        12,
        Dense,
    ),
    "instance norm 2d": (
        lambda: [image(3, 2, 2), nn.InstanceNorm2d(3, affine=True), *head(12)],
        12,
        Dense,
    ),
    "instance norm 3d": (
        lambda: [image(2, 2, 2, 3), nn.InstanceNorm3d(2, affine=True), *head(24)],
        24,
        Dense,
    ),
    "conv3d": (lambda: [image(1, 3, 3, 4), nn.Conv3d(1, 2, 2), *head(24)], 36, Dense),
    "conv3d with all settings": (
        lambda: [
            image(2, 3, 4, 3),
            nn.Conv3d(2, 3, 2, stride=(1, 2, 1), padding=1, dilation=(1, 2, 1), bias=False),
            *head(3 * 4 * 2 * 4),
        ],
        72,
        Dense,
    ),
    "grouped conv1d": (
        lambda: [image(4, 6), nn.Conv1d(4, 6, 3, groups=2, padding=1), *head(36)],
        24,
        Dense,
    ),
    "grouped conv2d with all settings": (
        lambda: [
            image(4, 5, 4),
            nn.Conv2d(4, 8, (2, 3), groups=4, stride=(1, 2), padding=1, dilation=(2, 1)),
            *head(8 * 5 * 2),
        ],
        80,
        Dense,
    ),
    "grouped conv3d": (
        lambda: [image(2, 3, 3, 2), nn.Conv3d(2, 2, 2, groups=2, bias=False), *head(8)],
        36,
        Dense,
    ),
    "conv1d padded by name": (
        lambda: [image(2, 6), nn.Conv1d(2, 3, 3, padding="same"), *head(18)],
        12,
        Dense,
    ),
    "conv2d padded by name": (
        lambda: [image(1, 4, 5), nn.Conv2d(1, 2, 3, padding="same", dilation=2), *head(40)],
        20,
        Dense,
    ),
    "conv3d padded by name": (
        lambda: [image(1, 3, 3, 2), nn.Conv3d(1, 2, 3, padding="same"), *head(36)],
        18,
        Dense,
    ),
    "rms norm": (lambda: [nn.RMSNorm(6), *head(6)], 6, Dense),
    "rms norm over rows": (lambda: [image(3, 4), nn.RMSNorm(4, eps=1e-3), *head(12)], 12, Dense),
    "rnn": (lambda: [image(5, 3), Recurrent("RNN", 3, 4), LastStep(), *head(4)], 15, Dense),
    "gru": (lambda: [image(5, 3), Recurrent("GRU", 3, 4), LastStep(), *head(4)], 15, Dense),
    "gru over two steps": (
        lambda: [image(2, 9), Recurrent("GRU", 9, 4), MeanOfSteps(), *head(4)],
        18,
        Dense,
    ),
    "lstm": (lambda: [image(5, 3), Recurrent("LSTM", 3, 4), MeanOfSteps(), *head(4)], 15, Dense),
    "lstm after another": (
        lambda: [
            *(image(5, 3), nn.Linear(3, 3), Recurrent("LSTM", 3, 4), nn.LayerNorm(4)),
            *(Recurrent("LSTM", 4, 2), LastStep(), *head(2)),
        ],
        15,
        Dense,
    ),
    "attention": (
        lambda: [image(5, 4), SelfAttention(4, 1), MeanOfSteps(), *head(4)],
        20,
        Dense,
    ),
    "attention of two heads": (
        lambda: [image(5, 4), nn.Linear(4, 6), SelfAttention(6, 2), LastStep(), *head(6)],
        20,
        Dense,
    ),
    "embedding": (lambda: [nn.Embedding(7, 3), *head(15)], 5, EmbeddingRows),
    "embedding with padding": (
        lambda: [nn.Embedding(7, 3, padding_idx=2), *head(15)],
        5,
        EmbeddingRows,
    ),
}

# Opacus 1.6 forgets padding_idx and fails on a LayerNorm that has no bias; its hooks take the first
# dimension of an attention's linear layers for the records.
UNKNOWN_TO_OPACUS = (
    *("embedding with padding", "layer norm without bias"),
    *("attention", "attention of two heads"),
)


def module_of(name: str) -> nn.Sequential:
    layers, _, _ = LAYERS[name]
    module = nn.Sequential(*layers()).double().requires_grad_(False)
    seeded(module)
    return module


def patients_of(name: str, records: int) -> Patients:
    _, width, kind = LAYERS[name]
    made = file_of([records] * PATIENTS, width)
    if kind is EmbeddingRows:
        codes = np.random.default_rng(7).integers(0, 7, made.inputs.shape).astype(np.float64)
        return Patients(codes, made.labels, made.patient, made.count)
    return made


def frame_of(patients: Patients) -> Frame:
    """Everybody in one frame, in order: all have the same number of records, few enough."""
    (frame,) = Batches(patients, 32, "cpu", torch.float64).frames()
    return frame


def gradient_of(parts: list[PatientGradients], factors: Floats) -> Floats:
    weights = torch.from_numpy(factors)
    tensors = [t.flatten() for part in parts for t in part.total(weights)]
    return np.asarray(torch.cat(tensors))


class Coded(nn.Module):
    """Takes codes as the floats in which patients' records come."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(self.inner(x.long()))


def opacus_gradients(module: nn.Module, patients: Patients) -> Floats:
    """(P, p): per-record gradients from Opacus's hooks, summed by patient."""
    from opacus import GradSampleModule

    hooked = GradSampleModule(copy.deepcopy(module).requires_grad_(True), loss_reduction="sum")
    inputs = torch.from_numpy(patients.inputs)
    inputs = inputs.long() if type(next(iter(module.children()))) is nn.Embedding else inputs
    losses = binary_loss(hooked(inputs), torch.from_numpy(patients.labels))
    torch.autograd.backward(losses.sum())
    rows = torch.cat([p.grad_sample.flatten(1) for p in hooked.parameters()], dim=1)
    total = torch.zeros((patients.count, rows.shape[1]), dtype=torch.float64)
    return np.asarray(total.index_add_(0, torch.from_numpy(patients.patient), rows))


def autograd_gradients(module: nn.Module, patients: Patients) -> Floats:
    whole = Coded(module) if type(next(iter(module.children()))) is nn.Embedding else module
    who = range(patients.count)
    return np.stack([slow_gradient(whole, binary_loss, only(patients, one)) for one in who])


def agree(found: Floats, wanted: Floats) -> None:
    assert found.shape == wanted.shape
    assert np.linalg.norm(found - wanted) <= 1e-9 * np.linalg.norm(wanted)


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
@pytest.mark.parametrize("records", [1, 2, 3, 5])
@pytest.mark.parametrize("name", LAYERS)
def test_each_patients_norm_and_clipped_gradient_are_what_autograd_and_opacus_find(
    name: str, records: int
) -> None:
    module, patients = module_of(name), patients_of(name, records)
    wanted = autograd_gradients(module, patients)
    if name not in UNKNOWN_TO_OPACUS:
        agree(opacus_gradients(module, patients), wanted)
    parts = BookKeeping(module, binary_loss).contributions(frame_of(patients))
    room = 32 // (1 << (records - 1).bit_length())
    for who in range(PATIENTS):
        agree(gradient_of(parts, np.eye(room)[who]), wanted[who])
    squared = np.asarray(sum(part.norm_squared for part in parts))[:PATIENTS]
    true = (wanted**2).sum(1)
    assert (squared >= true * (1 - 1e-12)).all()
    np.testing.assert_allclose(np.sqrt(squared), np.sqrt(true), rtol=1e-9)
    for clip in (0.01, float(np.median(np.sqrt(true))), 1e6):
        factors = np.zeros(room)
        factors[:PATIENTS] = np.minimum(1.0, clip / np.sqrt(squared))
        clipped = wanted * np.minimum(1.0, clip / np.sqrt(true))[:, None]
        agree(gradient_of(parts, factors), clipped.sum(0))


@pytest.mark.parametrize("name", LAYERS)
def test_the_layer_is_kept_in_the_form_that_its_sizes_call_for(name: str) -> None:
    parts = BookKeeping(module_of(name), binary_loss).contributions(frame_of(patients_of(name, 1)))
    assert type(parts[0]) is LAYERS[name][2]


@pytest.mark.parametrize(
    "name",
    [
        *("gru over two steps", "attention"),
        *("linear over two rows", "linear over two rows without bias"),
    ],
)
def test_a_large_layer_over_steps_is_kept_as_products(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bookkeeping, "_SMALL", 0)
    monkeypatch.setattr(bookkeeping, "_FEW", 256)
    module, patients = module_of(name), patients_of(name, 3)
    parts = BookKeeping(module, binary_loss).contributions(frame_of(patients))
    assert type(parts[0]) is SumOfRankOne
    for who, wanted in enumerate(autograd_gradients(module, patients)):
        agree(gradient_of(parts, np.eye(8)[who]), wanted)


def test_a_group_norm_without_bias_has_one_gradient() -> None:
    module = nn.Sequential(nn.GroupNorm(2, 6, bias=False), *head(6)).double().requires_grad_(False)
    parts = BookKeeping(module, binary_loss).contributions(frame_of(file_of([1] * PATIENTS, 6)))
    assert len(gradient_of(parts, np.ones(32))) == sum(p.numel() for p in module.parameters())


def test_categorical_loss_has_the_gradient_that_opacus_finds() -> None:
    module = seeded(nn.Sequential(nn.Linear(4, 3)).double()).requires_grad_(False)
    patients = file_of([2] * PATIENTS, 4)
    parts = BookKeeping(module, categorical_loss).contributions(frame_of(patients))
    wanted = [slow_gradient(module, categorical_loss, only(patients, i)) for i in range(PATIENTS)]
    agree(gradient_of(parts, np.ones(16)), np.sum(wanted, axis=0))


@st.composite
def opposing_rows(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """ids (1, L), a (1, L, d) and b (1, L, o) of one patient: big rows that nearly cancel."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    pairs, d, o = (draw(st.integers(1, 4)) for _ in range(3))
    large = draw(st.sampled_from([1.0, 1e6, 1e12]))
    left_over = draw(st.sampled_from([0.0, 1e-16, 1e-12, 1e-6]))
    a, b = generator.normal(size=(1, pairs, d)) * large, generator.normal(size=(1, pairs, o))
    nearly = 1 + left_over * generator.normal(size=(1, pairs, o))
    ids = generator.integers(0, 3, (1, pairs))
    return (
        torch.from_numpy(np.concatenate([ids, ids], axis=1)),
        torch.from_numpy(np.concatenate([a, a], axis=1)),
        torch.from_numpy(np.concatenate([b * large, -b * nearly * large], axis=1)),
    )


@settings(max_examples=150, deadline=None)
@given(opposing_rows(), st.sampled_from([1e-3, 0.5, 1e3]), st.booleans())
def test_rows_that_nearly_cancel_never_contribute_more_than_the_clip_norm(
    rows: tuple[torch.Tensor, torch.Tensor, torch.Tensor], clip: float, bias: bool
) -> None:
    ids, a, b = rows
    shape = (b.shape[2], a.shape[2])
    parts: list[PatientGradients] = [SumOfRankOne(a, b, bias, shape), EmbeddingRows(ids, b, 3)]
    for part in parts:
        norm = math.sqrt(part.norm_squared.item())
        factor = min(1.0, clip / norm) if norm else 1.0
        assert np.linalg.norm(gradient_of([part], np.array([factor]))) <= clip * (1 + 1e-9)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([torch.float32, torch.float64]),
    st.sampled_from([1.0, 1e6, 1e12]),
)
def test_a_patient_whose_records_nearly_cancel_contributes_at_most_the_clip_norm(
    seed: int, dtype: torch.dtype, large: float
) -> None:
    # At weight zero the residuals are +1/2 and -1/2, so the gradient is half the rows' difference.
    generator = np.random.default_rng(seed)
    row = generator.normal(size=40) * large
    inputs = np.stack([row, row * (1 + 1e-15), row, row + 1e-3])
    patients = Patients(inputs, np.array([0.0, 1, 0, 1]), np.zeros(4, dtype=np.int64), 1)
    module = nn.Sequential(nn.Linear(40, 1)).to(dtype)
    step = PrivateStep(module, binary_loss, 0.5, examples=examples(40), batch=4)
    found = step.clipped_sum(np.zeros(41), step.batches(patients))
    assert np.linalg.norm(found) <= 0.5 * (1 + 1e-9)
