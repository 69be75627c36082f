"""Translate a network that was exported as ONNX into a model pack: a list of FLO's layers.

The network is read for one record. Its nodes become layers in their order; a node that only gives
numbers another shape becomes none until a layer needs that shape. What torch calls parameters
become parameters of layers; fixed numbers become settings of layers, or have no layer. Nothing of
the file's parameters is in the pack: training starts at FLO's public start. The pack is built with
random numbers in the place of parameters, and compared with what ONNX Runtime computes of the file
with the same numbers, so that a wrong translation is never used.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from flo.arrays import Floats
from flo.clients.data_process.encoder_file import UnfitEncoderError, checked
from flo.documents.document import parse
from flo.errors import UsageError
from flo.scoring.network import session_of
from flo.study import networks
from flo.study.layers import WANTED, Layer, LayerKind, Shape
from flo.study.packs import RECORD, Pack

_COMPARED, _ALIKE = 16, 1e-3  # records; how far scores may differ, relative to the largest
_INSTEAD = {
    "GRU": 'use kind = "gru" in [model], or a pack with the layer GRU',
    "LSTM": 'use kind = "lstm" in [model], or a pack with the layer LSTM',
    "RNN": "use a pack with the layer RNN",
    "BatchNormalization": "it mixes patients while it trains: use GroupNorm",
    "Dropout": "the noise for privacy regularises already: leave it out",
    "Erf": "export with opset 20 or later, where GELU is one operator",
    "Div": "divide by a fixed number only",
    "Sub": "subtract a fixed number, or another output",
}
_SCOPE = re.compile(r"'([\w.]+)'")
_FOLDED = re.compile(r"([\w.]+): torch\.nn\.modules\.batchnorm\.(\w+)")
_OLDEST = 18  # opset
_LARGEST_EPSILON = 1e-4
_PARAMETER = re.compile(r"%p_\w+")
_SAME: dict[str, LayerKind] = {"Tanh": "Tanh", "Relu": "ReLU", "Sigmoid": "Sigmoid"}


@dataclass(frozen=True)
class _Wire:
    """An output: its layer's place (-1: the record), its shape there, and its shape in ONNX."""

    place: int
    held: Shape
    shape: Shape


@dataclass
class _Made:
    """Layers so far, and the file's numbers for their parameters, by place."""

    layers: list[Layer] = field(default_factory=list)
    values: dict[int, list[Floats]] = field(default_factory=dict)
    fresh: set[int] = field(default_factory=set)  # layers that can still take a bias, or a weight


def pack_of(data: bytes, name: str) -> Pack:
    """Return the pack of an ONNX file's network.

    Raises:
        UsageError: names the node that has no layer, and the way out.
    """
    try:
        model = checked(data, operators=None)
    except UnfitEncoderError as error:
        raise UsageError(f"the network's file cannot be used: {error}") from error
    _refuse_other_exporters(model)
    try:
        _draw_numbers(model)
        made = _Translation(model).made
        said = {"kind": "pack", "name": name, "layers": _named(made.layers)}
        pack = parse(Pack, said, "the pack is not valid")
        _compare(model.SerializeToString(), pack, made)
    except UsageError:
        raise
    except Exception as error:  # of onnx, onnxruntime and protobuf, on a file of any content
        raise UsageError(
            f"the network's file cannot be read: {type(error).__name__}",
            hint="export it again; if that does not help, report the file",
        ) from error
    return pack


def _refuse_other_exporters(model: Any) -> None:
    """Raise UsageError for a file that does not say which of its numbers are parameters."""
    said = any(key.startswith("pkg.torch") for node in model.graph.node for key in _notes(node))
    versions = [one.version for one in model.opset_import]
    if not said or min(versions, default=0) < _OLDEST:
        raise UsageError(
            "the file does not say how torch made it, or its opset is older than "
            f"{_OLDEST}: {versions}",
            hint="export with torch.onnx.export(network.eval(), (record[None],), FILE, "
            "dynamo=True, external_data=False)",
        )


