"""Book-keeping takes only structures that keep records apart; for others the step says why not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from opacus.layers import DPGRU, DPLSTM, DPMultiheadAttention
from opacus.layers.dp_rnn import DPGRUCell
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from flo.errors import StudyError
from flo.privacy.gradients.bookkeeping import BookKeeping, Loss, binary_loss
from flo.privacy.gradients.step import PrivateStep
from flo.study.joints import Frozen
from flo.study.sequences import LastStep, Recurrent, SelfAttention
from tests.privacy.slow_step import examples, file_of, seeded, slow_sum, summed, weights_of

WIDTH = 4


class OwnSequential(nn.Sequential):
    pass


class OwnLinear(nn.Linear):
    pass


def foreign_loss(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return (outputs.squeeze(1) - labels) ** 2


def linear(inputs: int = 4, outputs: int = 1) -> nn.Linear:
    return nn.Linear(inputs, outputs)


def used_twice() -> nn.Module:
    layer = linear(4, 4)
    return nn.Sequential(layer, nn.Tanh(), layer, nn.Linear(4, 1))


def shared_parameter() -> nn.Module:
    one, other = linear(4, 4), linear(4, 4)
    other.weight = one.weight
    return nn.Sequential(one, nn.Tanh(), other, nn.Linear(4, 1))


def hooked(register: str) -> nn.Module:
    layer = linear()
    getattr(layer, register)(lambda *_: None)
    return nn.Sequential(layer)


def convolution(**changes: int | str) -> nn.Module:
    conv = nn.Conv1d(2, 2, 3, **changes)  # type: ignore[arg-type]
    return nn.Sequential(nn.Unflatten(1, (2, 2)), conv, nn.Flatten())


def recurrent(core: nn.Module, out: int = 3) -> nn.Module:
    layer = Recurrent("GRU", 2, 3)
    layer.core = core
    return nn.Sequential(nn.Unflatten(1, (2, 2)), layer, LastStep(), linear(out))


def attention(core: nn.Module) -> nn.Module:
    layer = SelfAttention(2, 1)
    layer.core = core
    return nn.Sequential(nn.Unflatten(1, (2, 2)), layer, LastStep(), linear(2))


class OwnCell(DPGRUCell):  # type: ignore[misc]
    """Compares its records."""

    def forward(self, input: torch.Tensor, *more: object) -> torch.Tensor:
        found: torch.Tensor = super().forward(input - input.mean(0), *more)
        return found


def own_cell() -> nn.Module:
    core = DPGRU(2, 3, batch_first=True)
    core.l0.__class__ = OwnCell
    return recurrent(core)


def hidden_cell() -> nn.Module:
    core = DPGRU(2, 3, batch_first=True)
    core.cells = [OwnCell(2, 3, bias=True)]
    return recurrent(core)


def hooked_cell() -> nn.Module:
    core = DPGRU(2, 3, batch_first=True)
    core.l0.ih.register_forward_hook(lambda _, __, y: y - y.mean(0))
    return recurrent(core)


class OwnFrozen(Frozen):
    """Compares its records."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x - x.mean(0))


def frozen(layer: nn.Module, kind: type[Frozen] = Frozen) -> nn.Module:
    numbers = {name: one.detach().numpy() for name, one in layer.named_parameters()}
    return nn.Sequential(kind(layer, numbers), linear())


