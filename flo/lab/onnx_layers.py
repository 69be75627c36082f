"""Rules for operators that have numbers, or change them: each becomes a layer of a pack.

A rule takes the network so far, the node's settings and its inputs, outputs of earlier nodes
(``Wire``) or arrays. It returns None for a form that no layer has.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from flo.arrays import Floats
from flo.errors import UsageError
from flo.lab.onnx_network import Network, Rule, Settings, Wire, stripped
from flo.study.layers import LayerKind, Shape

_LARGEST_EPSILON = 1e-4


def _linear(to: Network, wire: Wire, weight: Floats, bias: Floats | None) -> Wire:
    """``weight``: (outputs, inputs)."""
    form = stripped(wire.shape)
    values = [weight, np.zeros(len(weight)) if bias is None else bias]
    found = to.one(
        wire,
        "Linear",
        (weight.shape[1], weight.shape[0]),
        values,
        form=form,
        shape=(*wire.shape[:-1], len(weight)),
    )
    if bias is not None:
        to.made.fresh.discard(found.place)
    return found


def _gemm(to: Network, settings: Settings, a: Wire, b: Any, c: Any = None) -> Wire | None:
    plain = (
        settings.get("alpha", 1.0) == settings.get("beta", 1.0) == 1.0
        and not settings.get("transA", 0)
        and isinstance(b, np.ndarray)
        and (c is None or isinstance(c, np.ndarray))
    )
    if not plain:
        return None
    weight = b if settings.get("transB", 0) else b.T
    bias = None if c is None else np.broadcast_to(c.ravel(), len(weight))
    return _linear(to, a, weight, bias)


def _matmul(to: Network, settings: Settings, a: Wire, b: Any) -> Wire | None:
    if isinstance(b, np.ndarray):
        return _linear(to, a, b.T, None) if b.ndim == 2 else None
    if not isinstance(b, Wire) or a.shape[:-2] != b.shape[:-2] or len(a.shape) < 3:
        return None
    one, other = stripped(a.shape), stripped(b.shape)
    place, held = to.add("Product", (), [to.placed(a, one), to.placed(b, other)], [one, other])
    return Wire(place, held, (*a.shape[:-1], b.shape[-1]))


def _conv(to: Network, settings: Settings, x: Wire, weight: Any, bias: Any = None) -> Wire | None:
    if not isinstance(weight, np.ndarray) or isinstance(bias, Wire):
        return None
    kernel, strides = set(weight.shape[2:]), set(settings.get("strides", [1]))
    usual = (
        len(kernel) == len(strides) == 1
        and settings.get("group", 1) == 1
        and set(settings.get("dilations", [1])) == {1}
        and set(settings.get("pads", [0])) == {max(kernel) // 2}
        and settings.get("auto_pad", b"NOTSET") == b"NOTSET"
    )
    if not usual:
        return None
    kind: LayerKind = {3: "Conv1d", 4: "Conv2d", 5: "Conv3d"}[weight.ndim]  # type: ignore[assignment]
    (stride,) = strides
    sizes = (weight.shape[1], weight.shape[0], *kernel, *([stride] if stride > 1 else []))
    values = [weight, np.zeros(len(weight)) if bias is None else bias]
    found = to.one(x, kind, sizes, values, form=x.shape[1:])
    to.made.fresh.discard(found.place)
    return Wire(found.place, found.held, (1, *found.held))


def _add(to: Network, settings: Settings, x: Wire, other: Any) -> Wire | None:
    if isinstance(other, Wire):
        return _both(to, "Add", x, other)
    if to.absorbs(x, ("Linear", "GroupNorm")):
        layer = to.made.layers[x.place]
        axis = -1 if layer.kind == "Linear" else 1
        if other.size == layer.sizes[1] and _is_along(other.shape, x.shape, axis):
            to.made.values[x.place][1] = other.ravel()
            to.made.fresh.discard(x.place)
            return x
    return _fixed_or_learnt(to, "Shift", "Offset", x, other)


def _mul(to: Network, settings: Settings, x: Wire, other: Any) -> Wire | None:
    if isinstance(other, Wire):
        return _both(to, "Multiply", x, other)
    if to.absorbs(x, ("GroupNorm",)) and _is_along(other.shape, x.shape, 1):
        values = to.made.values[x.place]
        if np.all(values[0] == 1) and np.all(values[1] == 0):
            values[0] = other.ravel()
            return x
    return _fixed_or_learnt(to, "Scale", "Gain", x, other)


def _fixed_or_learnt(
    to: Network, fixed: LayerKind, learnt: LayerKind, x: Wire, other: Floats
) -> Wire | None:
    if not np.isfinite(other).all():
        raise UsageError(
            "numbers that are not finite are added or multiplied, such as a mask's",
            hint="a pack has no mask: each step sees all others",
        )
    if to.learns:
        return _learnt(to, learnt, x, other)
    if other.size == 1:
        return to.one(x, fixed, by=float(other.ravel()[0]))
    raise UsageError(
        f"{other.size} fixed numbers of shape {other.shape} are added or multiplied",
        hint="make them an nn.Parameter; the study's bounds already scale the inputs",
    )


def _sub(to: Network, settings: Settings, x: Wire, other: Any) -> Wire | None:
    if isinstance(other, Wire):
        return _both(to, "Add", x, to.one(other, "Scale", by=-1.0))
    return _add(to, settings, x, -other)


def _div(to: Network, settings: Settings, x: Wire, other: Any) -> Wire | None:
    if not isinstance(other, np.ndarray) or other.size != 1 or not other.ravel()[0]:
        return None
    return to.one(x, "Scale", by=1 / float(other.ravel()[0]))


def _both(to: Network, kind: LayerKind, one: Wire, other: Wire) -> Wire | None:
    if len(one.shape) != len(other.shape):
        return None
    forms = [stripped(one.shape), stripped(other.shape)]
    if len(forms[0]) != len(forms[1]):
        forms = [one.shape, other.shape]
    taken = [to.placed(wire, form) for wire, form in zip((one, other), forms, strict=True)]
    place, held = to.add(kind, (), taken, forms)
    return Wire(place, held, tuple(map(max, one.shape, other.shape)))


def _learnt(to: Network, kind: LayerKind, x: Wire, other: Floats) -> Wire | None:
    form = stripped(x.shape)
    sizes = (1,) * (len(x.shape) - other.ndim) + other.shape
    if len(sizes) != len(x.shape):
        return None
    sizes = sizes if form == x.shape else sizes[1:]
    return to.one(x, kind, sizes, [other.reshape(sizes)], form=form)


def _gelu(to: Network, settings: Settings, x: Wire) -> Wire | None:
    return to.one(x, "GELU") if settings.get("approximate", b"none") == b"none" else None


def _softmax(to: Network, settings: Settings, x: Wire) -> Wire | None:
    axis = settings.get("axis", -1) % len(x.shape)
    if axis != len(x.shape) - 1 or x.shape[-1] == 1:
        return None
    return to.one(x, "Softmax", form=stripped(x.shape))


def _layer_norm(
    to: Network, settings: Settings, x: Wire, scale: Any, bias: Any = None
) -> Wire | None:
    if settings.get("axis", -1) % len(x.shape) != len(x.shape) - 1 or _is_coarse(settings):
        return None
    width = x.shape[-1]
    values = [scale, np.zeros(width) if bias is None else bias]
    found = to.one(x, "LayerNorm", (width,), values, form=stripped(x.shape))
    to.made.fresh.discard(found.place)
    return found


def _instance_norm(to: Network, settings: Settings, x: Wire, scale: Any, bias: Any) -> Wire | None:
    """Group normalisation is exported as one of groups, between two reshapes."""
    groups, channels = x.shape[1], x.held[0]
    if len(x.held) != 3 or channels % groups or _is_coarse(settings):
        return None
    values = [np.repeat(scale, channels // groups), np.repeat(bias, channels // groups)]
    return to.one(x, "GroupNorm", (groups, channels), values)


def _group_norm(to: Network, settings: Settings, x: Wire, scale: Any, bias: Any) -> Wire | None:
    if _is_coarse(settings):
        return None
    sizes = (settings["num_groups"], x.shape[1])
    found = to.one(x, "GroupNorm", sizes, [scale, bias], form=x.shape[1:])
    to.made.fresh.discard(found.place)
    return found


def _average_pool(to: Network, settings: Settings, x: Wire) -> Wire | None:
    kernel, strides = set(settings["kernel_shape"]), set(settings.get("strides", [1]))
    if (
        *(len(kernel) > 1, kernel != strides, any(settings.get("pads", [0]))),
        _is_unusual(settings),
    ) != (False, False, False, False):
        return None
    found = to.one(x, "AvgPool2d", tuple(kernel), form=x.shape[1:])
    return Wire(found.place, found.held, (1, *found.held))


def _max_pool(to: Network, settings: Settings, x: Wire) -> Wire | None:
    kernel, strides = set(settings["kernel_shape"]), set(settings.get("strides", [1]))
    pads = set(settings.get("pads", [0]))
    if not len(kernel) == len(strides) == len(pads) == 1 or _is_unusual(settings):
        return None
    (width,), (stride,) = kernel, strides
    if pads != {width // 2 if width % 2 else 0}:
        return None
    found = to.one(x, "MaxPool2d", (width, stride), form=x.shape[1:])
    return Wire(found.place, found.held, (1, *found.held))


def _global_mean(to: Network, settings: Settings, x: Wire) -> Wire | None:
    found = to.one(x, "AdaptiveAvgPool2d", (1,), form=x.shape[1:])
    return Wire(found.place, found.held, (1, *found.held))


def _same(kind: LayerKind) -> Rule:
    return lambda to, settings, x: to.one(x, kind)


def _is_coarse(settings: Settings) -> bool:
    """Return whether a normalisation adds more to a variance than FLO's layers may differ by."""
    return not settings.get("epsilon", 1e-5) <= _LARGEST_EPSILON


def _is_unusual(settings: Settings) -> bool:
    """Return whether a pool has settings that FLO's layers have not."""
    return bool(
        settings.get("ceil_mode")
        or settings.get("auto_pad", b"NOTSET") != b"NOTSET"
        or set(settings.get("dilations", [1])) != {1}
    )


def _is_along(array: Shape, record: Shape, axis: int) -> bool:
    """Return whether an array has numbers along one axis of a record only."""
    whole = (1,) * (len(record) - len(array)) + tuple(array)
    place = axis % len(record)
    return all(size == (record[i] if i == place else 1) for i, size in enumerate(whole))


RULES: dict[str, Rule] = {
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Conv": _conv,
    "Add": _add,
    "Mul": _mul,
    "Sub": _sub,
    "Div": _div,
    "Tanh": _same("Tanh"),
    "Relu": _same("ReLU"),
    "Sigmoid": _same("Sigmoid"),
    "Gelu": _gelu,
    "Softmax": _softmax,
    "LayerNormalization": _layer_norm,
    "InstanceNormalization": _instance_norm,
    "GroupNormalization": _group_norm,
    "AveragePool": _average_pool,
    "MaxPool": _max_pool,
    "GlobalAveragePool": _global_mean,
}
