"""Canaries: patients made up at the edges of a study's bounds, and each one's contribution.

Contributions are computed here a second time, from their definition, without the clipping and
summing code under test.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from flo.arrays import Floats
from flo.privacy.gradients.augmentation import augmented, copies
from flo.privacy.gradients.bookkeeping import loss_of
from flo.privacy.mechanisms.entropy import SystemStream
from flo.privacy.patients.patients import Patients
from flo.privacy.releases import asked_model, gate
from flo.study import models
from flo.study.columns import CategoryColumn, ImageColumn, NumberColumn
from flo.study.document import Study
from flo.study.features import (
    encode_category,
    encode_image,
    encode_note,
    encode_number,
    input_names,
    made_up_width,
)
from flo.study.models import request_length
from flo.study.parameters import Vector
from flo.study.schema import Schema
from flo.study.terms import Purpose

_AVERAGE = 0.3  # risk, where a gate compares with it
STRETCH = 10.0  # W is this times the identity: gradients far beyond the clip


def made_up_patients(schema: Schema, count: int) -> Patients:
    """Make up patients at the edges of the schema's bounds, with random codes and labels."""
    parts = []
    for column in schema.columns:
        if isinstance(column, CategoryColumn):
            codes = (SystemStream().words(count) % np.uint64(len(column.codes))).astype(np.int64)
            parts.append(encode_category(column, codes))
        elif isinstance(column, NumberColumn):
            edges = np.where(coins(count), column.maximum, column.minimum)
            parts.append(encode_number(column, edges))
        elif isinstance(column, ImageColumn):
            parts.append(encode_image(column, _ends(count, made_up_width(column))))
        else:
            parts.append(encode_note(column, _ends(count, made_up_width(column))))
    labels = SystemStream().words(count) % np.uint64(schema.label_codes)
    inputs = np.concatenate(parts, axis=1)
    return Patients(inputs, labels.astype(np.float64), np.arange(count), count)


def _ends(count: int, width: int) -> Floats:
    """Return -1 or 1 at random, (count, width)."""
    return np.where(coins(count * width).reshape(count, -1), 1.0, -1.0)


def request_for(study: Study, purpose: Purpose, weights: Vector) -> Vector:
    """Return what a request for ``purpose`` carries with this model; W as in ``STRETCH``."""
    if purpose == "gate" and study.gate is not None and not study.gate.cards:
        average = gate.of_average(study, _AVERAGE)
        return gate.request(asked_model.scorer(weights, None), average, _AVERAGE)
    if purpose in ("statistics", "regression", "gate", "monitor"):
        return np.zeros(request_length(study, purpose))
    if purpose == "moments":
        return weights[:0]
    if purpose == "training" and study.mechanism.algorithm == "whitened":
        d = len(input_names(study.data)) + 1
        return np.concatenate([weights, STRETCH * np.eye(d).ravel()])
    return weights


def contributions(study: Study, purpose: Purpose, weights: Vector, canaries: Patients) -> Floats:
    """Return each canary's contribution to ``request_for``'s release, unclipped, (canaries, p).

    ``purpose``: moments or training.
    """
    if purpose == "moments":
        return _second_moments(study, canaries)
    if study.mechanism.algorithm == "least-squares":
        return _products(study, canaries)
    return _gradients(study, weights, canaries)


def _second_moments(study: Study, canaries: Patients) -> Floats:
    """Compute each canary's contribution by the formula in ``second_moments``, independently."""
    r2, found = 1 + len(study.data.columns), []
    for record in canaries.inputs:
        x = [*record, 1.0]
        pairs = [(i, j) for i in range(len(x)) for j in range(i, len(x))]
        found.append([x[i] * x[j] / r2 * (1 if i == j else math.sqrt(2)) for i, j in pairs])
    return np.array(found)


def _products(study: Study, canaries: Patients) -> Floats:
    """Compute each canary's contribution by the formula in ``least_squares``, independently."""
    inputs = np.hstack([canaries.inputs, np.ones((len(canaries.labels), 1))])
    with_label = (
        (2 * canaries.labels[:, None] - 1) * inputs / math.sqrt(1 + len(study.data.columns))
    )
    return np.hstack([_second_moments(study, canaries), with_label]) / math.sqrt(2)


def _gradients(study: Study, weights: Vector, canaries: Patients) -> Floats:
    """Compute each canary's gradient, (canaries, p), by plain autograd."""
    import torch

    module = models.build(study).double()
    turned, count = augmented(study, canaries), copies(study)
    everything = turned.inputs
    if study.mechanism.algorithm == "whitened":
        everything = STRETCH * np.hstack([everything, np.ones((len(everything), 1))])
        _, outputs = models.layers(study)[0].sizes
        module[0] = torch.nn.Linear(everything.shape[1], outputs, bias=False, dtype=torch.float64)
    torch.nn.utils.vector_to_parameters(torch.from_numpy(weights).double(), module.parameters())
    rows, loss_fn = [], loss_of(study.data.outcome)
    for place in range(0, len(turned.labels), count):
        inputs, labels = (a[place : place + count] for a in (everything, turned.labels))
        loss = loss_fn(module(torch.from_numpy(inputs)), torch.from_numpy(labels)).mean()
        slopes = torch.autograd.grad(loss, list(module.parameters()))
        rows.append(torch.cat([slope.flatten() for slope in slopes]).numpy())
    return np.stack(rows)


def coins(count: int) -> npt.NDArray[np.bool_]:
    """Return fair coins, (count,)."""
    return np.asarray(SystemStream().words(count) >> np.uint64(63), dtype=np.bool_)