def _draw_numbers(model: Any) -> None:
    """Put random numbers in the place of the file's, so that no zero or one hides a difference."""
    from onnx import numpy_helper

    dice = np.random.default_rng(0)
    kept = {
        name
        for node in model.graph.node
        if node.op_type == "InstanceNormalization"  # ones and zeros, of which the exporter made it
        for name in node.input[1:]
    }
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype == np.float32 and array.size > 1 and tensor.name not in kept:
            drawn = dice.normal(size=array.shape) * array.size**-0.25
            drawn = np.where(np.isfinite(array), drawn, array).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(drawn, tensor.name))


def _named(layers: Sequence[Layer]) -> list[dict[str, Any]]:
    """Return layers as a study states them; those are named that another than the next takes."""
    taken = {
        place
        for number, layer in enumerate(layers)
        for place in layer.of
        if layer.of != (number - 1,)
    }
    names = {place: f"layer-{place}" for place in taken} | {-1: RECORD}
    found = []
    for number, layer in enumerate(layers):
        said: dict[str, Any] = {"kind": layer.kind, "sizes": list(layer.sizes)}
        if number in taken:
            said["name"] = names[number]
        if layer.of != (number - 1,):
            said["of"] = [names[place] for place in layer.of]
        if layer.kind in ("Scale", "Shift"):
            said["by"] = layer.by
        found.append(said)
    return found


def _compare(data: bytes, pack: Pack, made: _Made) -> None:
    """Raise UsageError unless the pack with the file's numbers computes what the file does."""
    import torch

    session = session_of(data)
    (wanted,) = session.get_inputs()
    width = math.prod(wanted.shape[1:])
    try:
        networks.output(pack.network, width)
    except ValueError as error:
        raise UsageError(str(error), hint="the layers are in docs/reference/study.md") from error
    module = networks.build(pack.network)
    numbers = [array for place in sorted(made.values) for array in made.values[place]]
    for parameter, array in zip(module.parameters(), numbers, strict=True):
        parameter.data.copy_(torch.tensor(array))
    records = np.random.default_rng(0).normal(size=(_COMPARED, width)).astype(np.float32)
    shape = (1, *wanted.shape[1:])
    theirs = np.concatenate(
        [session.run(None, {wanted.name: one.reshape(shape)})[0] for one in records]
    )
    with torch.inference_mode():
        ours = module(torch.from_numpy(records)).numpy()
    spread = np.ptp(theirs, axis=0).max()
    if not spread > 0:
        raise UsageError(
            "the network gives all made-up records the same scores",
            hint="does it subtract the mean over records? Each record is treated alone",
        )
    if not np.allclose(ours, theirs, rtol=0, atol=_ALIKE * spread):
        raise UsageError(
            f"the translation computes other scores than the file: {ours[0]} and {theirs[0]} for "
            "a made-up record",
            hint="write the pack by hand (docs/reference/study.md), and report this file",
        )


