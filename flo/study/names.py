"""Kinds of text and numbers that a study's documents have: names, codes, words for people."""

from __future__ import annotations

import unicodedata
from typing import Annotated

from pydantic import AfterValidator, Field, StringConstraints

from flo.documents.document import spelt
from flo.study.cell_rules import MISSING

LONGEST_WORDS = 120  # characters

ColumnName = Annotated[
    str,
    spelt(
        r"[A-Za-z0-9_][A-Za-z0-9_ .()/%-]{0,99}",
        "up to 100 letters without accents, digits, spaces and _ . ( ) / % -; a file's own header "
        "is translated by `flo site map`",
    ),
]


def only_printable(text: str) -> str:
    """Return ``text``. Raises ValueError for characters that could move, hide or reorder text.

    A steward reads the text on a terminal.
    """
    if any(unicodedata.category(character)[0] in "CZ" and character != " " for character in text):
        raise ValueError("control, format and line characters are not allowed")
    return text


def _matchable(code: str) -> str:
    if code != code.strip() or code.casefold() in MISSING:
        raise ValueError(f"the code {code!r} cannot match: it means missing, or has outer spaces")
    return code


Text = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=2000),
    AfterValidator(only_printable),
]
Code = Annotated[
    str,
    StringConstraints(min_length=1, max_length=100),
    AfterValidator(only_printable),
    AfterValidator(_matchable),
]
Bound = Annotated[float, Field(ge=-1e15, le=1e15)]


def _listable(words: str) -> str:
    if ";" in words:
        raise ValueError(f"the words {words!r} contain a semicolon, which separates such words")
    return words


Words = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=LONGEST_WORDS),
    AfterValidator(only_printable),
    AfterValidator(_listable),
]
