"""The models that a study can name: one flat vector of parameters, and how it scores a record.

The coordinator stores a model as its vector and never needs torch; sites build the module to train.
Only parameters travel, never buffers. ``flo.study.networks`` defines the layers.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from flo.arrays import Floats
from flo.errors import StudyError
from flo.study import frozen, networks
from flo.study.classes import against_others, log_risks
from flo.study.columns import EncodedColumn, ImageColumn
from flo.study.document import Study
from flo.study.features import input_names, names_of
from flo.study.gate import CURVE_POINTS
from flo.study.layers import START_AS_ONE, Layer, LayerKind
from flo.study.packs import Attention, Cnn, Mlp, Pack, Recurrent
from flo.study.parameters import Vector
from flo.study.schema import Schema
from flo.study.statistics import coefficient_count
from flo.study.synthetic import made_up_inputs
from flo.study.terms import Purpose

if TYPE_CHECKING:
    import torch

_BLOCK = 1 << 16  # numbers at a time
_AT_ONCE = 1024  # records
OUTPUT_NORM = 4.0  # of the last layer's weights, where a network on whitened inputs starts
_FIRST_LAYER = 0.1  # its first layer starts within ± this/√inputs
_WORTH_SHARING = 1 << 22  # multiplications of a step


def layers(study: Study) -> list[Layer]:
    """Return the layers of the study's model: from inputs (n, d) to log odds (n, 1), or of several
    classes to one number for each (``flo.study.classes``)."""
    inputs, outputs = len(input_names(study.data)), study.data.outputs
    match study.model:
        case Mlp(hidden=hidden):
            return networks.mlp(inputs, hidden, outputs)
        case Cnn():
            image = _image(study.data)
            return networks.cnn(image.channels, image.height, image.width, outputs)
        case Recurrent(kind=kind, hidden=hidden):
            cell: LayerKind = "GRU" if kind == "gru" else "LSTM"
            return networks.recurrent(cell, *_steps(study.data), hidden, outputs)
        case Attention(width=width, heads=heads):
            return networks.attention(*_steps(study.data), width, heads, outputs)
        case Pack():
            return study.model.network
        case _:
            return networks.logistic(inputs, outputs)


def parameter_count(study: Study) -> int:
    """Return the number of parameters p of the study's model."""
    return networks.size(layers(study))


def request_length(study: Study, purpose: Purpose) -> int:
    """Return how many numbers a request for a release carries.

    The model, and for training on whitened inputs also W (``flo.privacy.releases.whitening``); the
    coefficients of all regressions; both models of a gate and an average risk; a monitor's model.
    """
    if purpose == "regression":
        assert study.statistics is not None
        return coefficient_count(study.statistics, study.data)
    if purpose == "gate":
        return sum(parameter_count(form) + 2 * CURVE_POINTS for form in compared(study)) + 1
    if purpose == "monitor":
        return parameter_count(watched(study)) + 2 * CURVE_POINTS
    if purpose in ("survey", "statistics", "moments"):
        return 0
    whitened = purpose == "training" and study.mechanism.algorithm == "whitened"
    matrix = (len(input_names(study.data)) + 1) ** 2 if whitened else 0
    return parameter_count(study) + matrix


def compared(study: Study) -> tuple[Study, Study]:
    """Return the study in the form of its gate's candidate, and in that of the current model.

    Only model and columns differ from the study's. A current model that the study does not name is
    in the study's own form. Raises StudyError before the models' forms are filled in.
    """
    gate = study.gate
    assert gate is not None
    if not gate.is_filled_in:
        raise StudyError(
            "the gate's models are not known yet",
            hint="the coordinator fills them in when it signs the study",
        )
    forms = [study.in_form_of(one) for one in gate.models]
    return forms[0] if gate.candidate else study, forms[-1] if gate.current else study


def watched(study: Study) -> Study:
    """Return the study in the form of the model that it watches.

    Raises StudyError before the model's form is filled in.
    """
    assert study.monitor is not None
    if not study.monitor.models:
        raise StudyError(
            "the monitor's model is not known yet",
            hint="the coordinator fills it in when it signs the study",
        )
    return study.in_form_of(study.monitor.models[0])


def named(study: Study, weights: Vector) -> dict[str, Vector]:
    """Return the flat vector as named tensors, as in a torch module's state."""
    tensors, start = {}, 0
    for name, shape in networks.shapes(layers(study)).items():
        size = math.prod(shape)
        tensors[name] = weights[start : start + size].reshape(shape)
        start += size
    return tensors


def flat(study: Study, tensors: Mapping[str, npt.NDArray[Any]]) -> Vector:
    """Return named tensors as the flat vector. Raises ValueError if they do not fit the study.

    float64 is always accepted: until FLO 0.4 every model was published in it.
    """
    shapes, known = networks.shapes(layers(study)), {precision(study), np.dtype(np.float64)}
    found = {name: tensor.shape for name, tensor in tensors.items()}
    kinds = {tensor.dtype for tensor in tensors.values()}
    if found != shapes or len(kinds) != 1 or not kinds <= known:
        wanted = " or ".join(sorted(str(kind) for kind in known))
        raise ValueError(f"tensors {sorted(found)} where {sorted(shapes)} of {wanted} are expected")
    return np.concatenate([tensors[name].ravel() for name in shapes])


