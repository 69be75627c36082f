"""Small encoders as ONNX files: one that fits, and what makes it unfit."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

from flo.clients.data_process.encoding import encoder_path
from flo.documents import canonical

FEATURES = 6
Change = Callable[[ModelProto], object]


def model(channels: int = 1, height: int = 8, width: int = 9) -> ModelProto:
    """A convolution, a tanh and averages of halves: an image becomes six numbers."""
    filters = np.random.default_rng(5).normal(size=(3, channels, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["image", "filters"], ["maps"], pads=[1, 1, 1, 1], name="conv"),
        helper.make_node("Tanh", ["maps"], ["bent"], name="tanh"),
        helper.make_node(
            "AveragePool",
            ["bent"],
            ["halves"],
            name="pool",
            kernel_shape=[height // 2, width],
            strides=[height // 2, width],
        ),
        helper.make_node("Flatten", ["halves"], ["features"], name="flat"),
    ]
    graph = helper.make_graph(
        nodes,
        "encoder",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", channels, height, width])],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", FEATURES])],
        [numpy_helper.from_array(filters, "filters")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def encoder(*changes: Change, **sizes: int) -> bytes:
    """Its bytes. ``changes``: applied to it before."""
    return written(model(**sizes), changes)


def written(made: ModelProto, changes: Iterable[Change]) -> bytes:
    """The bytes of a network, after ``changes``."""
    for change in changes:
        change(made)
    data: bytes = made.SerializeToString()
    return data


def kept(folder: Path, data: bytes) -> dict[str, Any]:
    """Write an encoder where it is looked for; return what a study states of it."""
    digest = canonical.digest(data)
    folder.mkdir(parents=True, exist_ok=True)
    encoder_path(folder, digest).write_bytes(data)
    return {"name": "six numbers", "file": digest, "features": FEATURES}


def expected(data: bytes, images: np.ndarray) -> np.ndarray:
    """What onnxruntime makes of all images at once; pixels in [-1, 1], (n, c, h, w)."""
    import onnxruntime

    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"image": images.astype(np.float32)})
    return np.asarray(found)


# -- what makes a file unfit ----------------------------------------------------------------------


def elsewhere(found: ModelProto) -> None:
    """Its weights are in another file of the machine."""
    tensor = found.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")


def elsewhere_within(found: ModelProto) -> None:
    """So are a constant's, in a branch."""
    constant = helper.make_tensor("shadow", TensorProto.FLOAT, [1], [0.0])
    constant.ClearField("float_data")
    constant.data_location = TensorProto.EXTERNAL
    constant.external_data.add(key="location", value="/etc/shadow")
    branch = helper.make_graph(
        [helper.make_node("Constant", [], ["c"], value=constant)],
        "branch",
        [],
        [helper.make_tensor_value_info("c", TensorProto.FLOAT, [1])],
    )
    yes = numpy_helper.from_array(np.array(True), "yes")
    found.graph.initializer.append(yes)
    node = helper.make_node("If", ["yes"], ["d"], then_branch=branch, else_branch=branch)
    found.graph.node.insert(0, node)


def of_another_domain(found: ModelProto) -> None:
    found.graph.node[1].domain = "org.example"
    found.opset_import.append(helper.make_opsetid("org.example", 1))


def of_an_undeclared_domain(found: ModelProto) -> None:
    found.graph.node[1].domain = "org.example"


def drawn(found: ModelProto) -> None:
    found.graph.node[1].CopyFrom(
        helper.make_node("RandomNormalLike", ["maps"], ["bent"], name="dice")
    )


def training(found: ModelProto) -> None:
    ones = numpy_helper.from_array(np.ones(3, dtype=np.float32), "ones")
    found.graph.initializer.append(ones)
    found.graph.node[1].CopyFrom(
        helper.make_node(
            "BatchNormalization",
            ["maps", "ones", "ones", "ones", "ones"],
            ["bent", "mean", "deviation"],
            name="norm",
            training_mode=1,
        )
    )


def two_inputs(found: ModelProto) -> None:
    found.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [1]))


def any_size(found: ModelProto) -> None:
    found.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"


def two_at_once(found: ModelProto) -> None:
    found.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2


def doubles(found: ModelProto) -> None:
    found.graph.input[0].type.tensor_type.elem_type = TensorProto.DOUBLE