class _Translation:
    """One file's nodes as layers."""

    def __init__(self, model: Any) -> None:
        import onnx
        from onnx import numpy_helper

        self.made = _Made()
        try:
            graph = onnx.shape_inference.infer_shapes(
                model, check_type=True, strict_mode=True
            ).graph
        except Exception as error:
            raise UsageError(f"the file's sizes do not fit each other: {error}") from error
        self._numbers = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
        self._users = Counter(name for node in graph.node for name in node.input)
        self._wires, self._part_of = dict[str, _Wire](), dict[str, str]()
        inputs = [one for one in graph.input if one.name not in self._numbers]
        if len(inputs) != 1 or len(graph.output) != 1:
            raise UsageError(
                f"the network has {len(inputs)} inputs and {len(graph.output)} outputs, where one "
                "of each is expected: a record, and its scores"
            )
        (given,) = inputs
        if given.type.tensor_type.elem_type != 1:
            raise UsageError(f"the input {given.name!r} is not float32", hint="export it as such")
        shape = tuple(one.dim_value for one in given.type.tensor_type.shape.dim)
        if len(shape) < 2 or shape[0] > 1 or min(shape[1:]) < 1:
            raise UsageError(
                f"the input {given.name!r} has shape {shape}",
                hint="export it for one record: torch.onnx.export(network, (record[None],))",
            )
        self._wires[given.name] = _Wire(-1, (math.prod(shape[1:]),), (1, *shape[1:]))
        for node in graph.node:
            self._translate(node)
        (result,) = graph.output
        wire = self._wires[result.name]
        if len(wire.shape) != 2 or wire.shape[0] != 1:
            raise UsageError(f"the output {result.name!r} has shape {wire.shape}, not (1, scores)")
        self._as(wire, wire.shape[1:])

    def _translate(self, node: Any) -> None:
        from onnx import helper

        _refuse_folded(node)
        settings = {one.name: helper.get_attribute_value(one) for one in node.attribute}
        if node.op_type == "Constant":
            self._numbers[node.output[0]] = _constant(node)
            return
        self._refuse_numbers_used_twice(node)
        given = [self._wires.get(name, self._numbers.get(name)) for name in node.input]
        try:
            found = self._layer_of(node, settings, given)
        except (TypeError, KeyError, IndexError, ValueError, AttributeError):
            found = None  # an operator in a form that its rule does not know
        if found is None:
            raise UsageError(
                f"{_where(node)} ({node.op_type}) has no layer in FLO",
                hint=_INSTEAD.get(node.op_type, f"the layers are {', '.join(WANTED)}"),
            )
        outputs = [found] if len(node.output) == 1 else self._parts
        for name, wire in zip(node.output, outputs, strict=True):
            self._wires[name] = wire
            if self._users[name] > 1:
                self.made.fresh.discard(wire.place)

    def _layer_of(self, node: Any, settings: dict[str, Any], given: list[Any]) -> _Wire | None:
        rule: Callable[..., _Wire | None] | None = _RULES.get(node.op_type)
        if kind := _SAME.get(node.op_type):
            rule = _same(kind)
        if rule is None:
            return None
        self._learns, self._parts = "%p_" in _made_from(node), ()
        if isinstance(given[0], _Wire):
            return rule(self, settings, *given)
        if node.op_type in ("Add", "Mul") and isinstance(given[1], _Wire):
            return rule(self, settings, *reversed(given))
        return None

    def _refuse_numbers_used_twice(self, node: Any) -> None:
        """Raise UsageError for parameters that an earlier part of the network has, too."""
        made_from = _made_from(node)
        part = made_from.partition(" ")[0]
        for name in _PARAMETER.findall(made_from):
            if self._part_of.setdefault(name, part) != part:
                raise UsageError(
                    f"the parameter {name.removeprefix('%p_')!r} is used twice",
                    hint="give each use a layer of its own",
                )

    _parts: Sequence[_Wire] = ()  # of Split
    _learns = False  # whether the node that is translated has parameters

    # -- layers ------------------------------------------------------------------------------------

    def _add(
        self,
        kind: LayerKind,
        sizes: Shape,
        taken: Sequence[int],
        held: Sequence[Shape],
        values: Sequence[Floats] = (),
        by: float = 0.0,
    ) -> tuple[int, Shape]:
        """Add a layer; return its place and what it holds."""
        layer = Layer(kind, tuple(map(int, sizes)), tuple(taken), by)
        after = layer.after(*held)
        if after is None:
            shown = " and ".join(map(str, held))
            raise UsageError(
                f"{kind} of sizes {layer.sizes} does not take a record of shape {shown}",
                hint=WANTED[kind],
            )
        place = len(self.made.layers)
        self.made.layers.append(layer)
        if layer.parameters:
            self.made.values[place] = list(values)
            self.made.fresh.add(place)
        return place, after

    def _as(self, wire: _Wire, shape: Shape) -> int:
        """Return the place of the wire's numbers in this shape."""
        place, held = wire.place, wire.held
        if held == shape:
            return place
        if len(held) > 1:
            place, held = self._add("Flatten", (), [place], [held])
        if len(shape) > 1:
            place, held = self._add("Unflatten", shape, [place], [held])
        return place

    def _one(
        self,
        wire: _Wire,
        kind: LayerKind,
        sizes: Shape = (),
        values: Sequence[Floats] = (),
        *,
        form: Shape | None = None,
        by: float = 0.0,
        shape: Shape | None = None,
    ) -> _Wire:
        """Add a layer that takes one output. ``form``: the shape that it takes; the wire's own if
        None. ``shape``: of its output in ONNX; as it is held, after a 1, if None."""
        form = wire.held if form is None else form
        place, held = self._add(kind, sizes, [self._as(wire, form)], [form], values, by)
        return _Wire(place, held, wire.shape if shape is None else shape)

    def _absorbs(self, wire: _Wire, kinds: tuple[LayerKind, ...]) -> bool:
        return (
            wire.place in self.made.fresh
            and self.made.layers[wire.place].kind in kinds
            and wire.place == len(self.made.layers) - 1
            and self._learns
        )

    # -- nodes -------------------------------------------------------------------------------------

    def linear(self, wire: _Wire, weight: Floats, bias: Floats | None) -> _Wire:
        """``weight``: (outputs, inputs)."""
        form = _stripped(wire.shape)
        values = [weight, np.zeros(len(weight)) if bias is None else bias]
        found = self._one(
            wire,
            "Linear",
            (weight.shape[1], weight.shape[0]),
            values,
            form=form,
            shape=(*wire.shape[:-1], len(weight)),
        )
        if bias is not None:
            self.made.fresh.discard(found.place)
        return found

    def gemm(self, settings: dict[str, Any], a: _Wire, b: Any, c: Any = None) -> _Wire | None:
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
        return self.linear(a, weight, bias)

    def matmul(self, settings: dict[str, Any], a: _Wire, b: Any) -> _Wire | None:
        if isinstance(b, np.ndarray):
            return self.linear(a, b.T, None) if b.ndim == 2 else None
        if not isinstance(b, _Wire) or a.shape[:-2] != b.shape[:-2] or len(a.shape) < 3:
            return None
        one, other = _stripped(a.shape), _stripped(b.shape)
        place, held = self._add("Product", (), [self._as(a, one), self._as(b, other)], [one, other])
        return _Wire(place, held, (*a.shape[:-1], b.shape[-1]))

    def conv(
        self, settings: dict[str, Any], x: _Wire, weight: Any, bias: Any = None
    ) -> _Wire | None:
        if not isinstance(weight, np.ndarray) or isinstance(bias, _Wire):
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
        found = self._one(x, kind, sizes, values, form=x.shape[1:])
        self.made.fresh.discard(found.place)
        return _Wire(found.place, found.held, (1, *found.held))

    def add(self, settings: dict[str, Any], x: _Wire, other: Any) -> _Wire | None:
        if isinstance(other, _Wire):
            return self._both("Add", x, other)
        if self._absorbs(x, ("Linear", "GroupNorm")):
            layer = self.made.layers[x.place]
            axis = -1 if layer.kind == "Linear" else 1
            if other.size == layer.sizes[1] and _is_along(other.shape, x.shape, axis):
                self.made.values[x.place][1] = other.ravel()
                self.made.fresh.discard(x.place)
                return x
        return self._fixed_or_learnt("Shift", "Offset", x, other)

    def mul(self, settings: dict[str, Any], x: _Wire, other: Any) -> _Wire | None:
        if isinstance(other, _Wire):
            return self._both("Multiply", x, other)
        if self._absorbs(x, ("GroupNorm",)) and _is_along(other.shape, x.shape, 1):
            values = self.made.values[x.place]
            if np.all(values[0] == 1) and np.all(values[1] == 0):
                values[0] = other.ravel()
                return x
        return self._fixed_or_learnt("Scale", "Gain", x, other)

    def _fixed_or_learnt(
        self, fixed: LayerKind, learnt: LayerKind, x: _Wire, other: Floats
    ) -> _Wire | None:
        if not np.isfinite(other).all():
            raise UsageError(
                "numbers that are not finite are added or multiplied, such as a mask's",
                hint="a pack has no mask: each step sees all others",
            )
        if self._learns:
            return self._learnt(learnt, x, other)
        if other.size == 1:
            return self._one(x, fixed, by=float(other.ravel()[0]))
        raise UsageError(
            f"{other.size} fixed numbers of shape {other.shape} are added or multiplied",
            hint="make them an nn.Parameter; the study's bounds already scale the inputs",
        )

    def sub(self, settings: dict[str, Any], x: _Wire, other: Any) -> _Wire | None:
        if isinstance(other, _Wire):
            return self._both("Add", x, self._one(other, "Scale", by=-1.0))
        return self.add(settings, x, -other)

    def div(self, settings: dict[str, Any], x: _Wire, other: Any) -> _Wire | None:
        if not isinstance(other, np.ndarray) or other.size != 1 or not other.ravel()[0]:
            return None
        return self._one(x, "Scale", by=1 / float(other.ravel()[0]))

    def _both(self, kind: LayerKind, one: _Wire, other: _Wire) -> _Wire | None:
        if len(one.shape) != len(other.shape):
            return None
        forms = [_stripped(one.shape), _stripped(other.shape)]
        if len(forms[0]) != len(forms[1]):
            forms = [one.shape, other.shape]
        taken = [self._as(wire, form) for wire, form in zip((one, other), forms, strict=True)]
        place, held = self._add(kind, (), taken, forms)
        return _Wire(place, held, tuple(map(max, one.shape, other.shape)))

    def _learnt(self, kind: LayerKind, x: _Wire, other: Floats) -> _Wire | None:
        form = _stripped(x.shape)
        sizes = (1,) * (len(x.shape) - other.ndim) + other.shape
        if len(sizes) != len(x.shape):
            return None
        sizes = sizes if form == x.shape else sizes[1:]
        return self._one(x, kind, sizes, [other.reshape(sizes)], form=form)

    def gelu(self, settings: dict[str, Any], x: _Wire) -> _Wire | None:
        return self._one(x, "GELU") if settings.get("approximate", b"none") == b"none" else None

    def softmax(self, settings: dict[str, Any], x: _Wire) -> _Wire | None:
        axis = settings.get("axis", -1) % len(x.shape)
        if axis != len(x.shape) - 1 or x.shape[-1] == 1:
            return None
        return self._one(x, "Softmax", form=_stripped(x.shape))

    def reshaped(self, settings: dict[str, Any], x: _Wire, *rest: Any) -> _Wire | None:
        wanted = [int(one) for one in np.ravel(rest[0])] if rest else []
        if settings.get("allowzero") and 0 in wanted:
            return None
        shape = [x.shape[i] if one == 0 else one for i, one in enumerate(wanted)]
        if -1 in shape:
            known = -math.prod(shape)
            shape[shape.index(-1)] = math.prod(x.shape) // known
        return _Wire(x.place, x.held, tuple(shape))

    def flattened(self, settings: dict[str, Any], x: _Wire) -> _Wire | None:
        axis = settings.get("axis", 1)
        return _Wire(x.place, x.held, (math.prod(x.shape[:axis]), math.prod(x.shape[axis:])))

    def squeezed(self, settings: dict[str, Any], x: _Wire, axes: Any = None) -> _Wire | None:
        gone = (
            {int(one) % len(x.shape) for one in np.ravel(axes)}
            if axes is not None
            else {place for place, size in enumerate(x.shape) if size == 1}
        )
        kept = tuple(size for place, size in enumerate(x.shape) if place not in gone)
        return _Wire(x.place, x.held, kept)

    def unsqueezed(self, settings: dict[str, Any], x: _Wire, axes: Any) -> _Wire | None:
        rank = len(x.shape) + np.size(axes)
        new, old = {int(one) % rank for one in np.ravel(axes)}, iter(x.shape)
        return _Wire(x.place, x.held, tuple(1 if i in new else next(old) for i in range(rank)))

    def transposed(self, settings: dict[str, Any], x: _Wire) -> _Wire | None:
        order = list(settings.get("perm", reversed(range(len(x.shape)))))
        shape = tuple(x.shape[one] for one in order)
        moved = [one for one in order if x.shape[one] > 1]
        if moved == sorted(moved):  # only sides of 1 change places
            return _Wire(x.place, x.held, shape)
        if x.shape[0] == 1 and order[0] == 0:
            return self._one(x, "Permute", tuple(order[1:]), form=x.shape[1:], shape=shape)
        sides = tuple(one + 1 for one in order)
        return self._one(x, "Permute", sides, form=x.shape, shape=shape)

    def concat(self, settings: dict[str, Any], *wires: Any) -> _Wire | None:
        if not all(isinstance(one, _Wire) for one in wires):
            return None
        axis = settings["axis"] % len(wires[0].shape)
        whole = sum(one.shape[axis] for one in wires)
        first = wires[0].shape
        strip = axis > 0 and all(one.shape[0] == 1 for one in wires)
        forms = [one.shape[1:] if strip else one.shape for one in wires]
        taken = [self._as(one, form) for one, form in zip(wires, forms, strict=True)]
        place, held = self._add("Concat", (axis if strip else axis + 1,), taken, forms)
        return _Wire(place, held, (*first[:axis], whole, *first[axis + 1 :]))

    def sliced(
        self,
        settings: dict[str, Any],
        x: _Wire,
        starts: Any,
        ends: Any,
        axes: Any = None,
        steps: Any = 1,
    ) -> _Wire | None:
        axes = range(np.size(starts)) if axes is None else axes
        if set(np.ravel(steps).tolist()) != {1}:
            return None
        for start, end, axis in zip(*map(np.ravel, (starts, ends, axes)), strict=True):
            x = self._cut(x, int(axis) % len(x.shape), int(start), int(end))
        return x

    def gathered(self, settings: dict[str, Any], x: _Wire, place: Any) -> _Wire | None:
        if not isinstance(place, np.ndarray) or place.ndim:
            return None
        axis, at = settings.get("axis", 0) % len(x.shape), int(place)
        one = self._cut(x, axis, at, at + 1 or x.shape[axis])
        return _Wire(one.place, one.held, (*x.shape[:axis], *x.shape[axis + 1 :]))

    def split(self, settings: dict[str, Any], x: _Wire, sizes: Any = None) -> _Wire | None:
        axis = settings.get("axis", 0) % len(x.shape)
        if sizes is None:
            count = settings["num_outputs"]
            sizes = [x.shape[axis] // count] * count
        ends = np.cumsum(np.ravel(sizes)).tolist()
        if ends[-1] != x.shape[axis]:
            return None
        begins = [0, *ends[:-1]]
        self._parts = [self._cut(x, axis, a, b) for a, b in zip(begins, ends, strict=True)]
        return self._parts[0]

    def _cut(self, x: _Wire, axis: int, start: int, end: int) -> _Wire:
        size = x.shape[axis]
        start = max(start + size, 0) if start < 0 else min(start, size)
        end = end + size if end < 0 else min(end, size)
        if (start, end) == (0, size):
            return x
        strip = axis > 0 and x.shape[0] == 1
        return self._one(
            x,
            "Slice",
            (axis if strip else axis + 1, start + 1, end),
            form=x.shape[1:] if strip else x.shape,
            shape=(*x.shape[:axis], end - start, *x.shape[axis + 1 :]),
        )

    def mean(self, settings: dict[str, Any], x: _Wire, axes: Any = None) -> _Wire | None:
        named = settings.get("axes") if axes is None else np.ravel(axes).tolist()
        gone = sorted({int(one) % len(x.shape) for one in named or range(1, len(x.shape))})
        if any(x.shape[one] == 1 for one in gone):
            raise UsageError(
                f"a mean over a side of 1 of {x.shape}: in a batch it would mix records",
                hint="take means within a record only",
            )
        whole, keep = x, settings.get("keepdims", 1)
        strip = x.shape[0] == 1
        for axis in reversed(gone):
            shape = (*x.shape[:axis], *x.shape[axis + 1 :])
            side, form = (axis, x.shape[1:]) if strip else (axis + 1, x.shape)
            if len(form) == 1:
                return None
            x = self._one(x, "Mean", (side,), form=form, shape=shape)
        kept = tuple(1 if i in gone else size for i, size in enumerate(whole.shape))
        return _Wire(x.place, x.held, kept) if keep else x

    def layer_norm(
        self, settings: dict[str, Any], x: _Wire, scale: Any, bias: Any = None
    ) -> _Wire | None:
        if settings.get("axis", -1) % len(x.shape) != len(x.shape) - 1 or _is_coarse(settings):
            return None
        width = x.shape[-1]
        values = [scale, np.zeros(width) if bias is None else bias]
        found = self._one(x, "LayerNorm", (width,), values, form=_stripped(x.shape))
        self.made.fresh.discard(found.place)
        return found

    def instance_norm(
        self, settings: dict[str, Any], x: _Wire, scale: Any, bias: Any
    ) -> _Wire | None:
        """Group normalisation is exported as one of groups, between two reshapes."""
        groups, channels = x.shape[1], x.held[0]
        if len(x.held) != 3 or channels % groups or _is_coarse(settings):
            return None
        values = [np.repeat(scale, channels // groups), np.repeat(bias, channels // groups)]
        return self._one(x, "GroupNorm", (groups, channels), values)

    def group_norm(self, settings: dict[str, Any], x: _Wire, scale: Any, bias: Any) -> _Wire | None:
        if _is_coarse(settings):
            return None
        sizes = (settings["num_groups"], x.shape[1])
        found = self._one(x, "GroupNorm", sizes, [scale, bias], form=x.shape[1:])
        self.made.fresh.discard(found.place)
        return found

    def average_pool(self, settings: dict[str, Any], x: _Wire) -> _Wire | None:
        kernel, strides = set(settings["kernel_shape"]), set(settings.get("strides", [1]))
        if (
            *(len(kernel) > 1, kernel != strides, any(settings.get("pads", [0]))),
            _is_unusual(settings),
        ) != (False, False, False, False):
            return None
        found = self._one(x, "AvgPool2d", tuple(kernel), form=x.shape[1:])
        return _Wire(found.place, found.held, (1, *found.held))

    def max_pool(self, settings: dict[str, Any], x: _Wire) -> _Wire | None:
        kernel, strides = set(settings["kernel_shape"]), set(settings.get("strides", [1]))
        pads = set(settings.get("pads", [0]))
        if not len(kernel) == len(strides) == len(pads) == 1 or _is_unusual(settings):
            return None
        (width,), (stride,) = kernel, strides
        if pads != {width // 2 if width % 2 else 0}:
            return None
        found = self._one(x, "MaxPool2d", (width, stride), form=x.shape[1:])
        return _Wire(found.place, found.held, (1, *found.held))

    def global_mean(self, settings: dict[str, Any], x: _Wire) -> _Wire | None:
        found = self._one(x, "AdaptiveAvgPool2d", (1,), form=x.shape[1:])
        return _Wire(found.place, found.held, (1, *found.held))

    def passed(self, settings: dict[str, Any], x: _Wire, *rest: Any) -> _Wire | None:
        return x


def _same(kind: LayerKind) -> Callable[..., _Wire | None]:
    return lambda made, settings, x: made._one(x, kind)


def _is_coarse(settings: dict[str, Any]) -> bool:
    """Return whether a normalisation adds more to a variance than FLO's layers may differ by."""
    return not settings.get("epsilon", 1e-5) <= _LARGEST_EPSILON


def _is_unusual(settings: dict[str, Any]) -> bool:
    """Return whether a pool has settings that FLO's layers have not."""
    return bool(
        settings.get("ceil_mode")
        or settings.get("auto_pad", b"NOTSET") != b"NOTSET"
        or set(settings.get("dilations", [1])) != {1}
    )


def _notes(node: Any) -> dict[str, str]:
    """Return what torch's exporter notes of a node; a file of another origin may hold anything."""
    found = {one.key: one.value for one in node.metadata_props}
    return {k: v for k, v in found.items() if isinstance(k, str) and isinstance(v, str)}


def _made_from(node: Any) -> str:
    """Return the call of torch's that became a node, with its parameters as ``%p_NAME``."""
    return _notes(node).get("pkg.torch.onnx.fx_node", "")


def _stripped(shape: Shape) -> Shape:
    """Return a shape without its first side if that is 1, and others are left."""
    return shape[1:] if shape[0] == 1 and len(shape) > 1 else shape


def _is_along(array: Shape, record: Shape, axis: int) -> bool:
    """Return whether an array has numbers along one axis of a record only."""
    whole = (1,) * (len(record) - len(array)) + tuple(array)
    place = axis % len(record)
    return all(size == (record[i] if i == place else 1) for i, size in enumerate(whole))


def _where(node: Any) -> str:
    """Return the layer of the network that became a node, if torch's exporter says it."""
    named = _SCOPE.findall(_notes(node).get("pkg.torch.onnx.name_scopes", ""))[:-1]
    return f"the layer {named[-1]!r}" if named else f"the node {node.name or node.output[0]!r}"


def _refuse_folded(node: Any) -> None:
    """Raise UsageError for batch normalisation that the exporter made part of the layer before."""
    for note in _notes(node).values():
        if found := _FOLDED.search(note):
            raise UsageError(
                f"the layer {found[1]!r} is a {found[2]}", hint=_INSTEAD["BatchNormalization"]
            )


def _constant(node: Any) -> Floats:
    from onnx import helper, numpy_helper

    (value,) = node.attribute
    if value.HasField("t"):
        return np.asarray(numpy_helper.to_array(value.t))
    return np.asarray(helper.get_attribute_value(value))


_RULES: dict[str, Any] = {
    "Gemm": _Translation.gemm,
    "MatMul": _Translation.matmul,
    "Conv": _Translation.conv,
    "Add": _Translation.add,
    "Mul": _Translation.mul,
    "Sub": _Translation.sub,
    "Div": _Translation.div,
    "Gelu": _Translation.gelu,
    "Softmax": _Translation.softmax,
    "Reshape": _Translation.reshaped,
    "Flatten": _Translation.flattened,
    "Squeeze": _Translation.squeezed,
    "Unsqueeze": _Translation.unsqueezed,
    "Transpose": _Translation.transposed,
    "Concat": _Translation.concat,
    "Slice": _Translation.sliced,
    "Gather": _Translation.gathered,
    "Split": _Translation.split,
    "ReduceMean": _Translation.mean,
    "LayerNormalization": _Translation.layer_norm,
    "InstanceNormalization": _Translation.instance_norm,
    "GroupNormalization": _Translation.group_norm,
    "AveragePool": _Translation.average_pool,
    "MaxPool": _Translation.max_pool,
    "GlobalAveragePool": _Translation.global_mean,
    "Identity": _Translation.passed,
}