def frozen_with_a_parameter() -> nn.Module:
    made = frozen(linear(4, 4))
    made[0].layer.register_parameter("more", nn.Parameter(torch.ones(1)))  # type: ignore[index]
    return made


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "not a Sequential": (linear, "Linear is not a plain Sequential"),
    "a subclass of Sequential": (lambda: OwnSequential(linear()), "OwnSequential is not a plain"),
    "a subclass inside": (
        lambda: nn.Sequential(OwnSequential(linear())),
        "OwnSequential is not a plain",
    ),
    "a subclass of a layer": (lambda: nn.Sequential(OwnLinear(4, 1)), "OwnLinear has no rule"),
    "a reparametrised layer": (
        lambda: nn.Sequential(weight_norm(linear())),
        "ParametrizedLinear has no rule",
    ),
    "a layer used twice": (used_twice, "a layer is used twice"),
    "a shared parameter": (shared_parameter, "two layers share a parameter"),
    "a forward hook": (lambda: hooked("register_forward_hook"), "Linear has a hook"),
    "a forward pre-hook": (
        lambda: hooked("register_forward_pre_hook"),
        "Linear has a hook",
    ),
    "a backward hook": (
        lambda: hooked("register_full_backward_hook"),
        "Linear has a hook",
    ),
    "a circular convolution": (
        lambda: convolution(padding=1, padding_mode="circular"),
        "Conv1d has settings",
    ),
    "a recurrent layer both ways": (
        lambda: recurrent(DPGRU(2, 3, batch_first=True, bidirectional=True)),
        "Recurrent has settings",
    ),
    "a recurrent layer of two": (
        lambda: recurrent(DPLSTM(2, 3, num_layers=2, batch_first=True)),
        "Recurrent has settings",
    ),
    "a recurrent layer over records": (lambda: recurrent(DPGRU(2, 3)), "Recurrent has settings"),
    "torch's own recurrent layer": (
        lambda: recurrent(nn.GRU(2, 3, batch_first=True)),
        "Recurrent has settings",
    ),
    "a cell of one's own": (own_cell, "Recurrent has settings"),
    "a cell that hides another": (hidden_cell, "Recurrent has settings"),
    "a hook inside a recurrent layer": (hooked_cell, "RNNLinear has a hook"),
    "attention over records": (
        lambda: attention(DPMultiheadAttention(2, 1, batch_first=True)),
        "SelfAttention has settings",
    ),
    "attention with dropout": (
        lambda: attention(DPMultiheadAttention(2, 1, dropout=0.1)),
        "SelfAttention has settings",
    ),
    "attention with a bias of its own": (
        lambda: attention(DPMultiheadAttention(2, 1, add_bias_kv=True)),
        "SelfAttention has settings",
    ),
    "torch's own attention": (
        lambda: attention(nn.MultiheadAttention(2, 1)),
        "SelfAttention has settings",
    ),
    "batch norm": (lambda: nn.Sequential(nn.BatchNorm1d(4), linear()), "BatchNorm1d has no rule"),
    "dropout": (lambda: nn.Sequential(nn.Dropout(0.0), linear()), "Dropout has no rule"),
    "softmax over the batch": (
        lambda: nn.Sequential(nn.Softmax(0), linear()),
        "Softmax has no rule",
    ),
    "a flattened batch": (
        lambda: nn.Sequential(linear(), nn.Flatten(0), nn.Unflatten(0, (-1, 1))),
        "Flatten has settings",
    ),
    "an unflattened batch": (
        lambda: nn.Sequential(linear(), nn.Unflatten(0, (-1, 1)), nn.Flatten(0, 1)),
        "Unflatten has settings",
    ),
    "an embedding that is renormalised": (
        lambda: nn.Sequential(nn.Embedding(3, 2, max_norm=1.0), nn.Flatten(), linear(8)),
        "Embedding has settings",
    ),
    "an embedding scaled by frequency": (
        lambda: nn.Sequential(nn.Embedding(3, 2, scale_grad_by_freq=True), nn.Flatten(), linear(8)),
        "Embedding has settings",
    ),
    "a frozen layer of one's own": (
        lambda: frozen(linear(4, 4), OwnFrozen),
        "OwnFrozen has no rule",
    ),
    "frozen batch norm": (lambda: frozen(nn.BatchNorm1d(4)), "BatchNorm1d has no rule"),
    "a frozen embedding": (lambda: frozen(nn.Embedding(3, 4)), "Embedding has no rule"),
    "a frozen subclass of a layer": (lambda: frozen(OwnLinear(4, 4)), "OwnLinear has no rule"),
    "a frozen circular convolution": (
        lambda: frozen(nn.Conv1d(2, 2, 3, padding=1, padding_mode="circular")),
        "Conv1d has settings",
    ),
    "a frozen layer that keeps a parameter": (frozen_with_a_parameter, "Linear has parameters"),
    "a layer norm without weights": (
        lambda: nn.Sequential(nn.LayerNorm(4, elementwise_affine=False), linear()),
        "LayerNorm has settings",
    ),
    "a group norm without weights": (
        lambda: nn.Sequential(nn.GroupNorm(2, 4, affine=False), linear()),
        "GroupNorm has settings",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_structure_that_is_not_known_to_keep_records_apart_is_refused_by_name(name: str) -> None:
    make, reason = REFUSED[name]
    with pytest.raises(ValueError, match=reason):
        BookKeeping(make(), binary_loss)


def test_a_loss_that_is_not_ours_is_refused() -> None:
    with pytest.raises(ValueError, match="loss is not one of flo's own"):
        BookKeeping(nn.Sequential(linear()), foreign_loss)


def doubled_gradient(_: nn.Module, gradients: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
    return (2 * gradients[0],)


def backward_pre_hook() -> nn.Module:
    layer = linear()
    layer.register_full_backward_pre_hook(doubled_gradient)
    return nn.Sequential(layer)


def hook_on_the_whole() -> nn.Module:
    module = nn.Sequential(linear())
    module.register_forward_hook(lambda _, __, output: output - output.mean(0))
    return module


def hook_on_a_part() -> nn.Module:
    inner = nn.Sequential(linear())
    inner.register_forward_pre_hook(lambda _, inputs: (inputs[0] - inputs[0].mean(0),))
    return nn.Sequential(inner)


def replaced_forward() -> nn.Module:
    layer = linear()
    vars(layer)["forward"] = lambda x: x[:, :1] - x[:, :1].mean(0)
    return nn.Sequential(layer)


def in_place_activation() -> nn.Module:
    return nn.Sequential(linear(4, 6), nn.Tanh(), linear(6, 6), nn.ReLU(inplace=True), linear(6))


@pytest.mark.parametrize(
    "make",
    [
        backward_pre_hook,
        hook_on_the_whole,
        hook_on_a_part,
        replaced_forward,
        in_place_activation,
    ],
)
def test_what_changes_a_plain_layer_from_outside_is_refused(make: Callable[[], nn.Module]) -> None:
    with pytest.raises(ValueError, match=r"Linear|Sequential|ReLU"):
        BookKeeping(make(), binary_loss)


@pytest.mark.slow
def test_an_in_place_activation_leaves_the_gradient_right(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module, patients = seeded(in_place_activation().double()), file_of([1] * 20, WIDTH)
    plain = nn.Sequential(*[nn.ReLU() if type(m) is nn.ReLU else m for m in module.children()])
    wanted = slow_sum(plain, binary_loss, patients, 1e6)
    weights = weights_of(module)
    monkeypatch.setattr(PrivateStep, "_try_out", lambda *_: None)  # whatever this machine's kernels
    step = PrivateStep(module, binary_loss, 1e6, examples=examples(WIDTH), batch=16)
    np.testing.assert_allclose(summed(step, weights, patients), wanted, atol=1e-9)


class ByItsSum(nn.Module):
    """Looks at a value to decide how to go on, which cannot be done for many at once."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(self.module(x if bool(x.sum() > 0) else 0 + x))


# Name -> (module, loss, the ways that may be taken, what the reasons say).
CHOSEN: dict[str, tuple[Callable[[], nn.Module], Loss, set[str], str]] = {
    "subclass": (
        lambda: OwnSequential(linear()),
        binary_loss,
        {"vmap", "loop"},
        "not book-keeping: OwnSequential is not a plain Sequential",
    ),
    "layer used twice": (
        used_twice,
        binary_loss,
        {"vmap", "loop"},
        "not book-keeping: a layer is used twice",
    ),
    "shared parameter": (
        shared_parameter,
        binary_loss,
        {"vmap", "loop"},
        "not book-keeping: two layers share a parameter",
    ),
    "circular convolution": (
        lambda: nn.Sequential(
            *(nn.Unflatten(1, (2, 2)), nn.Conv1d(2, 2, 2, padding=1, padding_mode="circular")),
            *(nn.Flatten(), linear(6)),
        ),
        binary_loss,
        {"vmap", "loop"},
        "not book-keeping: Conv1d has settings without a rule",
    ),
    "recurrent both ways": (
        lambda: nn.Sequential(recurrent(DPGRU(2, 3, batch_first=True, bidirectional=True), out=6)),
        binary_loss,
        {"vmap", "loop"},
        "not book-keeping: Recurrent has settings without a rule",
    ),
    "foreign loss": (
        lambda: nn.Sequential(linear()),
        foreign_loss,
        {"vmap", "loop"},
        "not book-keeping: the loss is not one of flo's own",
    ),
    "control flow": (
        lambda: ByItsSum(linear()),
        binary_loss,
        {"loop"},
        "not vmap: ",
    ),
    "control flow around a layer used twice": (
        lambda: ByItsSum(used_twice()),
        binary_loss,
        {"loop"},
        "not vmap: ",
    ),
}


@pytest.mark.parametrize("name", CHOSEN)
def test_the_step_takes_another_way_says_why_and_finds_the_same_sum(name: str) -> None:
    make, loss, ways, reason = CHOSEN[name]
    module, patients = seeded(make().double()), file_of([1, 2, 3, 1, 5, 8], WIDTH)
    weights, wanted = weights_of(module), slow_sum(module, loss, patients, 0.5)
    step = PrivateStep(module, loss, 0.5, examples=examples(WIDTH), batch=8, most_records=8)
    assert step.way.name in ways
    assert any(line.startswith(reason) for line in step.reasons)
    np.testing.assert_allclose(summed(step, weights, patients), wanted, atol=1e-11)


def test_a_model_for_which_there_is_no_way_is_refused_with_every_reason() -> None:
    module = nn.Sequential(linear(4, 4), nn.BatchNorm1d(4), linear())
    with pytest.raises(StudyError) as refused:
        PrivateStep(module, binary_loss, 0.5, examples=examples(WIDTH), batch=8, most_records=8)
    for way in ("book-keeping: BatchNorm1d has no rule", "not vmap: ", "not loop: "):
        assert way in str(refused.value)
    assert "layer 1 (BatchNorm1d): BatchNorm cannot support training with" in str(refused.value)
    assert "GroupNorm" in str(refused.value.hint)


class Torchs(nn.Module):
    """Torch's own recurrent layer, which only a loop can train."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.out = nn.GRU(2, 3, batch_first=True), linear(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.out(self.cell(x.reshape(-1, 2, 2))[0][:, -1])
        return found


def test_torchs_own_recurrent_layer_is_trained_one_patient_at_a_time_and_named() -> None:
    module, patients = seeded(Torchs().double()), file_of([1, 2, 3], WIDTH)
    step = PrivateStep(module, binary_loss, 0.5, examples=examples(WIDTH), batch=4, most_records=4)
    assert step.way.name in {"vmap", "loop"}
    assert step.reasons[0].startswith("layer cell (GRU): We do not support nn.GRU")
    wanted = slow_sum(seeded(Torchs().double()), binary_loss, patients, 0.5)
    found = summed(step, weights_of(seeded(Torchs().double())), patients)
    np.testing.assert_allclose(found, wanted, atol=1e-11)
