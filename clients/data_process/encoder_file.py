"""What an encoder's ONNX file may contain: a fixed function of one image or note.

Only operators on float numbers that are listed here, each with sides that are known before any
record is seen. What the list leaves out could read other files, draw random numbers, give a record
a number of outputs that depends on it, or return memory that it has not written: onnxruntime 1.32
leaves outputs of integer products unwritten where a side is 0, and they then hold another
patient's numbers. Indices and shapes are constants of the file, so that no pixel can be one. The
tokens of a note are indices, but only of the rows of constant tables, and no tokenizer is taken
that has more tokens than the smallest table has rows.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Annotated, Any

from pydantic import Field

from flo.documents.document import Document
from flo.study.encoders import LARGEST_ENCODED_IMAGE, MOST_FEATURES, MOST_TOKENS

MOST_BYTES = 1 << 30
_MOST_NODES = 100_000
_MOST_NUMBERS = 1 << 30  # of an output
_STANDARD = ("", "ai.onnx")
_FLOAT, _INT32, _INT64, _BOOL = 1, 6, 7, 9  # onnx.TensorProto.DataType
_OPERATORS = frozenset(
    {
        *("Abs", "Add", "AveragePool", "BatchNormalization", "Cast", "Clip", "Concat", "Constant"),
        *("Conv", "Div", "Dropout", "Elu", "Erf", "Exp", "Expand", "Flatten", "Gather", "Gelu"),
        *("Gemm", "GlobalAveragePool", "GlobalMaxPool", "GroupNormalization", "HardSigmoid"),
        *("HardSwish", "Identity", "InstanceNormalization", "IsNaN", "LayerNormalization"),
        *("LeakyRelu", "Log", "MatMul", "Max", "MaxPool", "Min", "Mul", "Neg", "PRelu", "Pad"),
        *("Pow", "RMSNormalization", "Reciprocal", "ReduceL2", "ReduceMax", "ReduceMean"),
        *("ReduceMin", "ReduceSum", "Relu", "Reshape", "Selu", "Sigmoid", "Slice", "Softmax"),
        *("Softplus", "Split", "Sqrt", "Squeeze", "Sub", "Tanh", "Transpose", "Unsqueeze"),
        "Where",
    }
)
_OF_A_FILE = "an ONNX file that holds its own weights"


class UnfitEncoderError(ValueError):
    """The file is no encoder. Its text is about the file, never about patients."""


class TakesImage(Document):
    """An image of this size."""

    channels: Annotated[int, Field(ge=1)]
    height: Annotated[int, Field(ge=1)]
    width: Annotated[int, Field(ge=1)]


class TakesNote(Document):
    """A note of ``tokens`` tokens, padded. ``rows``: of its smallest table; a token is below it."""

    tokens: Annotated[int, Field(ge=1)]
    rows: Annotated[int, Field(ge=1)]


class EncoderFacts(Document):
    """What an encoder's file states: the record that it takes, and its number of features.

    ``operators``: kinds of its nodes, sorted. ``parameters``: how many numbers it holds.
    """

    takes: TakesImage | TakesNote
    features: Annotated[int, Field(ge=1)]
    parameters: Annotated[int, Field(ge=0)]
    operators: tuple[str, ...]


def checked(data: bytes, operators: Collection[str] | None = _OPERATORS) -> Any:
    """Return an ONNX file's model, after checking its operators and constants.

    ``operators``: kinds of nodes that it may have; None if the caller knows each that it takes. It
    has no fields that were not looked at: run what it serialises to, and not ``data``.

    Raises:
        UnfitEncoderError: names what is wrong.
    """
    model = _parsed(data)
    model.DiscardUnknownFields()
    for unused in ("doc_string", "producer_name", "metadata_props", "training_info"):
        model.ClearField(unused)
    graph = model.graph
    graph.ClearField("quantization_annotation")
    domains = {one.domain for one in model.opset_import} - set(_STANDARD)
    if domains or model.functions:
        others = ", ".join(sorted(map(repr, domains))) or "its own functions"
        raise UnfitEncoderError(f"it uses operators of {others}; only ONNX's own may be used")
    if len(graph.node) > _MOST_NODES:
        raise UnfitEncoderError(f"it has more than {_MOST_NODES} nodes")
    for node in graph.node:
        _refuse_node(node)
        if operators is not None and node.op_type not in operators:
            raise UnfitEncoderError(
                f"{_what(node)} ({node.op_type}) is not one of the operators that FLO runs"
            )
    if graph.sparse_initializer:
        raise UnfitEncoderError(f"it has sparse tensors; export {_OF_A_FILE}")
    held = 0
    for tensor in _tensors(graph):
        if tensor.external_data or tensor.data_location:
            raise UnfitEncoderError(
                f"its tensor {tensor.name!r} is kept in another file; export {_OF_A_FILE}"
            )
        if tensor.data_type not in (_FLOAT, _INT32, _INT64, _BOOL):
            raise UnfitEncoderError(f"its tensor {tensor.name!r} is not float32; export it as such")
        held += math.prod(tensor.dims)
        if min(tensor.dims, default=1) < 1 or held > len(data):
            raise UnfitEncoderError(f"its tensor {tensor.name!r} states more than the file holds")
    return model


def read_facts(data: bytes) -> tuple[EncoderFacts, bytes]:
    """Return what an encoder's file states, and the file to run.

    Raises:
        UnfitEncoderError: names what is wrong.
    """
    model = checked(data)
    graph = model.graph
    held = {tensor.name for tensor in graph.initializer}
    inputs = [one for one in graph.input if one.name not in held]
    if len(inputs) not in (1, 2) or len(graph.output) != 1:
        raise UnfitEncoderError(
            f"it has {len(inputs)} inputs and {len(graph.output)} outputs, where an image and its "
            "features are expected; or the tokens of a note, which of them are no padding, and its "
            "features"
        )
    takes = _image_of(inputs[0]) if len(inputs) == 1 else _note_of(graph, inputs)
    (features,) = _size(graph.output[0], "output", "features")
    if features > MOST_FEATURES:
        raise UnfitEncoderError(f"it makes {features} numbers, limit {MOST_FEATURES}")
    for value in (*inputs, graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    _refuse_sizes_that_are_not_fixed(model)
    facts = EncoderFacts(
        takes=takes,
        features=features,
        parameters=sum(math.prod(tensor.dims) for tensor in _tensors(graph)),
        operators=tuple(sorted({node.op_type for node in graph.node})),
    )
    return facts, model.SerializeToString()


def _image_of(value: Any) -> TakesImage:
    channels, height, width = _size(value, "input", "channels, height, width")
    if channels * height * width > LARGEST_ENCODED_IMAGE:
        raise UnfitEncoderError(
            f"it takes an image of {channels} × {height} × {width}; limit "
            f"{LARGEST_ENCODED_IMAGE} pixels"
        )
    return TakesImage(channels=channels, height=height, width=width)


def _note_of(graph: Any, inputs: list[Any]) -> TakesNote:
    """Return what a network of notes takes: int64 tokens, and float32 that is 0 for padding.

    Raises UnfitEncoderError, also if tokens are used but as places in constant tables.
    """
    ids, mask = sorted(inputs, key=lambda one: one.type.tensor_type.elem_type == _FLOAT)
    (tokens,) = _size(ids, "input", "tokens", _INT64)
    (marks,) = _size(mask, "input", "tokens")
    if tokens != marks or tokens > MOST_TOKENS:
        raise UnfitEncoderError(
            f"it takes {tokens} tokens and {marks} marks of padding; both must be the same number, "
            f"limit {MOST_TOKENS}"
        )
    tables = {
        one.name: one.dims[0]
        for one in graph.initializer
        if one.data_type == _FLOAT and len(one.dims) == 2
    }
    rows = []
    for node in graph.node:
        axis = [one.i for one in node.attribute if one.name == "axis"]
        for place, name in enumerate(node.input):
            if name != ids.name:
                continue
            if node.op_type != "Gather" or place != 1 or axis not in ([], [0]):
                raise UnfitEncoderError(
                    f"{_what(node)} ({node.op_type}) uses tokens for something else than to take "
                    "rows of a table; export only an embedding of them"
                )
            if node.input[0] not in tables:
                raise UnfitEncoderError(
                    f"{_what(node)} takes rows of what is no table of float32 within the file"
                )
            rows.append(tables[node.input[0]])
    if not rows:
        raise UnfitEncoderError("it does not use the tokens")
    return TakesNote(tokens=tokens, rows=min(rows))


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
        raise UnfitEncoderError(f"it is not ONNX, or too large to read; export {_OF_A_FILE}")
    return model


def _what(node: Any) -> str:
    return f"its node {node.name or next(iter(node.output), '')!r}"


def _refuse_node(node: Any) -> None:
    what = _what(node)
    if node.domain not in _STANDARD:
        raise UnfitEncoderError(f"{what} is of the domain {node.domain!r}, which is not ONNX's own")
    if not isinstance(node.op_type, str):
        raise UnfitEncoderError(f"{what} has an operator whose name is no text")
    trains = any(one.name == "training_mode" and one.i for one in node.attribute)
    if trains or (node.op_type == "Dropout" and len(node.input) > 2 and node.input[2]):
        raise UnfitEncoderError(
            f"{what} ({node.op_type}) is in its training mode; export the network after .eval()"
        )
    to = [one.i for one in node.attribute if one.name == "to"]
    if node.op_type == "Cast" and to not in ([_FLOAT], [_BOOL]):
        raise UnfitEncoderError(f"{what} (Cast) makes other numbers than float32")
    for one in node.attribute:
        if one.HasField("g") or one.graphs or one.HasField("sparse_tensor") or one.sparse_tensors:
            raise UnfitEncoderError(f"{what} ({node.op_type}) holds a graph, or sparse numbers")


def _tensors(graph: Any) -> list[Any]:
    """Return all constants."""
    found = list(graph.initializer)
    for node in graph.node:
        for attribute in node.attribute:
            found += [attribute.t] if attribute.HasField("t") else []
            found += attribute.tensors
    return found


def _refuse_sizes_that_are_not_fixed(model: Any) -> None:
    """Raise UnfitEncoderError unless all sides of all outputs follow from the input's size alone.

    The types of all outputs are known then, and no whole numbers are among them but constants: an
    index or a shape that is computed could be a pixel.
    """
    import onnx

    model.graph.ClearField("value_info")  # what the file says of its own
    try:
        found = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    except Exception as error:  # noqa: BLE001 - of onnx's library, on a file of any content
        raise UnfitEncoderError(
            f"the sizes within it do not fit each other: {str(error)[:300]}"
        ) from None
    known = {one.name: one.type for one in (*found.graph.value_info, *found.graph.output)}
    for node in model.graph.node:
        if node.op_type == "Constant":
            continue
        for name in filter(None, node.output):
            kind = known[name].tensor_type if name in known else None
            sides = [one.dim_value for one in kind.shape.dim] if kind is not None else [0]
            if kind is None or kind.elem_type not in (_FLOAT, _BOOL) or min(sides, default=1) < 1:
                raise UnfitEncoderError(
                    f"the output {name!r} of its {node.op_type} is not float32 of a size that is "
                    "known beforehand"
                )
            if math.prod(sides) > _MOST_NUMBERS:
                raise UnfitEncoderError(
                    f"the output {name!r} has {math.prod(sides)} numbers, limit {_MOST_NUMBERS}"
                )


def _size(value: Any, what: str, sides: str, element: int = _FLOAT) -> list[int]:
    """Return the sizes of one record; the first dimension counts records.

    ``sides``: their names, such as ``height, width``.
    """
    kind = value.type.tensor_type
    dimensions = list(kind.shape.dim)
    sizes = [one.dim_value for one in dimensions[1:]]
    fits = kind.elem_type == element and len(sizes) == sides.count(",") + 1
    if not fits or min(sizes, default=0) < 1:
        raise UnfitEncoderError(
            f"its {what} {value.name!r} must be {'float32' if element == _FLOAT else 'int64'} of "
            f"shape (records, {sides}), all but the number of records fixed"
        )
    if dimensions[0].dim_value not in (0, 1):
        raise UnfitEncoderError(
            f"its {what} {value.name!r} holds {dimensions[0].dim_value} records; export it for 1"
        )
    return sizes
