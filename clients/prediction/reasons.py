"""Why a published model gives a patient this risk, in words: in a file of scores, and on a screen.

The text is about patients: it stays in this hospital.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flo.arrays import Floats
from flo.clients.home.site_config import open_table
from flo.clients.quality.check import check_inputs
from flo.clients.sources.cells import as_ids
from flo.errors import DataError, UsageError
from flo.privacy.report.risks import in_words, percent
from flo.published.explanation import FEWEST_REASONS, Contributions, Effect, contributions
from flo.published.model_card import PublishedModel
from flo.published.what_if import WhatIf, what_ifs
from flo.scoring.curve import is_too_wide
from flo.study.wording import can_change, titles

NO_REASONS = "a model of one column has nothing to explain"


@dataclass(frozen=True)
class Told:
    """A patient's reasons, the largest first: what ``raises`` and what ``lowers`` the risk, and
    what the risk would be after a change (``if_changed``); each in the study's words."""

    raises: list[str]
    lowers: list[str]
    if_changed: list[str]


@dataclass(frozen=True)
class Patient:
    """``record``: number of the row, from 1. ``risk``: in words; "" if none is stated.

    ``columns``: all, the largest first; none if the direction of fewer than ``FEWEST_REASONS`` is
    certain.
    """

    record: int
    risk: str
    columns: list[Effect]
    if_changed: list[str]


def told(model: PublishedModel, inputs: Floats) -> list[Told]:
    """Return the reasons of patients with inputs (n, d).

    Raises UsageError: the model has one column, or its card states no noise.
    """
    _refuse_one_column(model)
    found, words = contributions(model, inputs), titles(model.study.data)
    changed = changes(model, inputs)
    rows = []
    for patient in range(len(inputs)):
        raising, lowering = directions(found, patient, words)
        rows.append(Told(list(raising), list(lowering), changed[patient]))
    return rows


def directions(
    found: Contributions, patient: int, words: Mapping[str, str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return in words which columns raise a patient's risk, and which lower it."""
    reasons = found.reasons(patient)
    raising = tuple(words[name] for name, value in reasons if value > 0)
    return raising, tuple(words[name] for name, value in reasons if value < 0)


def changes(model: PublishedModel, inputs: Floats) -> list[list[str]]:
    """Return in words what would lower each patient's risk, and to what.

    Nothing where a risk is not stated, before or after (``flo.privacy.report.risks``). Raises
    UsageError: the card states no noise.
    """
    if not can_change(model.study.data):
        return [[] for _ in inputs]
    before = risks_in_words(model, model.log_odds(inputs))
    return [
        [words for one in own if (words := _changed(model, one, risk))]
        for risk, own in zip(before, what_ifs(model, inputs), strict=True)
    ]


def risks_in_words(model: PublishedModel, log_odds: Floats) -> list[str]:
    """Return the risk of each of these log odds (n,) with its band; "" if none is stated."""
    if model.card.calibration is None:
        return [""] * len(log_odds)
    return [
        "" if is_too_wide(low, high) else f"{percent(risk)} ({in_words(low, high)})"
        for risk, low, high in zip(*model.card.calibration.of(log_odds), strict=True)
    ]


def of_patient(model: PublishedModel, data: Path, id_column: str, patient: str) -> Patient:
    """Explain the first record of one patient of a file.

    Raises:
        DataError: the file does not fit the study's columns, or has no such patient. UsageError:
        as ``told``.
    """
    _refuse_one_column(model)
    source = open_table(data, id_column)
    inputs = check_inputs(source, model.study.data)
    ids = [cell for batch in source.ids() for cell in as_ids(batch).to_pylist()]
    if patient not in ids:  # the id is on the screen of whoever typed it, and in no log
        raise DataError(
            f"{data} has no patient of the id that was given in its column {id_column!r}",
            hint="--patient ID as the file spells it; --id-column COLUMN if ids are elsewhere",
        )
    row = ids.index(patient)
    own = inputs[row : row + 1]
    found, words = contributions(model, own), titles(model.study.data)
    columns = [
        Effect(words[name], float(value), float(deviation))
        for name, value, deviation in zip(
            found.columns, found.values[0], found.deviations[0], strict=True
        )
    ]
    return Patient(
        row + 1,
        risks_in_words(model, model.log_odds(own))[0],
        sorted(columns, key=lambda one: -abs(one.value)) if found.reasons(0) else [],
        changes(model, own)[0],
    )


def _refuse_one_column(model: PublishedModel) -> None:
    if len(model.study.data.columns) < FEWEST_REASONS:
        raise UsageError(NO_REASONS, hint="leave out --explain")


def _changed(model: PublishedModel, one: WhatIf, before: str) -> str:
    """Return what a change would do; "" if a risk is not stated, or is the same in words."""
    (after,) = risks_in_words(model, np.array([one.log_odds]))
    return f"{one.column} at {one.value}: {after}" if before and after not in ("", before) else ""
