"""Made-up patients within a study's bounds and codebooks: inputs that show a model's behaviour.

They follow a Kronecker sequence (Niederreiter 1992: fractional parts of multiples of square roots
of primes), bell-shaped within each column's bounds, uniform over its codes, one in ten missing. The
same study gives the same patients on every machine. They contain no data of real patients.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from flo.arrays import Floats
from flo.study.columns import EncodedColumn, ImageColumn, NoteColumn, NumberColumn
from flo.study.features import (
    encode_category,
    encode_image,
    encode_note,
    encode_number,
    made_up_width,
)
from flo.study.schema import Schema

_MADE_UP, _MADE_UP_WIDE, _MADE_UP_MISSING = 4096, 256, 0.1


def made_up_inputs(schema: Schema) -> Floats:
    """Return inputs of made-up patients: (4096, d), or (256, d) if there are images or notes."""
    return encoded(schema, made_up_cells(schema))


def made_up_cells(schema: Schema, count: int | None = None) -> dict[str, Floats]:
    """Return the same patients, or the first ``count``, as values by column, before encoding.

    A number: (n,), NaN if missing. A category: indices into its codes, (n,), -1 if missing. An
    image: pixels in [-1, 1], (n, pixels), or an encoder's output, (n, features). A note: an
    encoder's output, all NaN if missing.
    """
    wide = any(isinstance(column, EncodedColumn) for column in schema.columns)
    number = np.arange(1, (count or (_MADE_UP_WIDE if wide else _MADE_UP)) + 1)
    cells = dict[str, Floats]()
    for i, column in enumerate(schema.columns):
        missing = (number * math.sqrt(_prime(2 * i + 1))) % 1 < _MADE_UP_MISSING
        missing &= column.missing == "indicator"
        if isinstance(column, EncodedColumn):
            bells = [_bell(number, _prime(j)) for j in range(made_up_width(column))]
            cells[column.name] = np.concatenate(bells, axis=1)
            cells[column.name][missing] = np.nan
            continue
        u = (number * math.sqrt(_prime(2 * i))) % 1
        if isinstance(column, NumberColumn):
            bell = _bell(number, _prime(2 * i))[:, 0]
            middle = (column.maximum + column.minimum) / 2
            half = (column.maximum - column.minimum) / 2
            cells[column.name] = np.where(missing, np.nan, middle + half * bell)
        else:
            codes = np.minimum(u * len(column.codes), len(column.codes) - 1).astype(np.int64)
            cells[column.name] = np.where(missing, -1, codes).astype(np.float64)
    return cells


def encoded(schema: Schema, cells: Mapping[str, Floats]) -> Floats:
    """Return the inputs (n, d) of patients with these cells."""
    parts = []
    for column in schema.columns:
        own = cells[column.name]
        if isinstance(column, ImageColumn):
            parts.append(encode_image(column, own))
        elif isinstance(column, NoteColumn):
            parts.append(encode_note(column, own))
        elif isinstance(column, NumberColumn):
            parts.append(encode_number(column, own))
        else:
            parts.append(encode_category(column, own.astype(np.int64)))
    return np.concatenate(parts, axis=1)


def _bell(number: npt.NDArray[np.int64], prime: int) -> Floats:
    """Return bell-shaped values in [-1, 1], shape (n, 1): a normal of deviation 1/3, clipped."""
    u = (number * math.sqrt(prime)) % 1
    bell = np.clip(ndtri(np.clip(u, 1e-6, 1 - 1e-6)) / 3, -1, 1)
    return np.asarray(bell[:, None], dtype=np.float64)


@functools.cache
def _prime(index: int) -> int:
    """Return the prime number of that index: 2, 3, 5, ..."""
    candidate = 2 if index == 0 else _prime(index - 1) + 1
    while any(candidate % d == 0 for d in range(2, math.isqrt(candidate) + 1)):
        candidate += 1
    return candidate