def sparse(found: ModelProto) -> None:
    values = helper.make_tensor("filters", TensorProto.FLOAT, [1], [1.0])
    indices = helper.make_tensor("places", TensorProto.INT64, [1], [0])
    found.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [3, 1, 3, 3]))


def sparse_constant(found: ModelProto) -> None:
    values = helper.make_tensor("", TensorProto.FLOAT, [1], [1.0])
    indices = helper.make_tensor("", TensorProto.INT64, [1], [0])
    node = helper.make_node("Constant", [], ["c"], name="constant")
    node.attribute.append(
        helper.make_attribute("sparse_value", helper.make_sparse_tensor(values, indices, [1 << 40]))
    )
    found.graph.node.insert(0, node)


def as_many_rows_as_a_pixel_says(found: ModelProto) -> None:
    """An image has two outputs, or none: the next image's place moves."""
    found.graph.initializer.extend(
        [
            numpy_helper.from_array(np.array([0, 0, 0, 0], dtype=np.int64), "first"),
            numpy_helper.from_array(np.array([1, 1, 1, 1], dtype=np.int64), "last"),
            numpy_helper.from_array(np.array([1], dtype=np.int64), "one"),
        ]
    )
    found.graph.node.extend(
        [
            helper.make_node("Slice", ["image", "first", "last"], ["pixel"]),
            helper.make_node("Cast", ["pixel"], ["whole"], to=TensorProto.INT64),
            helper.make_node("Reshape", ["whole", "one"], ["rows"]),
            helper.make_node("Concat", ["rows", "one"], ["times"], axis=0),
            helper.make_node("Tile", ["flat", "times"], ["features"]),
        ]
    )
    found.graph.node[3].output[0] = "flat"


def unwritten(found: ModelProto) -> None:
    """A product of whole numbers over a side of 0, whose output onnxruntime leaves unwritten."""
    empty = numpy_helper.from_array(np.zeros((1, 0), dtype=np.uint8), "empty")
    wide = numpy_helper.from_array(np.zeros((0, 6), dtype=np.uint8), "wide")
    found.graph.initializer.extend([empty, wide])
    found.graph.node.append(
        helper.make_node("MatMulInteger", ["empty", "wide"], ["stale"], name="product")
    )


def of_no_side(found: ModelProto) -> None:
    """A slice of nothing."""
    for name, at in (("from", 0), ("to", 0)):
        found.graph.initializer.append(
            numpy_helper.from_array(np.array([at], dtype=np.int64), name)
        )
    found.graph.node.insert(0, helper.make_node("Slice", ["image", "from", "to"], ["nothing"]))


def half(found: ModelProto) -> None:
    tensor = found.graph.initializer[0]
    values = numpy_helper.to_array(tensor).astype(np.float16)
    tensor.CopyFrom(numpy_helper.from_array(values, "filters"))


def huge(found: ModelProto) -> None:
    """An image of 2^32 pixels."""
    for dimension in found.graph.input[0].type.tensor_type.shape.dim[2:]:
        dimension.dim_value = 1 << 16


def looked_up(found: ModelProto) -> None:
    """A pixel is an index; onnxruntime's log would say which."""
    found.graph.node.insert(
        0, helper.make_node("Cast", ["image"], ["places"], to=TensorProto.INT64, name="cast")
    )
    found.graph.node.insert(1, helper.make_node("Gather", ["filters", "places"], ["found"]))


def blind(found: ModelProto) -> None:
    """It sees nothing of the image: all is multiplied by zero."""
    tensor = found.graph.initializer[0]
    zeros = np.zeros(list(tensor.dims), dtype=np.float32)
    tensor.CopyFrom(numpy_helper.from_array(zeros, "filters"))


def endless(found: ModelProto) -> None:
    """It divides by zero."""
    found.graph.node[1].CopyFrom(helper.make_node("Div", ["maps", "zero"], ["bent"], name="div"))
    found.graph.initializer.append(numpy_helper.from_array(np.zeros((), dtype=np.float32), "zero"))


def with_functions(found: ModelProto) -> None:
    found.functions.append(
        onnx.helper.make_function(
            "own", "f", ["x"], ["y"], [helper.make_node("Tanh", ["x"], ["y"])], []
        )
    )