def precision(study: Study) -> np.dtype[Any]:
    """Return a model's number type: float32 for networks, which may be large, else float64.

    W of whitened inputs is float64, and so is a network that is trained on them.
    """
    small = study.model.kind == "logistic" or study.mechanism.algorithm == "whitened"
    return np.dtype(np.float64 if small else np.float32)


def request_precision(study: Study, purpose: Purpose) -> np.dtype[Any]:
    """Return the number type of what a request carries; curves of published models are float64."""
    return np.dtype(np.float64) if purpose in ("gate", "monitor") else precision(study)


def initial_weights(study: Study) -> Vector:
    """Return the public starting point, shape (p,), in the study's precision.

    A logistic model starts at zero, which predicts 0.5 for every record, or every class alike.
    Others start uniformly within ± 1/√inputs of each layer (LeCun 1998), normalisations at 1 and 0;
    on whitened inputs as in ``_nearly_linear``. The digits are SHAKE-256 of the study's digest, so
    that every partner can verify them. The time to an event starts at the hazard that the study
    expects.
    """
    weights = _usual_start(study)
    if study.data.times is not None and _ends_linear(study):
        weights[-1] = study.data.times.first_log_odds
    return weights


def _usual_start(study: Study) -> Vector:
    if study.model.kind == "logistic":
        return np.zeros(parameter_count(study))
    stream = hashlib.shake_256(f"initial weights {study.digest}".encode())
    words = np.frombuffer(stream.digest(8 * parameter_count(study)), dtype="<u8")
    if study.mechanism.algorithm == "whitened":
        return _nearly_linear(study, words / 2.0**63 - 1)
    weights, start = np.empty(len(words), dtype=precision(study)), 0
    for layer in layers(study):
        for name, shape in layer.parameters.items():
            end = start + math.prod(shape)
            if layer.zero:
                weights[start:end] = 0
            elif layer.kind in START_AS_ONE or layer.kind == "Offset":
                weights[start:end] = float(name == "weight")
            else:
                for block in range(start, end, _BLOCK):
                    within = slice(block, min(block + _BLOCK, end))
                    weights[within] = (words[within] / 2.0**63 - 1) / math.sqrt(layer.fan_in)
            start = end
    return weights


def _nearly_linear(study: Study, even: Vector) -> Vector:
    """Return the start of an mlp on whitened inputs, (p,), from even numbers in [-1, 1], (p,).

    The first layer, which has one more input for its bias, is so small that tanh does not bend.
    The next ones keep the length of what passes, each output's weights in the last have the norm
    ``OUTPUT_NORM``, biases are 0. The model thus starts as a linear one of nearly 0, and its first
    steps are those of logistic regression (lazy training: Chizat, Oyallon, Bach 2019).
    """
    network = layers(study)
    first = network[0].sizes
    start = (first[0] + 1) * first[1]
    weights = np.zeros(len(even))
    weights[:start] = even[:start] * _FIRST_LAYER / math.sqrt(first[0] + 1)
    for layer in network[1:]:
        for name, shape in layer.parameters.items():
            end = start + math.prod(shape)
            if name == "weight":
                weights[start:end] = even[start:end] * math.sqrt(3 / shape[1])
            start = end
    width, outputs = network[-1].sizes
    last = weights[-(width + 1) * outputs : -outputs].reshape(outputs, width)
    last *= OUTPUT_NORM / np.linalg.norm(last, axis=1, keepdims=True)
    return weights


def build(study: Study) -> torch.nn.Sequential:
    """Build the study's module, in its precision.

    Raises StudyError if the numbers of frozen layers are not known in this process.
    """
    form, file = layers(study), study.frozen_file
    numbers = frozen.of(file, networks.frozen_shapes(form)) if file else None
    module = networks.build(form, numbers)
    return module.double() if precision(study) == np.float64 else module


def most_records(study: Study) -> int:
    """Return the most records that a patient may have."""
    return study.data.most_records if study.data.records_per_patient == "many" else 1


def largest_batch(study: Study, copies: int = 1, device: str = "cpu") -> int:
    """Return the number of records in a micro-batch.

    It is public and a power of two: no more than the largest partner needs, and never fewer than
    one patient may have; 8 times as many on a GPU as on a CPU. ``copies``: copies of each record.
    """
    wide = any(isinstance(column, EncodedColumn) for column in study.data.columns)
    at_most = (128 if wide else 512) * (1 if device == "cpu" else 8)
    wanted = min(at_most, study.largest_size * copies)
    return 1 << (max(wanted, most_records(study) * copies) - 1).bit_length()


def gains_from_threads(study: Study) -> bool:
    """Return whether a step of this study is large enough to be shared among threads."""
    multiplied = sum(math.prod(s) for layer in layers(study) for s in layer.shapes.values())
    return multiplied * largest_batch(study) >= _WORTH_SHARING


