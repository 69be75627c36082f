"""What tells who a patient is, by its look: names, record numbers, e-mail, telephone, dates of
birth, free text. None of it may be a study's column (HIPAA, 45 CFR 164.514(b)(2), lists them).

Looks can deceive both ways. What holds against a hospital's own mistake is that a number has public
bounds and a category a public codebook; this only says, where such a rule is broken or could be
too wide, what the cells seem to be.
"""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pyarrow as pa

from flo.clients.quality.cells import Floats, as_text
from flo.clients.quality.findings import Finding, Level
from flo.schema import CategoryColumn, ImageColumn, Schema

IDENTIFIER = "identifier"
_MOST_CELLS = 2000  # looked at; a column that is full of identifiers shows it in its first ones
_SHARE, _HALF = 0.2, 0.5  # of them
_SHORTEST_NUMBER = 6  # digits
_FEWEST = 20  # cells, for numbers to look like record numbers
_DISTINCT = 0.98
_LONG_TEXT, _WORDS = 40, 5
_DATE = r"(\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4})([T ]\d{1,2}:\d{2}.*)?"
_MONTHS = r"\d{1,2}[. -]+[^\W\d_]{3,9}[. -]+\d{4}"
_PHONE = r"(\+\d[\d ()/.-]{6,}|\(?0\d[\d ()/.-]{6,}|\(?\d{3}\)?[ -]\d{3}-\d{4})"
_RECORD = r"(?=.*\d{5})[A-Za-z]{0,4}[ -]?[\d /-]{5,}[A-Za-z]?|\d{3}-\d{2}-\d{4}|\d{3} \d{3} \d{4}"
_WORD = r"[^\W\d_][\w'’.-]*"
_KINDS = (
    ("e-mail addresses", re.compile(r"[^@\s]+@[^@\s]+\.[A-Za-z]{2,}")),
    ("dates, such as of birth", re.compile(f"{_DATE}|{_MONTHS}")),
    ("telephone numbers", re.compile(_PHONE)),
    ("record or insurance numbers", re.compile(_RECORD)),
    ("names", re.compile(rf"{_WORD},?( {_WORD},?){{1,5}}")),
)


def kind_of_identifier(cells: pa.Array) -> str | None:
    """What most of the first cells look like, if that tells who a patient is."""
    try:
        text = as_text(cells[:_MOST_CELLS]).drop_null().to_pylist()
    except TypeError:
        return None
    return _kind(text)


def identifiers(columns: pd.DataFrame, ids: list[str], schema: Schema) -> list[Finding]:
    """Columns of the study that hold what tells who a patient is."""
    found = []
    for column in schema.columns:
        if isinstance(column, ImageColumn):
            continue
        cells = columns[column.name]
        if isinstance(column, CategoryColumn):
            known = {code.casefold() for code in column.codes}
            strange = [c for c in cells.cat.categories if c.lstrip("\0").casefold() not in known]
            kind = _kind([str(cell).lstrip("\0") for cell in strange[:_MOST_CELLS]])
        else:
            kind = _kind_of_numbers(cells.to_numpy(), ids)
        if kind:
            level: Level = "refused" if isinstance(column, CategoryColumn) else "to accept"
            rule = f"holds what looks like {kind}, which no study may have"
            if isinstance(column, CategoryColumn) and "numbers" in kind:
                rule += "; if they are codes or concepts, name them under `codes` in mapping.toml"
            found.append(Finding(column.name, rule, level=level, kind=IDENTIFIER))
    return found


def weak_ids(ids: list[str], id_column: str) -> list[Finding]:
    """A note where patients are known by what changes, or by what two of them may have."""
    kind = _kind(list(dict.fromkeys(ids))[:_MOST_CELLS])
    if kind not in ("names", "e-mail addresses"):
        return []
    rule = (
        f"holds what looks like {kind}: who has two counts as two patients, and two of one as one"
    )
    return [Finding(id_column, rule, level="note", kind=IDENTIFIER)]


def _kind(cells: list[str]) -> str | None:
    if not cells:
        return None
    for name, pattern in _KINDS:
        if np.mean([pattern.fullmatch(cell) is not None for cell in cells]) >= _SHARE:
            return name
    long = [len(cell) > _LONG_TEXT or len(cell.split()) >= _WORDS for cell in cells]
    return "free text" if np.mean(long) >= _SHARE else None


def _kind_of_numbers(values: Floats, ids: list[str]) -> str | None:
    there = ~np.isnan(values)
    known = values[there]
    if len(known) < _FEWEST or np.mean(known == np.floor(known)) < _DISTINCT:
        return None
    names = [ids[place] for place in np.flatnonzero(there)]
    digits = [re.sub(r".*?(\d*)\W*$", r"\1", name).lstrip("0") for name in names]
    whole = [f"{value:.0f}" for value in np.abs(known)]
    if np.mean([a == b for a, b in zip(whole, digits, strict=True)]) >= _HALF:
        return "the patients' own ids"
    if _share_of_days(known) >= _DISTINCT:
        return "dates, such as of birth"
    long = np.mean([len(number) >= _SHORTEST_NUMBER for number in whole])
    if long >= _DISTINCT and len(np.unique(known)) >= _DISTINCT * len(set(names)):
        return "record or telephone numbers"
    return None


def _share_of_days(known: Floats) -> float:
    """Of numbers that read as a day since 1870, such as 19580402 or 2041958."""
    possible = known[(known >= 1_011_870) & (known <= 31_122_100)].astype(np.int64)
    text = pd.Series(possible).astype(str).str.zfill(8)
    shares = [0.0]
    for form, year in (("%Y%m%d", slice(0, 4)), ("%d%m%Y", slice(4, 8))):
        days = pd.to_datetime(text, format=form, errors="coerce").notna()
        known_year = text.str[year].astype(int).between(1870, 2100)
        shares.append(float((days & known_year).sum()) / len(known))
    return max(shares)
