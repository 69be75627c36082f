"""The ways in which this installation can score patients, for ``flo.published.behaviour``."""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import logit

from flo.arrays import Floats
from flo.clients.quality.check import check_inputs
from flo.clients.sources.files import open_file
from flo.published.behaviour import Way
from flo.published.model_card import PublishedModel
from flo.published.onnx import to_onnx
from flo.study.features import input_names
from flo.study.schema import CategoryColumn, ImageColumn, Schema
from flo.study.synthetic import encoded

_ONE_AT_A_TIME = 256


def ways(model: PublishedModel, onnx: bytes | None = None) -> dict[str, Way]:
    """Return every way to score patients here. ``onnx``: a file to check instead of a new export.

    Raises UsageError: the extra ``onnx`` is not installed.
    """
    return {
        "as a table": lambda cells: model.log_odds(as_a_table(model.study.data, cells)),
        "one patient at a time": lambda cells: _one_at_a_time(model, cells),
        "as ONNX": _onnx(model, onnx or to_onnx(model)),
    }


def as_a_table(schema: Schema, cells: Mapping[str, Floats]) -> Floats:
    """Write the patients as a hospital would, and return the inputs (n, d) that are read."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "made-up.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            names, rows = _text(schema, cells)
            writer.writerow(names)
            writer.writerows(rows)
        return check_inputs(open_file(path, "patient_id"), schema)


def _text(schema: Schema, cells: Mapping[str, Floats]) -> tuple[list[str], list[list[str]]]:
    names, columns = list[str](), list[list[str]]()
    for column in schema.columns:
        own = cells[column.name]
        if isinstance(column, ImageColumn):
            middle, half = (column.maximum + column.minimum) / 2, (column.maximum - column.minimum) / 2
            names += column.pixels
            columns += [[repr(float(value)) for value in middle + half * one] for one in own.T]
            continue
        names.append(column.name)
        if isinstance(column, CategoryColumn):
            columns.append(["" if place < 0 else column.codes[int(place)] for place in own])
        else:
            columns.append(["" if np.isnan(value) else repr(float(value)) for value in own])
    return names, [list(row) for row in zip(*columns, strict=True)]


def _one_at_a_time(model: PublishedModel, cells: Mapping[str, Floats]) -> Floats:
    inputs = encoded(model.study.data, cells)
    found = model.log_odds(inputs)
    for place in range(min(len(inputs), _ONE_AT_A_TIME)):
        found[place] = model.log_odds(inputs[place : place + 1])[0]
    return found


def _onnx(model: PublishedModel, data: bytes) -> Callable[[Mapping[str, Floats]], Floats]:
    import onnxruntime

    session: Any = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    (wanted,) = session.get_inputs()
    kind = np.float64 if wanted.type == "tensor(double)" else np.float32
    named = session.get_modelmeta().custom_metadata_map.get("inputs", "").split("\n")
    places = [input_names(model.study.data).index(name) for name in named]

    def scored(cells: Mapping[str, Floats]) -> Floats:
        inputs = encoded(model.study.data, cells)[:, places].astype(kind)
        (scores,) = session.run(None, {wanted.name: inputs})
        return np.asarray(logit(scores[:, 0].astype(np.float64)))

    return scored
