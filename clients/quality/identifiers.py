"""Detect patient identifiers by their look.

These are names, record numbers, e-mail addresses, telephone numbers, dates of birth and free text.
None may be a study's column (HIPAA, 45 CFR 164.514(b)(2), lists them).

Looks can mislead in both directions. The protection against a hospital's own mistake is that a
number has public bounds and a category a public codebook. This module only reports what cells seem
to be where such a rule is broken or may be too wide.

A column whose name or codebook identifies people is refused before its cells are inspected.

Within wide bounds these cannot be detected: numbers of up to four digits other than years, scaled
or shifted numbers, a few identifiers among many other numbers, and identifiers in fewer than 20
cells. In a codebook these cannot: a few names without a common given name ("typical angina" looks
like one), and plain record numbers that each occur with several patient ids, because a concept is a
number, too.
"""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pyarrow as pa

from flo.arrays import Floats
from flo.clients.quality.findings import DataFinding
from flo.clients.sources.cells import as_text
from flo.study import identifier_patterns
from flo.study.columns import CategoryColumn, CellColumn, NumberColumn, tells_who
from flo.study.schema import Schema

IDENTIFIER = "identifier"
_MOST_CELLS = 2000  # inspected; a column full of identifiers has some among its first cells
_SHARE, _HALF = 0.2, 0.5  # of these cells
_SHORTEST_NUMBER = 10_000  # that may be a record number
_FEWEST = 20  # known numbers, or different codes, that are needed to judge a column
_DIFFERENT = 10  # minimum of different dates or years
_VARIED = 5  # minimum of different years, months and days in dates of six digits
_NEARLY, _DISTINCT = 0.9, 0.98
_ONE_BY_ONE = 0.8  # share of the codes that occur in one patient
_YEARS, _NO_YEARS = (1870, 2100), (1800, 2200)
_DAYS = {  # digits -> formats of a day or a month
    8: ("%Y%m%d", "%d%m%Y", "%m%d%Y"),
    6: ("%y%m%d", "%d%m%y", "%m%d%y", "%Y%m"),
}
_LONGEST_END = 40  # characters of an id that are inspected


def kind_of_identifier(cells: pa.Array) -> str | None:
    """Return the kind of identifier in a fifth or more of the first cells; None if none is."""
    try:
        text = as_text(cells[:_MOST_CELLS]).drop_null().to_pylist()
    except TypeError:
        return None
    return _kind(text)


def identifiers(columns: pd.DataFrame, ids: list[str], schema: Schema) -> list[DataFinding]:
    """Find the study's columns that hold patient identifiers, and a quantity that does."""
    found = []
    for column in schema.looked_at:
        if rule := tells_who(column):
            found.append(DataFinding(column.name, rule, kind=IDENTIFIER))
            continue
        if not isinstance(column, CellColumn):
            continue
        cells = columns[column.name]
        if isinstance(column, CategoryColumn):
            found += _in_codes(column, cells, ids)
        elif kind := _kind_of_numbers(column, cells.to_numpy(), ids):
            rule = f"holds what looks like {kind}, which no study may have"
            found.append(DataFinding(column.name, rule, level="to accept", kind=IDENTIFIER))
    return found


def _in_codes(column: CategoryColumn, cells: pd.Series, ids: list[str]) -> list[DataFinding]:
    """Refuse identifiers outside the codebook; ask about a codebook that seems to hold some."""
    known = {code.casefold() for code in column.codes}
    strange = [c for c in cells.cat.categories if c.lstrip("\0").casefold() not in known]
    kind = _kind([str(cell).lstrip("\0") for cell in strange[:_MOST_CELLS]])
    if kind:
        rule = f"holds what looks like {kind}, which no study may have"
        if "numbers" in kind:
            rule += "; if they are codes or concepts, name them under `codes` in mapping.toml"
        return [DataFinding(column.name, rule, kind=IDENTIFIER)]
    rule = ""
    if kinds := identifier_patterns.identifying_codes(column.codes):
        rule = f"the study's codebook has what looks like {' and '.join(kinds)}"
    elif _one_by_one(cells, ids):
        rule = "most of its codes occur in one patient only: do they name patients?"
    return [DataFinding(column.name, rule, level="to accept", kind=IDENTIFIER)] if rule else []


