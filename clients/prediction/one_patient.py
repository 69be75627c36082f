"""What a published model says of one patient, whose values somebody types in.

Nothing is stored, sent or logged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from flo.clients.prediction.flag_rule import FlagRule
from flo.clients.prediction.reasons import Told, risks_in_words, told
from flo.errors import DataError, UsageError
from flo.published.model_card import PublishedModel
from flo.scoring.record import Cell, RecordEncoder
from flo.study.cell_rules import NOT_A_NUMBER, ONLY_A_BOUND
from flo.study.wording import titles


class WrongValues(DataError):
    """Values that the study does not allow. ``broken``: (column in words, rule), no value."""

    def __init__(self, broken: list[tuple[str, str]]) -> None:
        super().__init__(
            "no score:\n" + "\n".join(f"  {column}: {rule}" for column, rule in broken),
            hint="values must be in the study's units and codes",
        )
        self.broken = broken


@dataclass(frozen=True)
class Answer:
    """``risk``: in words; "" if none is stated. ``flagged``: None if nobody decided.

    ``told``: reasons; None, with the cause in ``no_reasons``, if none can be known.
    """

    score: float
    risk: str
    flagged: bool | None
    told: Told | None
    no_reasons: str


def answer(model: PublishedModel, rule: FlagRule | None, record: Mapping[str, Cell]) -> Answer:
    """Score one patient. ``record``: column -> value as text, "" for missing.

    Raises WrongValues.
    """
    schema = model.study.data
    encoded, words = RecordEncoder(schema.columns).encode(record), titles(schema)
    if encoded.inputs is None:
        raise WrongValues(
            [
                (words[name], NOT_A_NUMBER if rule == ONLY_A_BOUND else rule)
                for name, rule in encoded.broken
            ]
        )
    inputs = np.asarray(encoded.inputs)[None]
    log_odds = model.log_odds(inputs)
    (risk,) = risks_in_words(model, log_odds)
    flagged = bool(rule.flagged(model, inputs, log_odds)[0]) if rule and risk else None
    reasons, why = None, ""
    try:
        (reasons,) = told(model, inputs)
    except UsageError as error:
        why = str(error)
    return Answer(float(expit(log_odds[0])), risk, flagged, reasons, why)
