"""Columns, codes and values in the words that a study gives for them.

Words help people and change no input of a model, so versions of a study may differ in them.
"""

from __future__ import annotations

from flo.study.schema import CategoryColumn, Column, ImageColumn, NumberColumn, Schema


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


def means_the_same(one: Column, other: Column) -> bool:
    """Return whether two columns become the same inputs, and no code has two meanings."""
    here, there = _meanings(one), _meanings(other)
    recoded = any(here[code] != there[code] for code in here.keys() & there.keys())
    return _without_words(one) == _without_words(other) and not recoded


def _meanings(column: Column) -> dict[str, str]:
    """Return code -> meaning; empty if the codes have none."""
    if not isinstance(column, CategoryColumn) or not column.meanings:
        return {}
    return dict(zip(column.codes, column.meanings, strict=True))


def _without_words(column: Column) -> Column:
    words: dict[str, object] = {"about": None, "meanings": (), "changeable_to": None}
    known = type(column).model_fields
    return column.model_copy(update={name: words[name] for name in words if name in known})


def can_change(schema: Schema) -> bool:
    """Return whether care can bring a patient to a value that the study names."""
    columns = (one for one in schema.columns if not isinstance(one, ImageColumn))
    return any(column.changeable_to is not None for column in columns)


def changed_to(column: NumberColumn | CategoryColumn) -> str:
    """Return the value of ``changeable_to`` with its unit or meaning; "" if there is none."""
    if column.changeable_to is None:
        return ""
    if isinstance(column, NumberColumn):
        return f"{column.changeable_to:g} {column.unit}"
    return _meanings(column).get(column.changeable_to, column.changeable_to)
