"""Translate a network that was exported as ONNX into a model pack: a list of FLO's layers.

The network is read for one record. Its nodes become layers in their order; a node that only gives
numbers another shape becomes none until a layer needs that shape. What torch calls parameters
become parameters of layers; fixed numbers become settings of layers, or have no layer. Nothing of
the file's parameters is in the pack: training starts at FLO's public start. If parts of it stay
frozen, their numbers are written to a file of their own. The pack is built with random numbers in
the place of parameters, and compared with what ONNX Runtime computes of the file with the same
numbers, so that a wrong translation is never used.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from flo.arrays import Floats
from flo.clients.data_process.encoder_file import UnfitEncoderError, checked
from flo.documents.document import parse
from flo.errors import UsageError
from flo.lab.adapters import Asked, adapted
from flo.lab.onnx_layers import RULES as LAYERS
from flo.lab.onnx_network import Network, notes_of
from flo.lab.onnx_shapes import RULES as SHAPES
from flo.scoring.network import session_of
from flo.study import frozen, networks
from flo.study.layers import Layer
from flo.study.packs import RECORD, Pack

_COMPARED, _ALIKE = 16, 1e-3  # records; how far scores may differ, relative to their spread
_OLDEST = 18  # opset


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
        made = Network(model, LAYERS | SHAPES).made
        said = {"kind": "pack", "name": name, "layers": _named(made.layers)}
        pack = parse(Pack, said, "the pack is not valid")
        _compare(model.SerializeToString(), pack, made.values)
    except UsageError:
        raise
    except Exception as error:  # of onnx, onnxruntime and protobuf, on a file of any content
        raise UsageError(
            f"the network's file cannot be read: {type(error).__name__}",
            hint="export it again; if that does not help, report the file",
        ) from error
    return pack


def frozen_pack_of(data: bytes, name: str, asked: Asked) -> tuple[Pack, bytes]:
    """Return the pack of a network of which most is frozen, and the file of the frozen numbers.

    Raises UsageError as ``pack_of`` and ``adapted`` do.
    """
    pack_of(data, name)  # refuses what cannot be translated
    made = Network(checked(data, operators=None), LAYERS | SHAPES).made
    found = adapted(made.layers, made.names, asked)
    numbers, trained = dict[str, Floats](), dict[int, list[Floats]]()
    for place, layer in enumerate(found.layers):
        if layer.frozen:
            given = zip(layer.shapes, made.values[found.before[place]], strict=True)
            numbers |= {f"{place}.{own}": array for own, array in given}
        elif layer.shapes:
            usual = [np.full(shape, float(not layer.zero)) for shape in layer.shapes.values()]
            trained[place] = made.values[found.before[place]] if place in found.before else usual
    file = frozen.to_bytes(numbers)
    said = {
        **{"kind": "pack", "name": name, "layers": _named(found.layers)},
        "numbers": frozen.learn(file),
    }
    pack = parse(Pack, said, "the pack is not valid")
    _compare(data, pack, trained)
    return pack, file


def _refuse_other_exporters(model: Any) -> None:
    """Raise UsageError for a file that does not say which of its numbers are parameters."""
    said = any(key.startswith("pkg.torch") for node in model.graph.node for key in notes_of(node))
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
        said |= {own: True for own in ("frozen", "zero") if getattr(layer, own)}
        found.append(said)
    return found


def _compare(data: bytes, pack: Pack, values: Mapping[int, list[Floats]]) -> None:
    """Raise UsageError unless the pack computes what the file does.

    ``values``: numbers of the layers that are trained, by place.
    """
    import torch

    session = session_of(data)
    (wanted,) = session.get_inputs()
    width = math.prod(wanted.shape[1:])
    try:
        networks.output(pack.network, width)
    except ValueError as error:
        raise UsageError(str(error), hint="the layers are in docs/reference/study.md") from error
    shapes = networks.frozen_shapes(pack.network)
    module = networks.build(pack.network, frozen.of(pack.numbers, shapes) if pack.numbers else None)
    trained = [array for place in sorted(values) for array in values[place]]
    for parameter, array in zip(module.parameters(), trained, strict=True):
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
            hint="does its last layer start at 0, or does it subtract the mean over records? Each "
            "record is treated alone",
        )
    if not np.allclose(ours, theirs, rtol=0, atol=_ALIKE * spread):
        raise UsageError(
            f"the translation computes other scores than the file: {ours[0]} and {theirs[0]} for "
            "a made-up record",
            hint="write the pack by hand (docs/reference/study.md), and report this file",
        )
