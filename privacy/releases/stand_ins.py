"""Stand-ins for a study's patients: drawn from its noisy second moments, and from nothing else.

What happens to noise in training depends on the patients: how many have a code, how alike they are.
The noisy second moments (``flo.privacy.releases.second_moments``) say that, and have been paid for.
Stand-ins are post-processing of them, so they cost no ε and contain no patient.

Rows are drawn from the normal distribution with these first and second moments, which keeps who is
alike; negative eigenvalues, which are noise, count as zero. Each row then becomes cells of a
hospital's table: a number is clipped to its bounds; of a category's codes, each is given to the
rows with the highest values, to as many as have it, rare codes first. So a rare code is had by few
rows, and by none if the noise hides whether anybody has it.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from flo.arrays import Floats
from flo.privacy.releases import second_moments
from flo.study.columns import CategoryColumn, CellColumn, NumberColumn
from flo.study.document import Study
from flo.study.features import names_of
from flo.study.schema import Schema
from flo.study.synthetic import encoded

_FEWEST, _USUAL = 0.3, 0.3  # least share of the planned patients; how far from 1 it usually is


@dataclass(frozen=True)
class Moments:
    """A patient's second moments with an intercept, as far as a noisy sum tells them.

    ``mean``: (d, d), the last of them 1. ``share``: how many patients there are, of those planned.
    ``deviation``: of the noise in a mean input.
    """

    mean: Floats
    share: float
    deviation: float


def moments(study: Study, total: Floats, variance: float, patients: float) -> Moments:
    """Return the moments of a noisy sum (length,), with ``variance`` in each coordinate.

    ``patients``: the planned ones. Their share is drawn towards 1 as far as noise may have moved
    it, and is at least ``_FEWEST``.
    """
    d, scale = second_moments.width(study), second_moments.squared_scale(study) / patients
    found = scale * second_moments.matrix(total, d)
    noise = scale**2 * variance  # of a moment on the diagonal
    share = max(1 + (found[-1, -1] - 1) * _USUAL**2 / (_USUAL**2 + noise), _FEWEST)
    mean = found / share
    mean[-1, -1] = 1.0
    return Moments(mean, float(share), math.sqrt(noise / 2) / share)


def stand_ins(study: Study, mean: Floats, count: int) -> Floats:
    """Return inputs of stand-ins with an intercept, (count, d), from a mean of moments (d, d)."""
    first = mean[:-1, -1]
    values, vectors = np.linalg.eigh(mean[:-1, :-1] - np.outer(first, first))
    root = vectors * np.sqrt(np.maximum(values, 0))
    drawn = first + normal(study, "stand-ins", (count, len(first))) @ root.T
    cells = _cells(study.data, drawn, first)
    return np.hstack([encoded(study.data, cells), np.ones((count, 1))])


def normal(study: Study, what: str, shape: tuple[int, ...]) -> Floats:
    """Return normal numbers that follow from the study's digest, the same on every machine."""
    stream = hashlib.shake_256(f"{what} {study.digest}".encode())
    words = np.frombuffer(stream.digest(8 * math.prod(shape)), dtype="<u8")
    return np.asarray(ndtri(((words >> 11) + 0.5) / 2.0**53).reshape(shape))


def _cells(schema: Schema, drawn: Floats, mean: Floats) -> dict[str, Floats]:
    """Return a table's cells (``flo.study.synthetic``) of rows (n, d - 1) with this mean."""
    found, start = dict[str, Floats](), 0
    for column in schema.columns:
        assert isinstance(column, CellColumn)
        width = len(names_of(column))
        own, shares = drawn[:, start : start + width], mean[start : start + width]
        start += width
        if isinstance(column, NumberColumn):
            found[column.name] = _numbers(column, own, shares)
        else:
            found[column.name] = _codes(column, own, shares)
    return found


def _numbers(column: NumberColumn, drawn: Floats, shares: Floats) -> Floats:
    scaled = np.clip(drawn[:, 0], -1, 1)
    values = column.minimum + (scaled + 1) / 2 * (column.maximum - column.minimum)
    if column.missing == "indicator":
        values[_highest(drawn[:, -1], shares[-1])] = np.nan
    return np.asarray(values)


def _codes(column: CategoryColumn, drawn: Floats, shares: Floats) -> Floats:
    shown = [1] if len(column.codes) == 2 else list(range(len(column.codes)))
    codes = {code: (shares[place], drawn[:, place]) for place, code in enumerate(shown)}
    if column.missing == "indicator":
        codes[-1] = (shares[-1], drawn[:, -1])
    if len(column.codes) == 2:  # the first of two codes has no input: it is the absence of others
        codes[0] = (1 - sum(share for share, _ in codes.values()), -drawn.sum(axis=1))
    whole = max(sum(max(share, 0.0) for share, _ in codes.values()), 1e-9)
    rising = sorted(codes, key=lambda code: codes[code][0])
    found = np.full(len(drawn), float(rising[-1]))
    free = np.ones(len(drawn), dtype=bool)
    for code in rising[:-1]:
        share, values = codes[code]
        chosen = _highest(np.where(free, values, -np.inf), share / whole)
        found[chosen[free[chosen]]] = code
        free[chosen] = False
    return found


def _highest(values: Floats, share: float) -> np.ndarray:
    """Return the places of the share of rows with the highest values."""
    count = round(min(max(share, 0.0), 1.0) * len(values))
    return np.argsort(-values, kind="stable")[:count]
