"""The nodes of an exported network as layers, one after the other, for one record.

``flo.lab.onnx_layers`` and ``flo.lab.onnx_shapes`` have a rule for each operator. A node that only
gives numbers another shape becomes no layer until a layer needs that shape.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from flo.arrays import Floats
from flo.errors import UsageError
from flo.study.layers import WANTED, Layer, LayerKind, Shape

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
_PARAMETER = re.compile(r"%p_\w+")


@dataclass(frozen=True)
class Wire:
    """An output: its layer's place (-1: the record), its shape there, and its shape in ONNX."""

    place: int
    held: Shape
    shape: Shape


@dataclass
class Made:
    """Layers so far, and by place their names in torch and the file's numbers for parameters."""

    layers: list[Layer] = field(default_factory=list)
    names: dict[int, str] = field(default_factory=dict)
    values: dict[int, list[Floats]] = field(default_factory=dict)
    fresh: set[int] = field(default_factory=set)  # layers that can still take a bias, or a weight


Settings = dict[str, Any]  # of a node, by name
Rule = Callable[..., Wire | None]  # network, settings, inputs -> output; None: no layer


class Network:
    """One file's nodes as layers."""

    def __init__(self, model: Any, rules: Mapping[str, Rule]) -> None:
        """``rules``: by operator. Raises UsageError: names the node that has no layer."""
        import onnx
        from onnx import numpy_helper

        self.made, self._rules = Made(), rules
        try:
            graph = onnx.shape_inference.infer_shapes(
                model, check_type=True, strict_mode=True
            ).graph
        except Exception as error:
            raise UsageError(f"the file's sizes do not fit each other: {error}") from error
        self._numbers = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
        self._users = Counter(name for node in graph.node for name in node.input)
        self._wires, self._part_of = dict[str, Wire](), dict[str, str]()
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
        self._wires[given.name] = Wire(-1, (math.prod(shape[1:]),), (1, *shape[1:]))
        for node in graph.node:
            self._translate(node)
        (result,) = graph.output
        wire = self._wires[result.name]
        if len(wire.shape) != 2 or wire.shape[0] != 1:
            raise UsageError(f"the output {result.name!r} has shape {wire.shape}, not (1, scores)")
        self.placed(wire, wire.shape[1:])

    def _translate(self, node: Any) -> None:
        from onnx import helper

        _refuse_folded(node)
        settings = {one.name: helper.get_attribute_value(one) for one in node.attribute}
        if node.op_type == "Constant":
            self._numbers[node.output[0]] = _constant(node)
            return
        self._refuse_numbers_used_twice(node)
        self.part = _part(node)
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
        outputs = [found] if len(node.output) == 1 else self.parts
        for name, wire in zip(node.output, outputs, strict=True):
            self._wires[name] = wire
            if self._users[name] > 1:
                self.made.fresh.discard(wire.place)

    def _layer_of(self, node: Any, settings: Settings, given: list[Any]) -> Wire | None:
        rule = self._rules.get(node.op_type)
        if rule is None:
            return None
        self.learns, self.parts = "%p_" in _made_from(node), ()
        if isinstance(given[0], Wire):
            return rule(self, settings, *given)
        if node.op_type in ("Add", "Mul") and isinstance(given[1], Wire):
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

    parts: Sequence[Wire] = ()  # of Split
    part = ""  # of the network, that is translated
    learns = False  # whether the node that is translated has parameters

    # -- layers ------------------------------------------------------------------------------------

    def add(
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
        self.made.names[place] = self.part
        if layer.parameters:
            self.made.values[place] = list(values)
            self.made.fresh.add(place)
        return place, after

    def placed(self, wire: Wire, shape: Shape) -> int:
        """Return the place of the wire's numbers in this shape."""
        place, held = wire.place, wire.held
        if held == shape:
            return place
        if len(held) > 1:
            place, held = self.add("Flatten", (), [place], [held])
        if len(shape) > 1:
            place, held = self.add("Unflatten", shape, [place], [held])
        return place

    def one(
        self,
        wire: Wire,
        kind: LayerKind,
        sizes: Shape = (),
        values: Sequence[Floats] = (),
        *,
        form: Shape | None = None,
        by: float = 0.0,
        shape: Shape | None = None,
    ) -> Wire:
        """Add a layer that takes one output. ``form``: the shape that it takes; the wire's own if
        None. ``shape``: of its output in ONNX; as it is held, after a 1, if None."""
        form = wire.held if form is None else form
        place, held = self.add(kind, sizes, [self.placed(wire, form)], [form], values, by)
        return Wire(place, held, wire.shape if shape is None else shape)

    def absorbs(self, wire: Wire, kinds: tuple[LayerKind, ...]) -> bool:
        """Return whether the layer of an output can take the numbers that this node adds."""
        return (
            wire.place in self.made.fresh
            and self.made.layers[wire.place].kind in kinds
            and wire.place == len(self.made.layers) - 1
            and self.learns
        )


def stripped(shape: Shape) -> Shape:
    """Return a shape without its first side if that is 1, and others are left."""
    return shape[1:] if shape[0] == 1 and len(shape) > 1 else shape


def notes_of(node: Any) -> dict[str, str]:
    """Return what torch's exporter notes of a node; a file of another origin may hold anything."""
    found = {one.key: one.value for one in node.metadata_props}
    return {k: v for k, v in found.items() if isinstance(k, str) and isinstance(v, str)}


def _made_from(node: Any) -> str:
    """Return the call of torch's that became a node, with its parameters as ``%p_NAME``."""
    return notes_of(node).get("pkg.torch.onnx.fx_node", "")


def _where(node: Any) -> str:
    """Return the layer of the network that became a node, if torch's exporter says it."""
    named = _part(node)
    return f"the layer {named!r}" if named else f"the node {node.name or node.output[0]!r}"


def _part(node: Any) -> str:
    """Return what torch calls the part of the network that became a node."""
    named = _SCOPE.findall(notes_of(node).get("pkg.torch.onnx.name_scopes", ""))[:-1]
    return named[-1] if named else ""


def _refuse_folded(node: Any) -> None:
    """Raise UsageError for batch normalisation that the exporter made part of the layer before."""
    for note in notes_of(node).values():
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
