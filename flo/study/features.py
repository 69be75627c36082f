"""Encode a hospital's columns as model inputs, with public numbers only, and decode them to cells.

Numbers are scaled by the study's bounds to [-1, 1]; each hinge adds an input that is 0 up to it and
rises to 1 at the maximum. A category of two codes becomes one input, 0 or 1; one of more codes
becomes an input per code. A missing number becomes the study's public constant, a missing code
becomes zeros, and an indicator input marks both. An image becomes its pixels, fixed features of
them, or the output of a frozen encoder; a note becomes such output. No parameter is fitted on
patients, so the encoding of one patient never depends on another. Fewer inputs mean less noise,
which grows with the square root of their count.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from flo.arrays import Floats, Mask
from flo.study import scattering

if TYPE_CHECKING:
    from flo.study.columns import (
        CategoryColumn,
        Column,
        EncodedColumn,
        ImageColumn,
        NoteColumn,
        NumberColumn,
    )
    from flo.study.schema import Schema

Codes = npt.NDArray[np.int64]


def input_names(schema: Schema) -> list[str]:
    """Return the model's input names in order, such as ``chol``, ``chol=missing``, ``sex=male``."""
    return [name for column in schema.columns for name in names_of(column)]


def names_of(column: Column) -> list[str]:
    """Return the names of one column's inputs in order."""
    if column.kind == "image":
        if column.encoder is not None:
            return [f"{column.name}=feature {i}" for i in range(column.encoder.features)]
        if column.scattering is None:
            return list(column.pixels)
        each = scattering.count(column.height, column.width, column.scattering)
        return [f"{column.name}=wavelet {i}" for i in range(column.channels * each)]
    if column.kind == "note":
        names = [f"{column.name}=feature {i}" for i in range(column.encoder.features)]
    elif column.kind == "number":
        names = [column.name, *(f"{column.name}>{hinge:g}" for hinge in column.hinges)]
    elif len(column.codes) == 2:
        names = [f"{column.name}={column.codes[1]}"]
    else:
        names = [f"{column.name}={code}" for code in column.codes]
    return [*names, f"{column.name}=missing"] if column.missing == "indicator" else names


def encode_number(column: NumberColumn, values: Floats) -> Floats:
    """Encode shape (n,) with NaN for missing as (n, inputs of this column).

    The inputs are the scaled value, one for each hinge, and the indicator if missing is allowed.
    """
    missing = np.isnan(values)
    filled = np.where(
        missing, 0.0 if column.missing_value is None else column.missing_value, values
    )
    inputs = [scale(column, filled)]
    for hinge in column.hinges:
        inputs.append(np.maximum(filled - hinge, 0.0) / (column.maximum - hinge))
    if column.missing == "indicator":
        inputs.append(missing.astype(np.float64))
    return np.stack(inputs, axis=1)


def scale(column: NumberColumn | ImageColumn, values: Floats) -> Floats:
    """Scale values within the column's bounds to [-1, 1], any shape."""
    return np.asarray(2 * ((values - column.minimum) / (column.maximum - column.minimum)) - 1)


def encode_image(column: ImageColumn, scaled: Floats) -> Floats:
    """Encode pixels in [-1, 1], shape (n, pixels), as (n, inputs of this column).

    With an encoder, its output (n, features) takes the place of pixels.
    """
    encoder = getattr(column, "encoder", None)  # a compiled model's column may lack the field
    if encoder is not None:
        return as_inputs(scaled) if encoder.scaled else scaled
    if column.scattering is None:
        return scaled
    planes = scaled.reshape(-1, column.height, column.width)
    return scattering.scatter(planes, column.scattering).reshape(len(scaled), -1)


def encode_note(column: NoteColumn, features: Floats) -> Floats:
    """Encode an encoder's output (n, features) as (n, inputs of this column).

    A record whose features are all NaN has no note; it gets zeros, and the indicator if missing is
    allowed.
    """
    missing: Mask = np.all(np.isnan(features), axis=1, keepdims=False)
    there = np.where(missing[:, None], 0.0, features)
    inputs = as_inputs(there) if column.encoder.scaled else there
    if column.missing == "indicator":
        return np.concatenate([inputs, missing[:, None].astype(np.float64)], axis=1)
    return inputs


