"""A published model as ONNX, for other software. Needs the extra ``onnx``.

The network takes encoded inputs, not a hospital's columns; the file's metadata lists them in order,
with the study's digest and the card's calibration, a curve of risks by log odds. FLO's signature
does not cover the ONNX file.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.special import logit

from flo.arrays import Floats
from flo.errors import StudyError, UsageError
from flo.published.model_card import PublishedModel
from flo.scoring.network import session_of
from flo.study.document import Study
from flo.study.features import input_names
from flo.study.models import build
from flo.study.yes_or_no import require_yes_or_no


def onnx_scores(data: bytes, study: Study) -> Callable[[Floats], Floats]:
    """Return the function from encoded inputs (n, d) to log odds (n,) of an exported model.

    Raises:
        UsageError: the extra is not installed, or ``data`` is no export of a model of this study.
    """
    session = _session(data)
    (wanted,) = session.get_inputs()
    kind = np.float64 if wanted.type == "tensor(double)" else np.float32
    places = _places(session, study)

    def score(inputs: Floats) -> Floats:
        (found,) = session.run(None, {wanted.name: inputs[:, places].astype(kind)})
        with np.errstate(divide="ignore"):  # a score of exactly 0 or 1
            return np.asarray(logit(found[:, 0].astype(np.float64)))

    return score


def places_of(data: bytes, study: Study) -> list[int]:
    """Return the place of each input of an export among the study's. Raises as ``onnx_scores``."""
    return _places(_session(data), study)


def _session(data: bytes) -> Any:
    try:
        return session_of(data)
    except ImportError as error:
        raise UsageError(
            "reading ONNX needs onnxruntime", hint="pip install 'flo-federated[onnx]'"
        ) from error
    except Exception as error:  # its errors have no public base class
        raise UsageError(f"not an ONNX model: {error}") from error


def _places(session: Any, study: Study) -> list[int]:
    named = session.get_modelmeta().custom_metadata_map.get("inputs", "").split("\n")
    ours = input_names(study.data)
    if sorted(named) != sorted(ours):
        raise UsageError(
            f"the ONNX file has other inputs than {study.name}",
            hint="its metadata entry `inputs` must list the study's inputs, in any order",
        )
    return [ours.index(name) for name in named]


def to_onnx(model: PublishedModel) -> bytes:
    """Return the network from ``inputs`` (n, d) to ``score`` (n, 1), 0 to 1, for any n.

    Raises:
        UsageError: the extra is not installed. StudyError: it foresees the time to an event, or has
        frozen layers.
    """
    require_yes_or_no(model.study, "an export as ONNX")
    if model.study.frozen_file:
        raise StudyError(
            f"{model.title} has frozen layers, which are not in an export",
            hint="flo model predict scores with it, where their file is installed",
        )
    try:
        import onnx
        import onnxscript  # noqa: F401 - torch's exporter needs it and reports that unclearly
    except ImportError as error:
        raise UsageError(
            "ONNX export needs onnx and onnxscript", hint="pip install 'flo-federated[onnx]'"
        ) from error
    import torch

    network = build(model.study)
    weights = torch.from_numpy(model.weights)
    parameters = list(network.parameters())
    torch.nn.utils.vector_to_parameters(weights.to(parameters[0].dtype), parameters)
    whole = torch.nn.Sequential(network, torch.nn.Sigmoid()).eval()
    names = input_names(model.study.data)
    example = torch.zeros(2, len(names), dtype=parameters[0].dtype)
    with warnings.catch_warnings():  # torch's exporter warns about its own deprecations
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program: Any = torch.onnx.export(
            whole,
            (example,),
            dynamo=True,
            verbose=False,
            input_names=["inputs"],
            output_names=["score"],
            dynamic_shapes=({0: torch.export.Dim("records")},),
        )
    written = io.BytesIO()
    program.save(written)
    document = onnx.load_from_string(written.getvalue())
    facts = {
        "study": model.study.digest,
        "run": model.card.run,
        "inputs": "\n".join(names),
        "epsilon": f"{model.card.epsilon}",
        "delta": f"{model.card.delta:g}",
    }
    if model.card.calibration is not None:
        facts["calibration"] = model.card.calibration.to_bytes().decode()
    onnx.helper.set_model_props(document, facts)
    onnx.checker.check_model(document)
    data: bytes = document.SerializeToString()
    return data