@contextmanager
def as_many_threads_as_help(*, gains: bool) -> Iterator[None]:
    """Limit torch to one thread if its steps do not gain from more."""
    import torch

    threads = torch.get_num_threads()
    if not gains:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def last_layer(study: Study, weights: Vector) -> Floats:
    """Return weights and intercept (k + 1,) with which ``last_features`` become the log odds.

    Of several classes (k + 1, classes), with which they become log risks, but for a number that all
    classes share. If the model does not end in one linear layer, what it says is the features, and
    this is the identity.
    """
    outputs = study.data.outputs
    if not _ends_linear(study):
        layer = np.vstack([np.eye(outputs), np.zeros(outputs)])
    else:
        own = weights[-(_width(study) + 1) * outputs :]
        layer = np.vstack([own[:-outputs].reshape(outputs, -1).T, own[-outputs:]])
    return np.asarray(layer if study.data.classes else layer[:, 0], dtype=np.float64)


def last_features(study: Study, weights: Vector, inputs: Floats) -> Floats:
    """Return the inputs of the model's last layer, (n, k), for inputs (n, d).

    Only for results that stay at the hospital: records are computed together, so that one record
    may change another's features in the last bit.
    """
    if study.model.kind == "logistic":
        return inputs
    if not _ends_linear(study):
        found = scores(study, weights, inputs)
        return log_risks(found) if study.data.classes else found
    return _together(networks.without_last(_loaded(study, weights)), inputs)


def made_up_scores(study: Study, weights: Vector) -> Floats:
    """Return the log odds (n, outputs) of the study's made-up records.

    Records are computed together, which is many times faster for large models. One record may
    change another's log odds in the last bit, so patients' records are scored by ``scores``.
    """
    inputs = made_up_inputs(study.data)
    if study.model.kind == "logistic":
        return scores(study, weights, inputs)
    return _log_odds(study, _together(_loaded(study, weights), inputs))


def _loaded(study: Study, weights: Vector) -> torch.nn.Sequential:
    """Return the study's network with these weights."""
    import torch

    module = build(study)
    single = torch.from_numpy(weights.astype(np.float32))
    torch.nn.utils.vector_to_parameters(single, module.parameters())
    return module


def _together(module: torch.nn.Module, inputs: Floats) -> Floats:
    """Return a network's outputs for inputs (n, d), many records at a time."""
    import torch

    with torch.inference_mode():
        parts = [
            module(torch.from_numpy(inputs[start : start + _AT_ONCE].astype(np.float32)))
            for start in range(0, len(inputs), _AT_ONCE)
        ]
    return np.concatenate([part.numpy() for part in parts]).astype(np.float64)


def _ends_linear(study: Study) -> bool:
    last = layers(study)[-1]
    ends = last.kind == "Linear" and last.sizes[1] == study.data.outputs
    return ends and not last.frozen


def _width(study: Study) -> int:
    return layers(study)[-1].sizes[0]


def log_odds(study: Study, weights: Vector, inputs: Floats) -> Floats:
    """Return log odds of label 1, shape (n,), for inputs (n, d), by a model of one output."""
    found: Floats
    (found,) = scores(study, weights, inputs).T
    return found


def scores(study: Study, weights: Vector, inputs: Floats) -> Floats:
    """Return log odds (n, outputs) for inputs (n, d), one record at a time.

    Of label 1, or of each of several classes against all others.

    A product over the whole batch would be faster, but kernels treat the last rows of a block
    differently. Removing one patient could then change another's score by one bit, and move it
    across a bin's edge. So a logistic model only multiplies and adds along each row, and other
    models see each record alone, in one buffer.
    """
    if study.model.kind == "logistic":
        slopes, intercepts = weights[: -study.data.outputs], weights[-study.data.outputs :]
        rows = np.ascontiguousarray(inputs)
        each = [(rows * one).sum(axis=1) for one in slopes.reshape(study.data.outputs, -1)]
        return _log_odds(study, np.stack(each, axis=1) + intercepts)
    import torch

    module, threads = _loaded(study, weights), torch.get_num_threads()
    record = torch.zeros((1, inputs.shape[1]))
    found = np.zeros((len(inputs), study.data.outputs))
    torch.set_num_threads(1)  # one record is too little work to share
    try:
        with torch.inference_mode():
            for i, row in enumerate(inputs):
                record.copy_(torch.from_numpy(row))
                found[i] = module(record).numpy()
    finally:
        torch.set_num_threads(threads)
    return _log_odds(study, found)


def _log_odds(study: Study, outputs: Floats) -> Floats:
    return against_others(outputs) if study.data.classes else outputs.astype(np.float64, copy=False)


def _steps(schema: Schema) -> tuple[int, int, int]:
    """Return inputs of the whole record, steps, and inputs of each step."""
    sequence = schema.sequence
    if sequence is None:
        raise StudyError("the study has no [data.sequence]", hint="its model needs one")
    each = sum(len(names_of(column)) for column in sequence.each)
    return len(input_names(schema)) - sequence.steps * each, sequence.steps, each


def _image(schema: Schema) -> ImageColumn:
    (image,) = (column for column in schema.columns if isinstance(column, ImageColumn))
    return image
