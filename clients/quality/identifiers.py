"""What tells who a patient is, by its look: names, record numbers, e-mail, telephone, dates of
birth, free text. None of it may be a study's column (HIPAA, 45 CFR 164.514(b)(2), lists them).

Looks can deceive both ways. What holds against a hospital's own mistake is that a number has public
bounds and a category a public codebook; this only says, where such a rule is broken or could be
too wide, what the cells seem to be.

A column or codebook that names people by itself is refused before its cells are looked at.

Not to be told within wide bounds: numbers of four digits and less but years, what was scaled or
shifted, a few identifiers among many other numbers, and any of fewer than 20 cells. Nor, of a
codebook, a few names without a common given name ("typical angina" looks like one), and plain
record numbers of whom several records are here: a concept is a number, too.
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
from flo.study.schema import CategoryColumn, ImageColumn, NumberColumn, Schema, tells_who

IDENTIFIER = "identifier"
_MOST_CELLS = 2000  # looked at; a column that is full of identifiers shows it in its first ones
_SHARE, _HALF = 0.2, 0.5  # of them
_SHORTEST_NUMBER = 10_000  # of a record
_FEWEST = 20  # cells, for numbers to look like record numbers, and codes to name a patient each
_DIFFERENT = 10  # dates or years
_VARIED = 5  # of six digits: years, months, days
_NEARLY, _DISTINCT = 0.9, 0.98
_ONE_BY_ONE = 0.8  # of the codes, each in one patient
_YEARS, _NO_YEARS = (1870, 2100), (1800, 2200)
_DAYS = {  # digits -> how they may read as a day or a month
    8: ("%Y%m%d", "%d%m%Y", "%m%d%Y"),
    6: ("%y%m%d", "%d%m%y", "%m%d%y", "%Y%m"),
}
_LONGEST_END = 40  # characters of an id that are looked at


def kind_of_identifier(cells: pa.Array) -> str | None:
    """What most of the first cells look like, if that tells who a patient is."""
    try:
        text = as_text(cells[:_MOST_CELLS]).drop_null().to_pylist()
    except TypeError:
        return None
    return _kind(text)


def identifiers(columns: pd.DataFrame, ids: list[str], schema: Schema) -> list[DataFinding]:
    """Columns of the study that hold what tells who a patient is."""
    found = []
    for column in schema.columns:
        if rule := tells_who(column):
            found.append(DataFinding(column.name, rule, kind=IDENTIFIER))
            continue
        if isinstance(column, ImageColumn):
            continue
        cells = columns[column.name]
        if isinstance(column, CategoryColumn):
            found += _in_codes(column, cells, ids)
        elif kind := _kind_of_numbers(column, cells.to_numpy(), ids):
            rule = f"holds what looks like {kind}, which no study may have"
            found.append(DataFinding(column.name, rule, level="to accept", kind=IDENTIFIER))
    return found


def _in_codes(column: CategoryColumn, cells: pd.Series, ids: list[str]) -> list[DataFinding]:
    """What stands beside the codebook is refused; what it seems to invite is asked about."""
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
        rule = "most of its codes are one patient's each: do they name patients?"
    return [DataFinding(column.name, rule, level="to accept", kind=IDENTIFIER)] if rule else []


def _one_by_one(cells: pd.Series, ids: list[str]) -> bool:
    """Whether 20 codes and more are here, most of them in exactly one patient."""
    if cells.nunique() < _FEWEST:
        return False
    pairs = pd.DataFrame({"code": cells.cat.codes, "id": ids})[cells.notna().to_numpy()]
    patients = pairs.drop_duplicates()["code"].value_counts()
    return bool((patients == 1).mean() >= _ONE_BY_ONE)


def weak_ids(ids: list[str], id_column: str) -> list[DataFinding]:
    """A note where patients are known by what changes, or by what two of them may have."""
    kind = _kind(list(dict.fromkeys(ids))[:_MOST_CELLS])
    if kind not in ("names", "e-mail addresses"):
        return []
    rule = (
        f"holds what looks like {kind}: who has two counts as two patients, and two of one as one"
    )
    return [DataFinding(id_column, rule, level="note", kind=IDENTIFIER)]


def _kind(cells: list[str]) -> str | None:
    if not cells:
        return None
    for name, _ in identifier_patterns.KINDS:
        if np.mean(identifier_patterns.matches(name, cells)) >= _SHARE:
            return name
    return (
        "free text"
        if np.mean([identifier_patterns.is_text(cell) for cell in cells]) >= _SHARE
        else None
    )


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
    """The number that an id ends in, without zeros in front; of a long one its end is looked at."""
    found = re.search(r"(\d*)\W*$", name[-_LONGEST_END:])
    return found[1].lstrip("0") if found else ""


def _most_days(whole: Floats) -> int:
    """Of numbers how many read as a day or month in the same way, such as 19580402 or 20458."""
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
    """Whether every part does: 101325 and 101080 are pressures, all of the tenth of a month."""
    parts = [days.dt.year, days.dt.month, *([days.dt.day] if "%d" in form else [])]
    return all(part.nunique() >= _VARIED for part in parts)