def _one_by_one(cells: pd.Series, ids: list[str]) -> bool:
    """Return whether there are at least 20 codes, most of which occur in exactly one patient."""
    if cells.nunique() < _FEWEST:
        return False
    pairs = pd.DataFrame({"code": cells.cat.codes, "id": ids})[cells.notna().to_numpy()]
    patients = pairs.drop_duplicates()["code"].value_counts()
    return bool((patients == 1).mean() >= _ONE_BY_ONE)


def weak_ids(ids: list[str], id_column: str) -> list[DataFinding]:
    """Return a note if ids are names or e-mail addresses, which change or may be shared."""
    kind = _kind(list(dict.fromkeys(ids))[:_MOST_CELLS])
    if kind not in ("names", "e-mail addresses"):
        return []
    rule = (
        f"holds what looks like {kind}: a patient with two of them counts as two patients, and "
        "patients who share one count as one"
    )
    return [DataFinding(id_column, rule, level="note", kind=IDENTIFIER)]


def _kind(cells: list[str]) -> str | None:
    if not cells:
        return None
    for name, _ in identifier_patterns.KINDS:
        if np.mean(identifier_patterns.matches(name, cells)) >= _SHARE:
            return name
    texts = [identifier_patterns.is_text(cell) for cell in cells]
    return "free text" if np.mean(texts) >= _SHARE else None


def _kind_of_numbers(column: NumberColumn, values: Floats, ids: list[str]) -> str | None:
    there = ~np.isnan(values)
    known = np.abs(values[there])
    whole = known == np.floor(known)
    if len(known) < _FEWEST or whole.mean() < _NEARLY:
        return None
    names = np.array(ids, dtype=object)[there]
    own = [_last_digits(name) == f"{value:.0f}" for name, value in zip(names, known, strict=True)]
    if np.mean(own) >= _HALF:
        return "the patients' own ids"
    if _most_days(known[whole]) >= _HALF * len(known):
        return "dates, such as of birth"
    years = known[(known >= _YEARS[0]) & (known <= _YEARS[1])]
    wide = column.minimum < _NO_YEARS[0] or column.maximum > _NO_YEARS[1]
    if wide and len(years) >= _NEARLY * len(known) and len(np.unique(years)) >= _DIFFERENT:
        return "years, such as of birth"
    long = whole & (known >= _SHORTEST_NUMBER)
    different, patients = len(np.unique(known[long])), len(set(names[long]))
    if long.mean() >= _NEARLY and different >= _DISTINCT * patients:
        return "record or telephone numbers"
    return None


def _last_digits(name: str) -> str:
    """Return the number that ends an id, without leading zeros; reads the last 40 characters."""
    found = re.search(r"(\d*)\W*$", name[-_LONGEST_END:])
    return found[1].lstrip("0") if found else ""


def _most_days(whole: Floats) -> int:
    """Return how many numbers read as a day or month in the same format.

    Examples: 19580402, 20458.
    """
    most = 0
    for digits, forms in _DAYS.items():
        possible = whole[(whole >= 10 ** (digits - 2)) & (whole < 10**digits)].astype(np.int64)
        if len(np.unique(possible)) < _DIFFERENT:
            continue
        text = pd.Series(possible).astype(str).str.zfill(digits)
        for form in forms:
            days = pd.to_datetime(text, format=form, errors="coerce").dropna()
            if digits == 8 or _varied(days, form):
                most = max(most, int(days.dt.year.between(*_YEARS).sum()))
    return most


def _varied(days: pd.Series, form: str) -> bool:
    """Return whether years, months and days all vary.

    Pressures such as 101325 and 101080 would all have the same day or month, 10.
    """
    parts = [days.dt.year, days.dt.month, *([days.dt.day] if "%d" in form else [])]
    return all(part.nunique() >= _VARIED for part in parts)