def encode_category(column: CategoryColumn, codes: Codes) -> Floats:
    """Encode codebook indices (n,), -1 for missing, as (n, inputs of this column)."""
    missing = codes < 0
    shown = [1] if len(column.codes) == 2 else range(len(column.codes))
    inputs = np.zeros((len(codes), len(names_of(column))))
    for place, code in enumerate(shown):
        inputs[:, place] = codes == code
    if column.missing == "indicator":
        inputs[:, -1] = missing
    return inputs


def as_inputs(features: Floats) -> Floats:
    """Return features (n, k) as a model's inputs: each record's have a mean square of 1.

    Encoders differ in scale by powers of ten, while a study's clip and learning rate expect inputs
    of about 1. A record is scaled by its own norm, which depends on no other record; one whose
    features are all 0 stays 0.
    """
    most = np.abs(features).max(axis=1, keepdims=True)  # first, so that no square overflows
    part = np.divide(features, most, out=np.zeros_like(features), where=most > 0)
    size = np.sqrt((part**2).mean(axis=1, keepdims=True))
    return np.asarray(np.divide(part, size, out=np.zeros_like(part), where=size > 0))


def made_up_width(column: EncodedColumn) -> int:
    """Return how many numbers a made-up image or note has: pixels, or what an encoder made of
    it."""
    if column.encoder is not None:
        return column.encoder.features
    return column.size


def cells(column: Column, bins: int) -> list[str]:
    """Return a histogram's cells for this column: codes or ranges, then ``missing`` if allowed."""
    if column.kind == "category":
        names = list(column.codes)
    else:
        assert column.kind != "note"  # a study counts numbers and codes only
        edges = np.linspace(column.minimum, column.maximum, bins + 1)
        names = [f"{low:g} to {high:g}" for low, high in pairwise(edges)]
    return [*names, "missing"] if column.missing == "indicator" else names


def scaled_number(schema: Schema, name: str, inputs: Floats) -> tuple[Floats, Mask]:
    """Return a number column's values scaled to [-1, 1], (n,), and which are there, (n,).

    A value that is no finite number counts as missing.
    """
    start = 0
    for column in schema.columns:
        width = len(names_of(column))
        if column.name == name:
            part = inputs[:, start : start + width]
            there = np.isfinite(part[:, 0])
            if column.missing == "indicator":
                there &= part[:, -1] != 1
            return np.clip(np.nan_to_num(part[:, 0]), -1.0, 1.0), there
        start += width
    raise ValueError(f"no column {name!r}")


def is_missing(column: Column, part: Floats) -> Mask:
    """Return which records (n,) have no value of a column, from its inputs (n, inputs)."""
    if column.missing != "indicator":
        return np.zeros(len(part), dtype=bool)
    return np.asarray(part[:, -1] == 1)


def cell_of(schema: Schema, name: str, inputs: Floats, bins: int) -> Codes:
    """Return the index of each record's cell in ``cells``, shape (n,), from its inputs (n, d)."""
    start = 0
    for column in schema.columns:
        width = len(names_of(column))
        if column.name == name:
            return _cell_of(column, inputs[:, start : start + width], bins)
        start += width
    raise ValueError(f"no column {name!r}")


def _cell_of(column: Column, part: Floats, bins: int) -> Codes:
    if column.kind == "category":
        two = len(column.codes) == 2
        found = part[:, 0] == 1 if two else np.argmax(part[:, : len(column.codes)], axis=1)
        count = len(column.codes)
    else:
        scaled = np.clip(np.nan_to_num(part[:, 0]), -1.0, 1.0)
        found = np.clip(np.floor((scaled + 1) / 2 * bins), 0, bins - 1)
        count = bins
    return np.where(is_missing(column, part), count, found).astype(np.int64)
