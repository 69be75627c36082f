"""What a model would say of a patient if one column had the value that the study aims for.

A study says of a column to which value care can bring a patient (``changeable_to``). A patient with
inputs x of that column is scored again with those at that value, t. Noise of training moves the
difference by √((t - x)ᵀΣ(t - x)), Σ the covariance of the weights on the card.
What noise may have turned is not said: the change must be a fall beyond ``CERTAIN`` deviations. So
is nothing of a patient who lacks the column, or is not on the side from which care changes it.

It is the model's answer for another patient with that value. It is not what a treatment does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flo.arrays import Floats
from flo.published.explanation import CERTAIN, REASONS, places_of
from flo.published.model_card import PublishedModel
from flo.study.columns import CategoryColumn, CellColumn, NumberColumn
from flo.study.features import encode_category, encode_number, is_missing
from flo.study.wording import changed_to, title


@dataclass(frozen=True)
class WhatIf:
    """One column at its ``value``, in words, and the patient's ``log_odds`` then."""

    column: str
    value: str
    log_odds: float


def what_ifs(model: PublishedModel, inputs: Floats) -> list[list[WhatIf]]:
    """Return, for each patient of inputs (n, d), what would lower the risk; the most first.

    At most ``REASONS`` each. Raises UsageError: the card states no noise, so a fall could not be
    told from chance.
    """
    noise = model.noise
    if noise is None:
        raise model.no_noise("a what-if cannot be told from chance")
    before, found = model.log_odds(inputs), [list[WhatIf]() for _ in inputs]
    places = places_of(model.study.data)
    for column in model.study.data.columns:
        if not isinstance(column, CellColumn) or column.changeable_to is None:
            continue
        own = places[column.name]
        changed = inputs.copy()
        changed[:, own] = aim_of(column)
        apart = changed[:, own] - inputs[:, own]
        after = model.log_odds(changed)
        spread = ((apart @ noise[np.ix_(own, own)]) * apart).sum(axis=1)
        falls = after - before < -CERTAIN * np.sqrt(np.maximum(spread, 0))
        can = ~is_missing(column, inputs[:, own])
        if isinstance(column, NumberColumn):
            can &= apart[:, 0] < 0 if column.changeable_from == "above" else apart[:, 0] > 0
        for patient in np.flatnonzero(falls & can):
            then = float(after[patient])
            found[patient].append(WhatIf(title(column), changed_to(column), then))
    return [sorted(own, key=lambda one: one.log_odds)[:REASONS] for own in found]


def aim_of(column: NumberColumn | CategoryColumn) -> Floats:
    """Return the inputs of the column at the value that the study aims for, (1, inputs)."""
    if isinstance(column, CategoryColumn):
        assert column.changeable_to is not None
        return encode_category(column, np.array([column.codes.index(column.changeable_to)]))
    return encode_number(column, np.array([column.changeable_to], dtype=np.float64))
