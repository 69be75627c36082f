"""Columns, codes and values in the words that a study gives for them.

Words help people and change no input of a model, so versions of a study may differ in them.
"""

from __future__ import annotations

from flo.study.classes import Classes
from flo.study.columns import CategoryColumn, CellColumn, Column, EncodedColumn, NumberColumn
from flo.study.document import Study
from flo.study.quantity import Quantity
from flo.study.schema import Schema
from flo.study.time_to_event import TimeToEvent


def title(column: Column) -> str:
    """Return the column in the study's words, or its name if the study has none."""
    return column.about or column.name


def titles(schema: Schema) -> dict[str, str]:
    """Return the title of each column by its name."""
    return {column.name: title(column) for column in schema.columns}


def code_in_words(column: CategoryColumn, code: str) -> str:
    """Return a code with its meaning, such as ``2 (atypical angina)``."""
    meaning = _meanings(column).get(code)
    return f"{code} ({meaning})" if meaning else code


def measure_of(study: Study) -> str:
    """Return what an evaluation of the study's model estimates."""
    match study.data.outcome:
        case None:
            return "AUC"
        case Classes():
            return "macro AUC"
        case _:
            return "concordance"


def outcome_of(study: Study) -> str:
    """Return what kind of outcome the study foresees, such as ``the time to an event``."""
    match study.data.outcome:
        case None:
            return "yes or no"
        case TimeToEvent():
            return "the time to an event"
        case Quantity(kind=kind):
            return f"a {kind}"
        case Classes():
            return "one of several classes"


def risks_of(study: Study) -> list[str]:
    """Return of what a model of the study states risks, or the unit of the values that it states.

    Of an outcome of yes or no it states one risk, which has no name: "".
    """
    match study.data.outcome:
        case None:
            return [""]
        case TimeToEvent(horizons=horizons, unit=unit):
            return [f"by {horizon:g} {unit}" for horizon in horizons]
        case Quantity(unit=unit):
            return [unit]
        case Classes(classes=classes):
            return list(classes)


def means_the_same(one: Column, other: Column) -> bool:
    """Return whether a column becomes the same inputs as that of an earlier study (``other``).

    It may have words where the other has none. A code that had a meaning keeps it.
    """
    meanings = _meanings(other)
    kept = not meanings or _meanings(one) == meanings
    return _without_words(one) == _without_words(other) and kept


def _meanings(column: Column) -> dict[str, str]:
    """Return code -> meaning; empty if the codes have none."""
    if not isinstance(column, CategoryColumn) or not column.meanings:
        return {}
    return dict(zip(column.codes, column.meanings, strict=True))


def _without_words(column: Column) -> Column:
    words: dict[str, object] = {"about": None, "meanings": ()}
    words |= {"changeable_to": None, "changeable_from": None}
    if isinstance(column, EncodedColumn) and column.encoder is not None:
        words["encoder"] = column.encoder.model_copy(update={"name": ""})
    known = type(column).model_fields
    return column.model_copy(update={name: words[name] for name in words if name in known})


def can_change(schema: Schema) -> bool:
    """Return whether care can bring a patient to a value that the study names."""
    columns = (one for one in schema.columns if isinstance(one, CellColumn))
    return any(column.changeable_to is not None for column in columns)


def changed_to(column: NumberColumn | CategoryColumn) -> str:
    """Return the value of ``changeable_to`` with its unit or meaning; "" if there is none."""
    if column.changeable_to is None:
        return ""
    if isinstance(column, NumberColumn):
        return f"{as_is(column.changeable_to)} {column.unit}"
    return code_in_words(column, column.changeable_to)


def as_is(value: float) -> str:
    """Return a value with all of its digits."""
    return f"{value:.12g}"
