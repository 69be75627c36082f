"""The published models that a study's gate compares: of this coordinator, with the study's columns.

A study names them by the SHA-256 of their signed cards. Signing adds how patients become their
inputs (``flo.study.gate.ComparedModel``), which the cards' own studies state.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from fractions import Fraction

from flo.errors import StudyError
from flo.server.studies.ancestors import CardOf
from flo.study.document import Study
from flo.study.gate import MOST_ATTEMPTS, SIZE, ComparedModel
from flo.study.wording import means_the_same
from flo.study.yes_or_no import require_yes_or_no


def with_models(study: Study, card_of: CardOf) -> Study:
    """Return the study with a description of the published models that its gate compares.

    Raises:
        StudyError: a model is unknown, erased or of other columns, or the study describes other
        models. TrustError: a card is not signed.
    """
    if study.gate is None or not study.gate.cards:
        return study
    found = []
    for digest in study.gate.cards:
        _, other = card_of(digest)
        refuse_incomparable(study, other)
        found.append(described(digest, other))
    if study.gate.models and study.gate.models != tuple(found):
        raise StudyError(
            "gate: the study describes other models than those whose cards it names",
            hint="leave models out of [gate]: they are filled in from the cards",
        )
    return study.with_compared(found)


def described(digest: str, study: Study) -> ComparedModel:
    """Return a published model, of this card and study, as a gate names it."""
    return ComparedModel(
        card=digest,
        name=study.name,
        version=study.version,
        model=study.model,
        columns=tuple(column.name for column in study.data.columns),
    )


def refuse_incomparable(study: Study, other: Study, part: str = "gate") -> None:
    """Raise StudyError unless the study has the label and every column of the other model's.

    ``part``: of the study that names the model.
    """
    title = f"{part}: the model of {other.name}, version {other.version},"
    require_yes_or_no(other, f"a {part}")
    if other.frozen_file:
        raise StudyError(
            f"{title} has frozen layers, with which a {part} does not score",
            hint="its own study evaluated it",
        )
    if (study.data.label, study.data.records_per_patient) != (
        other.data.label,
        other.data.records_per_patient,
    ):
        raise StudyError(
            f"{title} has the label {other.data.label!r} and records_per_patient = "
            f"{other.data.records_per_patient!r}; this study has {study.data.label!r} and "
            f"{study.data.records_per_patient!r}",
            hint="a study's models must have its outcome",
        )
    here = {column.name: column for column in study.data.columns}
    for column in other.data.columns:
        if column.name not in here:
            raise StudyError(
                f"{title} has a column {column.name!r}, and this study has none of that name",
                hint="add it to [data]: patients need it to be scored by the model",
            )
        if not means_the_same(here[column.name], column):
            raise StudyError(
                f"{title} has another column {column.name!r}: {str(column)[:300]} there, and "
                f"{str(here[column.name])[:300]} here",
                hint="copy the column from that study",
            )


def refuse_more_attempts(study: Study, earlier: Collection[Study]) -> None:
    """Raise StudyError if the gates of this current model would have more error than ``SIZE``.

    A gate that is one of ``attempts`` uses 1/attempts of it. ``earlier``: all signed studies.
    """
    gate = study.gate
    if gate is None or gate.current is None:
        return
    before = [
        Fraction(1, other.gate.attempts)
        for other in earlier
        if other.gate and other.gate.current == gate.current and other.digest != study.digest
    ]
    left = 1 - sum(before)
    if Fraction(1, gate.attempts) > left:
        used = f"{len(before)} gates of this current model have used {float(1 - left):.0%} of"
        raise StudyError(
            f"gate: {used} the {SIZE:.0%} error that they share, and one of attempts = "
            f"{gate.attempts} needs {1 / gate.attempts:.0%}",
            hint=f"write attempts = {math.ceil(1 / left)} or more"
            if left >= Fraction(1, MOST_ATTEMPTS)
            else "no gate of this current model is left: a bad candidate would pass by chance "
            "more often than stated. Plan the attempts before the first gate",
        )
