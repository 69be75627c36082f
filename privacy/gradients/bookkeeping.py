"""Clipping by book-keeping: one backward pass, from which each patient's gradient is recomputed.

A layer's gradient for a patient is a function of the layer's input a and of the loss's gradient b
at its output. One ordinary pass over the micro-batch yields both (Bu, Wang, Zha, Karypis,
"Differentially Private Optimization on Large Model at Small Cost", 2023; mixed choice of norms: Bu,
Mao, Xu 2022). No per-patient copy of the model is needed.

No mixing, by construction: only an ``nn.Sequential`` or a ``Joined`` of the layers listed here,
each used once and of exactly the listed type, is accepted. Such a model treats one record at a
time; other models go to ``flo.privacy.gradients.per_sample``. Layers without a rule of FLO's use
Opacus' per-record rule.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional

from flo.arrays import Floats
from flo.privacy.gradients import composites
from flo.privacy.gradients.batches import Frame
from flo.privacy.gradients.composites import COMPOSITES
from flo.privacy.gradients.contributions import (
    Dense,
    EmbeddingRows,
    PatientGradients,
    RankOne,
    SumOfRankOne,
)
from flo.study.classes import Classes
from flo.study.joints import (
    Add,
    Concat,
    Frozen,
    Gain,
    Joined,
    Mean,
    Multiply,
    Offset,
    Permute,
    Product,
    Scale,
    Shift,
    Slice,
    Softmax,
)
from flo.study.outcome import Outcome
from flo.study.quantity import Quantity
from flo.study.sequences import LastStep, MeanOfSteps, Steps
from flo.study.time_to_event import TimeToEvent

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
SavedTensors = tuple[nn.Module, torch.Tensor, torch.Tensor]
Keep = Callable[[nn.Module, Any, torch.Tensor], torch.Tensor]

_WIDTH, _FEW = 16, 256
_SMALL = 1 << 15  # numbers of a patient's gradient for one layer
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def binary_loss(log_odds: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return each record's cross-entropy (n,) for log odds (n, 1) and labels (n,) 0 or 1."""
    return functional.binary_cross_entropy_with_logits(
        log_odds.squeeze(1), labels, reduction="none"
    )


def categorical_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return each record's cross-entropy (n,) for logits (n, classes) and labels (n,).

    A label outside the classes counts as the nearest one, so that it cannot make a step fail.
    """
    return functional.cross_entropy(logits, _codes(labels, logits.shape[1]), reduction="none")


class HazardLoss:
    """Each record's negative log likelihood (n,) of the time to an event.

    By ``flo.study.time_to_event``.
    For log odds s (n, 1) of the hazard in every period and codes (n,): for a patient who was
    followed for f periods, f·log(1 + eˢ), less s if the event came. A label that is no code counts
    as the nearest one.
    """

    def __init__(self, followed: Floats, had_event: Floats) -> None:
        """``followed``, ``had_event``: by code, (codes,), as in ``flo.study.time_to_event``."""
        self._followed, self._had_event = followed, had_event

    def __call__(self, log_odds: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the losses, (n,)."""
        score, code = log_odds.squeeze(1), _codes(labels, len(self._followed))
        followed, had_event = (
            torch.as_tensor(by_code, dtype=score.dtype, device=score.device)[code]
            for by_code in (self._followed, self._had_event)
        )
        return followed * functional.softplus(score) - had_event * score


