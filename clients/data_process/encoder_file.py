"""What an encoder's ONNX file may contain: a fixed function of one image, from numbers to numbers.

These rules refuse, by name, a file that reads other files (external data), that draws random
numbers, that uses operators outside ONNX's own, or whose input or output have no fixed size.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Any

from pydantic import Field

from flo.documents.document import Document

MOST_BYTES = 1 << 30
_MOST_NODES = 100_000
_DEEPEST = 8  # graphs within graphs
_STANDARD = ("", "ai.onnx")
_RANDOM = (
    "Bernoulli",
    "Multinomial",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
)
_OF_A_FILE = "an ONNX file that holds its own weights"


class UnfitEncoderError(ValueError):
    """The file is no encoder. Its text is about the file, never about patients."""


class EncoderFacts(Document):
    """What an encoder's file states: the image that it takes, and what it makes of it.

    ``operators``: kinds of its nodes, sorted. ``parameters``: how many numbers it holds.
    """

    channels: Annotated[int, Field(ge=1)]
    height: Annotated[int, Field(ge=1)]
    width: Annotated[int, Field(ge=1)]
    features: Annotated[int, Field(ge=1)]
    parameters: Annotated[int, Field(ge=0)]
    operators: tuple[str, ...]


def checked(data: bytes) -> Any:
    """Return an ONNX file's model, after checking all rules that need no sizes and no run.

    Raises:
        UnfitEncoderError: names what is wrong.
    """
    model = _parsed(data)
    graph = model.graph
    domains = {one.domain for one in model.opset_import} - set(_STANDARD)
    if domains or model.functions:
        others = ", ".join(sorted(map(repr, domains))) or "its own functions"
        raise UnfitEncoderError(f"it uses operators of {others}; only ONNX's own may be used")
    for number, (node, depth) in enumerate(_nodes(graph)):
        if number >= _MOST_NODES or depth > _DEEPEST:
            raise UnfitEncoderError(
                f"it has more than {_MOST_NODES} nodes, or graphs nested deeper than {_DEEPEST}"
            )
        _refuse_node(node)
    parameters = 0
    for tensor in _tensors(graph):
        if tensor.external_data or tensor.data_location:
            raise UnfitEncoderError(
                f"its tensor {tensor.name!r} is kept in another file; export {_OF_A_FILE}"
            )
        parameters += _product(tensor.dims)
        if min(tensor.dims, default=0) < 0 or parameters > 8 * len(data):
            raise UnfitEncoderError(f"its tensor {tensor.name!r} states more than the file holds")
    return model


def read_facts(data: bytes) -> EncoderFacts:
    """Return what an encoder's file states. Raises UnfitEncoderError: names what is wrong."""
    graph = checked(data).graph
    held = {tensor.name for tensor in graph.initializer}
    inputs = [one for one in graph.input if one.name not in held]
    if len(inputs) != 1 or len(graph.output) != 1:
        raise UnfitEncoderError(
            f"it has {len(inputs)} inputs and {len(graph.output)} outputs, where one of each is "
            "expected: an image, and its features"
        )
    channels, height, width = _size(inputs[0], "input", 3)
    (features,) = _size(graph.output[0], "output", 1)
    return EncoderFacts(
        channels=channels,
        height=height,
        width=width,
        features=features,
        parameters=sum(_product(tensor.dims) for tensor in _tensors(graph)),
        operators=tuple(sorted({node.op_type for node, _ in _nodes(graph)})),
    )


def _parsed(data: bytes) -> Any:
    import onnx
    from google.protobuf.message import DecodeError

    if data[:4] == b"PK\x03\x04":
        raise UnfitEncoderError(
            "it is an archive, such as a wheel or torch's .pt, which may hold code; "
            f"export {_OF_A_FILE}"
        )
    if data[:1] == b"\x80":
        raise UnfitEncoderError(f"it is a pickle, which could run code; export {_OF_A_FILE}")
    try:
        model = onnx.load_model_from_string(data)
    except DecodeError:
        model = None
    if model is None or not model.graph.node:
        raise UnfitEncoderError(f"it is not ONNX; export {_OF_A_FILE}")
    return model


def _refuse_node(node: Any) -> None:
    what = f"its node {node.name or next(iter(node.output), '')!r}"
    if not isinstance(node.op_type, str):
        raise UnfitEncoderError(f"{what} has an operator whose name is no text")
    if node.domain not in _STANDARD:
        raise UnfitEncoderError(f"{what} is of the domain {node.domain!r}, which is not ONNX's own")
    if node.op_type in _RANDOM:
        raise UnfitEncoderError(f"{what} ({node.op_type}) draws random numbers")
    trains = any(one.name == "training_mode" and one.i for one in node.attribute)
    if trains or (node.op_type == "Dropout" and len(node.input) > 2 and node.input[2]):
        raise UnfitEncoderError(
            f"{what} ({node.op_type}) is in its training mode; export the network after .eval()"
        )


def _nodes(graph: Any, depth: int = 1) -> Iterator[tuple[Any, int]]:
    for node in graph.node:
        yield node, depth
        if depth <= _DEEPEST:
            for inner in _graphs(node):
                yield from _nodes(inner, depth + 1)


def _graphs(node: Any) -> Iterator[Any]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _tensors(graph: Any) -> Iterator[Any]:
    """Yield all constants of a graph and of the graphs within."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node, _ in _nodes(graph):
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for sparse in (
                *([attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []),
                *attribute.sparse_tensors,
            ):
                yield from (sparse.values, sparse.indices)
        for inner in _graphs(node):
            yield from inner.initializer


def _size(value: Any, what: str, sides: int) -> list[int]:
    """Return the sizes of one record; the first dimension counts records."""
    kind = value.type.tensor_type
    dimensions = list(kind.shape.dim)
    sizes = [one.dim_value for one in dimensions[1:]]
    if kind.elem_type != 1 or len(dimensions) != sides + 1 or min(sizes, default=0) < 1:
        wanted = "(records, channels, height, width)" if sides == 3 else "(records, features)"
        raise UnfitEncoderError(
            f"its {what} {value.name!r} must be float32 of shape {wanted}, all but the number of "
            "records fixed"
        )
    if dimensions[0].dim_value not in (0, 1):
        raise UnfitEncoderError(
            f"its {what} {value.name!r} holds {dimensions[0].dim_value} records; export it for 1"
        )
    return sizes


def _product(sizes: Iterable[int]) -> int:
    found = 1
    for size in sizes:
        found *= size
    return found
