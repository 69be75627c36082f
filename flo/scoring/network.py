"""A network as ONNX Runtime computes it, for one record at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from flo.scoring.compiled import Network

if TYPE_CHECKING:
    from flo.arrays import Floats


def network(data: bytes, places: Sequence[int]) -> Network:
    """Return the function from inputs (d,) to the score.

    ``data``: the export (``flo.published.onnx.to_onnx``). ``places``: of its inputs among ours.
    """
    import numpy as np

    session = session_of(data)
    (wanted,) = session.get_inputs()
    kind = np.float64 if wanted.type == "tensor(double)" else np.float32
    order = None if list(places) == list(range(len(places))) else list(places)

    def score(inputs: list[float] | Floats) -> float:
        row = np.asarray(inputs, dtype=kind)[None]
        (found,) = session.run(None, {wanted.name: row if order is None else row[:, order]})
        return float(found[0, 0])

    return score


def session_of(data: bytes) -> Any:
    """Return the session that runs an export on one thread; its errors have no base class."""
    import onnxruntime

    options: Any = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # others wait by spinning
    options.log_severity_level = 4  # its errors may quote a number of a record
    options.add_session_config_entry("session.load_model_format", "ONNX")  # and no other one
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