class LevelLoss:
    """Each record's cross-entropy (n,) of a quantity, by ``flo.study.quantity``.

    For log odds (n, 1) of the share of its steps that a record reaches, and codes (n,), 0 to
    ``steps``. A label beyond them counts as the nearest one, and one that is no number as 0.
    """

    def __init__(self, steps: int) -> None:
        self._steps = steps

    def __call__(self, log_odds: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the losses, (n,)."""
        return binary_loss(log_odds, torch.nan_to_num(labels).clamp(0, self._steps) / self._steps)


def _codes(values: torch.Tensor, count: int) -> torch.Tensor:
    """Convert to integers 0 .. count-1; other values become the nearest one."""
    return torch.nan_to_num(values).clamp(0, count - 1).long()


def loss_of(outcome: Outcome | None) -> Loss:
    """Return the loss that a study's model is trained with; None: an outcome of yes or no."""
    match outcome:
        case TimeToEvent():
            return HazardLoss(outcome.followed, outcome.had_event)
        case Quantity():
            return LevelLoss(outcome.codes - 1)
        case Classes():
            return categorical_loss
        case None:
            return binary_loss


ROW_WISE_LOSSES: tuple[Loss, ...] = (binary_loss, categorical_loss)


class Calls:
    """Layers with parameters as they were called: inputs, and the outputs that slopes are asked at.

    Inside composites a layer may be called more than once.
    """

    def __init__(self) -> None:
        self._made: list[tuple[nn.Module, int, torch.Tensor]] = []
        self.outputs: list[torch.Tensor] = []

    def of(self, layer: nn.Module) -> Keep:
        """Return what notes a call, in ``layer`` or of it."""
        place = COMPOSITES.get(type(layer), 0)  # the dimension of inputs that counts records

        def keep(part: nn.Module, inputs: Any, y: torch.Tensor) -> torch.Tensor:
            y = y if y.requires_grad else y.requires_grad_()
            self._made.append((part, place, inputs[0].detach()))
            self.outputs.append(y)
            return y

        return keep

    def with_slopes(self, slopes: Sequence[torch.Tensor]) -> list[SavedTensors]:
        """Return each layer with its a and b. ``slopes``: of what is summed, at the outputs."""
        used: dict[nn.Module, list[tuple[torch.Tensor, torch.Tensor]]] = {}
        for (layer, place, a), b in zip(self._made, slopes, strict=True):
            used.setdefault(layer, []).append((a.transpose(0, place), b.transpose(0, place)))
        return [(layer, *composites.joined(times)) for layer, times in used.items()]


class BookKeeping:
    """Computes the patients' gradients of a frame, layer by layer."""

    name = "book-keeping"

    def __init__(
        self, module: nn.Module, loss: Loss, *, padded: bool = False, whole: bool = True
    ) -> None:
        """Raise ValueError, with the reason, for a module or loss that has no rule.

        ``padded``: widen linear layers with zeros, because kernels for narrow ones often treat the
        last rows differently. The results are the same. ``whole``: compute small gradients over
        steps themselves, which is quicker, and not only their products.
        """
        self._padded, self._whole = padded, whole
        if loss not in ROW_WISE_LOSSES and not isinstance(loss, HazardLoss | LevelLoss):
            raise ValueError("the loss is not one of flo's own")
        self.layers, self.of = _layers(module)
        self.loss = loss

    def observables(self, frame: Frame) -> list[torch.Tensor]:
        """Return all values computed for a patient, (P, …) each; they must not depend on others."""
        losses, kept = self._pass(frame)
        return [frame.by_patient(t) for t in (losses, *self.seen(frame, kept))]

    def seen(self, frame: Frame, kept: list[SavedTensors]) -> list[torch.Tensor]:
        """Return all that gradients are computed from, and what is computed of it, (P·R, …) or
        (P, …) each."""
        rows = [t for _, a, b in kept for t in (a, b)]
        for part in self._parts(frame, kept):
            rows += part.gradients if isinstance(part, Dense) else []
            rows += [] if isinstance(part, SumOfRankOne | EmbeddingRows) else [part.norm_squared]
        return rows

    def contributions(self, frame: Frame) -> list[PatientGradients]:
        """Return one part for each layer with parameters, in the model's order."""
        _, kept = self._pass(frame)
        return self._parts(frame, kept)

    def through(self, layer: Any, *taken: torch.Tensor, keep: Keep) -> torch.Tensor:
        """Return a layer's output, after ``keep`` of each layer with parameters in it."""
        if type(layer) in COMPOSITES:
            with composites.kept(composites.linear_layers(layer), keep):
                return cast(torch.Tensor, layer(*taken))
        y = self._plain(layer, *taken)
        return keep(layer, taken, y) if type(layer) in _RULES else y

    def _plain(self, layer: Any, x: torch.Tensor, *more: torch.Tensor) -> torch.Tensor:
        if type(layer) is Frozen:
            layer = layer.layer
        kind: type[nn.Module] = type(layer)
        if kind is nn.Embedding:
            x = _codes(x, layer.num_embeddings)
        if self._padded and kind is nn.Linear:
            outputs, inputs = layer.weight.shape
            wide = functional.pad(layer.weight, (0, -inputs % _WIDTH, 0, -outputs % _WIDTH))
            y = functional.linear(functional.pad(x, (0, -inputs % _WIDTH)), wide)[..., :outputs]
            return y if layer.bias is None else y + layer.bias
        out: torch.Tensor = layer(x, *more)
        return out

    def _parts(self, frame: Frame, kept: list[SavedTensors]) -> list[PatientGradients]:
        return [
            _linear(layer, a, b, frame.patients, whole=self._whole)
            if isinstance(layer, nn.Linear)  # also of those inside composites
            else _RULES[type(layer)](layer, a, b, frame.patients)
            for layer, a, b in kept
        ]

    def _pass(self, frame: Frame) -> tuple[torch.Tensor, list[SavedTensors]]:
        """Return losses (P·R,), and each layer with parameters with its a and b."""
        calls = Calls()
        outputs = [frame.inputs]  # place p is at p + 1
        for layer, of in zip(self.layers, self.of, strict=True):
            taken = [outputs[place + 1] for place in of]
            outputs.append(self.through(layer, *taken, keep=calls.of(layer)))
        losses = self.loss(outputs[-1], frame.labels)
        # Padding weighs 0, so its b is zero. A sum, because torch imports sympy for slopes of more
        # than one number; one record's loss of any size leaves the others' slopes as they are.
        slopes = torch.autograd.grad(losses @ frame.weights, calls.outputs)
        return losses.detach(), calls.with_slopes(slopes)


def _layers(module: nn.Module) -> tuple[list[nn.Module], list[tuple[int, ...]]]:
    """Return the layers, and the places of those whose outputs each takes.

    Raises ValueError unless all are known to be row-wise.
    """
    if type(module) is Joined:
        leaves, of = list(module), module.of
    else:
        leaves = _leaves(module)
        of = [(place - 1,) for place in range(len(leaves))]
    if len(of) != len(leaves) or any(not -1 <= p < n for n, own in enumerate(of) for p in own):
        raise ValueError("a layer takes the output of a later one")
    if len({id(leaf) for leaf in leaves}) != len(leaves):
        raise ValueError("a layer is used twice")
    parameters = [id(p) for leaf in leaves for p in leaf.parameters()]
    if len(set(parameters)) != len(parameters):
        raise ValueError("two layers share a parameter")
    for changed in module.modules():
        if any(getattr(changed, hooks) for hooks in _HOOKS) or "forward" in vars(changed):
            raise ValueError(f"{type(changed).__name__} has a hook or a replaced forward method")
    for leaf in leaves:
        _refuse_without_rule(leaf)
    return leaves, of


def _refuse_without_rule(leaf: nn.Module) -> None:
    """Raise ValueError for a layer that is not known to be row-wise.

    The numbers of a frozen one are buffers, which it never changes.
    """
    frozen = type(leaf) is Frozen
    layer = getattr(leaf, "layer", None) if frozen else leaf
    assert layer is not None
    kind = type(layer)
    if getattr(layer, "inplace", False):
        raise ValueError(f"{kind.__name__} overwrites tensors that book-keeping needs")
    if kind not in (_FROZEN if frozen else {*_PLAIN, *_RULES, *COMPOSITES}):
        raise ValueError(f"{kind.__name__} has no rule")
    if kind in COMPOSITES:
        composites.linear_layers(layer)
    if not _SETTINGS.get(kind, lambda _: True)(layer):
        raise ValueError(f"{kind.__name__} has settings without a rule")
    if next(layer.parameters() if frozen else layer.buffers(), None) is not None:
        raise ValueError(f"{kind.__name__} has {'parameters' if frozen else 'buffers'}")


def _leaves(module: nn.Module) -> list[nn.Module]:
    """Return the leaves of a Sequential. Raises ValueError for another module."""
    if type(module) is not nn.Sequential:
        raise ValueError(f"{type(module).__name__} is not a plain Sequential")
    found: list[nn.Module] = []
    for child in module:
        found += _leaves(child) if isinstance(child, nn.Sequential) else [child]
    return found


def _linear(
    layer: Any, a: torch.Tensor, b: torch.Tensor, patients: int, *, whole: bool = True
) -> PatientGradients:
    over_steps = a.dim() > 2
    a = a.reshape(patients, -1, layer.in_features)
    b = b.reshape(patients, -1, layer.out_features)
    bias, shape = layer.bias is not None, layer.weight.shape
    if a.shape[1] == 1:
        return RankOne(a[:, 0].double(), b[:, 0].double(), bias)
    if whole and over_steps and math.prod(shape) <= _SMALL:
        return _whole(layer, a, b)
    if a.shape[1] <= _FEW or _products_are_smaller(a.shape[1], shape):
        return SumOfRankOne(a, b, bias, shape)
    return _whole(layer, a, b)


def _whole(layer: Any, a: torch.Tensor, b: torch.Tensor) -> Dense:
    weight = torch.bmm(b.transpose(1, 2), a)
    return Dense([weight] if layer.bias is None else [weight, b.sum(1)])


def _conv(layer: Any, a: torch.Tensor, b: torch.Tensor, patients: int) -> PatientGradients:
    """Treat a convolution as a Linear over its windows: a (N, d, T), b (N, o, T)."""
    if layer.groups != 1 or isinstance(layer.padding, str):
        return _by_opacus(layer, a, b, patients)
    settings = {
        name: getattr(layer, name) for name in ("kernel_size", "dilation", "padding", "stride")
    }
    if a.dim() == 3:  # Conv1d: an image one pixel high
        a = a.unsqueeze(2)
        high = {"kernel_size": 1, "dilation": 1, "padding": 0, "stride": 1}
        settings = {name: (high[name], *value) for name, value in settings.items()}
    a, b = functional.unfold(a, **settings), b.flatten(2)
    bias, shape = layer.bias is not None, layer.weight.shape
    records = len(a) // patients
    if _products_are_smaller(records * a.shape[2], shape):
        a, b = a.transpose(1, 2), b.transpose(1, 2)
        return SumOfRankOne(
            a.reshape(patients, -1, a.shape[2]), b.reshape(patients, -1, b.shape[2]), bias, shape
        )
    weight = _of_patients(torch.bmm(b, a.transpose(1, 2)), patients).reshape(patients, *shape)
    return Dense([weight, _of_patients(b.sum(2), patients)] if bias else [weight])


def _products_are_smaller(length: int, shape: tuple[int, ...]) -> bool:
    """Return whether L×L scalar products are fewer numbers than one gradient of that shape."""
    return 2 * length**2 <= math.prod(shape)


def _of_patients(gradients: torch.Tensor, patients: int) -> torch.Tensor:
    """Sum records' gradients (P·R, …) to patients' gradients (P, …)."""
    if len(gradients) == patients:
        return gradients
    return gradients.reshape(patients, -1, *gradients.shape[1:]).sum(1)


def _layer_norm(layer: Any, a: torch.Tensor, b: torch.Tensor, patients: int) -> PatientGradients:
    normal = functional.layer_norm(a, layer.normalized_shape, eps=layer.eps)
    inner = layer.weight.shape

    def summed(t: torch.Tensor) -> torch.Tensor:  # (N, …, *inner) -> (P, *inner)
        return t.reshape(patients, -1, *inner).sum(1)

    return Dense([summed(b * normal)] if layer.bias is None else [summed(b * normal), summed(b)])


def _group_norm(layer: Any, a: torch.Tensor, b: torch.Tensor, patients: int) -> PatientGradients:
    normal = functional.group_norm(a, layer.num_groups, eps=layer.eps)

    def summed(t: torch.Tensor) -> torch.Tensor:  # (N, channels, …) -> (P, channels)
        return _of_patients(t.flatten(2).sum(2) if t.dim() > 2 else t, patients)

    return Dense([summed(b * normal)] if layer.bias is None else [summed(b * normal), summed(b)])


def _embedding(layer: Any, a: torch.Tensor, b: torch.Tensor, patients: int) -> PatientGradients:
    ids = _codes(a, layer.num_embeddings).reshape(patients, -1)
    b = b.reshape(patients, -1, layer.embedding_dim).double()
    if layer.padding_idx is not None:
        b = b.masked_fill((ids == layer.padding_idx)[:, :, None], 0)
    return EmbeddingRows(ids, b, layer.num_embeddings)


def _offset(layer: Any, a: torch.Tensor, b: torch.Tensor, patients: int) -> PatientGradients:
    return Dense([_of_patients(_of_shape(b, layer.bias.shape), patients)])


def _gain(layer: Any, a: torch.Tensor, b: torch.Tensor, patients: int) -> PatientGradients:
    return Dense([_of_patients(_of_shape(a * b, layer.weight.shape), patients)])


def _of_shape(gradients: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """Sum (n, …) over the sides that a parameter of ``shape`` repeats."""
    repeated = [side for side, size in enumerate(shape, 1) if size != gradients.shape[side]]
    return gradients.sum(repeated, keepdim=True) if repeated else gradients


def _by_opacus(layer: Any, a: torch.Tensor, b: torch.Tensor, patients: int) -> PatientGradients:
    """Apply Opacus' per-record rule, for layers without a rule of FLO's."""
    from opacus import GradSampleModule  # takes seconds to import

    layer.requires_grad_(True)  # Opacus' rules skip frozen parameters
    try:
        by_parameter = GradSampleModule.GRAD_SAMPLERS[type(layer)](layer, [a], b)
    finally:
        layer.requires_grad_(False)
    return Dense([_of_patients(by_parameter[p].detach(), patients) for p in layer.parameters()])


Rule = Callable[[Any, torch.Tensor, torch.Tensor, int], PatientGradients]
_RULES: dict[type[nn.Module], Rule] = {
    nn.Linear: _linear,
    nn.Conv1d: _conv,
    nn.Conv2d: _conv,
    nn.LayerNorm: _layer_norm,
    nn.GroupNorm: _group_norm,
    nn.Embedding: _embedding,
    Offset: _offset,
    Gain: _gain,
    nn.Conv3d: _by_opacus,
    nn.InstanceNorm1d: _by_opacus,
    nn.InstanceNorm2d: _by_opacus,
    nn.InstanceNorm3d: _by_opacus,
    nn.RMSNorm: _by_opacus,
}
_PLAIN = frozenset(
    {
        *(nn.Identity, nn.ReLU, nn.Tanh, nn.Sigmoid, nn.GELU, nn.SiLU, nn.ELU, nn.LeakyReLU),
        *(nn.Softplus, nn.Flatten, nn.Unflatten, nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d),
        *(nn.AvgPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.MaxPool3d, nn.AvgPool3d),
        *(nn.AdaptiveAvgPool3d, Steps, LastStep, MeanOfSteps),
        *(Add, Concat, Mean, Multiply, Permute, Product, Scale, Shift, Slice, Softmax),
    }
)
_FROZEN = frozenset(
    {
        *(nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm),
        *(Offset, Gain),
    }
)
_SETTINGS: dict[type[nn.Module], Callable[[Any], bool]] = {
    nn.Conv1d: lambda layer: layer.padding_mode == "zeros",  # no rule knows another
    nn.Conv2d: lambda layer: layer.padding_mode == "zeros",
    nn.Conv3d: lambda layer: layer.padding_mode == "zeros",
    nn.InstanceNorm1d: lambda layer: layer.affine,
    nn.InstanceNorm2d: lambda layer: layer.affine,
    nn.InstanceNorm3d: lambda layer: layer.affine,
    nn.LayerNorm: lambda layer: layer.elementwise_affine,
    nn.RMSNorm: lambda layer: layer.elementwise_affine,
    nn.GroupNorm: lambda layer: layer.affine,
    nn.Embedding: lambda layer: layer.max_norm is None and not layer.scale_grad_by_freq,
    nn.Flatten: lambda layer: layer.start_dim == 1,
    nn.Unflatten: lambda layer: layer.dim == 1,
    Concat: lambda layer: layer.side >= 1,
    Mean: lambda layer: layer.side >= 1,
    Slice: lambda layer: layer.side >= 1,
    Permute: lambda layer: sorted(layer.order) == list(range(1, len(layer.order) + 1)),
}
