"""Questions to a catalogue: which cells of one or two columns a text means, and how many are there.

    age >= 60 and sex = female
    ward in (icu, "step down") or age is missing

Conditions are joined by ``and``, ``or`` and parentheses. A number can be compared only with the
ends of its ranges, because the catalogue does not say where in a range a patient is. A range
includes its lower end, so the comparisons are ``>=`` and ``<``. A patient without a value fulfils
no condition but ``is missing``.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from lark import Lark, Token, Tree
from lark.exceptions import UnexpectedInput

from flo.arrays import Mask
from flo.errors import UsageError
from flo.privacy.releases.catalogue import CountedColumn, Places, in_words
from flo.statistics.catalogue import CatalogueRead, Counted

_PLAIN = re.compile(r"[^\s()<>=!,\"'$`\\;&|*?#~]+")
_KEYWORDS = ("and", "or", "in", "is", "not", "missing")
LONGEST = 500  # characters of a question
_EXAMPLE = 'such as: age >= 60 and sex = female; quote values with spaces: ward = "step down"'
_GRAMMAR = r"""
?start: any
?any: all ("or"i all)*
?all: one ("and"i one)*
?one: "(" any ")" | condition
condition: word OPERATOR word -> compared
         | word "in"i "(" word ("," word)* ")" -> among
         | word "is"i "missing"i -> missing
         | word "is"i "not"i "missing"i -> there
word: WORD | QUOTED
OPERATOR: ">=" | "<=" | "!=" | ">" | "<" | "="
WORD: /[^\s()<>=!,"']+/
QUOTED: /"[^"]*"|'[^']*'/
%ignore /\s+/
"""


@dataclass(frozen=True)
class Answer:
    """``columns``: names of those that the question is about; ``catalogue``: the part's name."""

    question: str
    catalogue: str
    columns: tuple[str, ...]
    counted: Counted


def ask(read: CatalogueRead, question: str) -> Answer:
    """Answer a question.

    Raises:
        UsageError: it is too long or no question, about a column, a code or an end of a range that
        the catalogue has not, or about more than two columns or a pair that was not counted.
    """
    if len(question) > LONGEST:
        raise UsageError(f"the question has {len(question)} characters, limit {LONGEST}")
    try:
        tree = _parser().parse(question)
    except UnexpectedInput as error:
        place = getattr(error, "column", 1) or 1
        raise UsageError(
            f"the question cannot be read at character {place}: {question[:80]!r}", hint=_EXAMPLE
        ) from error
    columns = {column.name: place for place, column in enumerate(read.block.columns)}
    names = list(dict.fromkeys(_name(node) for node in tree.find_pred(_is_condition)))
    for name in names:
        if name not in columns:
            raise UsageError(
                f"the catalogue has no column {name!r}", hint=f"it has {', '.join(columns)}"
            )
    places = _places(read, names, columns)
    mask = _mask(tree, read, places)
    counted = read.counted(places, np.broadcast_to(mask, _shape(read, places)).astype(float))
    return Answer(question, read.name, tuple(names), counted)


def quoted(word: str) -> str:
    """Return a name or code as a question may have it."""
    if _PLAIN.fullmatch(word) and word.lower() not in _KEYWORDS:
        return word
    return f"'{word}'" if '"' in word else f'"{word}"'


@cache
def _parser() -> Lark:
    return Lark(_GRAMMAR, parser="lalr", maybe_placeholders=False)


def _is_condition(node: Tree[Token]) -> bool:
    return node.data in _CONDITIONS


def _places(read: CatalogueRead, names: list[str], columns: dict[str, int]) -> Places:
    """Return the places of one column, or of a pair in the order in which it was counted."""
    if len(names) > 2:
        raise UsageError(
            f"the question is about {len(names)} columns ({', '.join(names)}), limit 2",
            hint="a catalogue counts pairs; a study with a table or regression answers more",
        )
    wanted = {columns[name] for name in names}
    found = next((of for of in read.block.components if set(of) == wanted), None)
    if found is None:
        raise UsageError(
            f"the catalogue did not count {names[0]} and {names[1]} together",
            hint="the study named its pairs, and this is none of them",
        )
    return found


def _shape(read: CatalogueRead, places: Places) -> tuple[int, ...]:
    return tuple(read.block.columns[place].size for place in places)


def _mask(node: Tree[Token], read: CatalogueRead, places: Places) -> Mask:
    """Return which cells fulfil a part of the question; broadcasts to the table's shape."""
    if node.data in _CONDITIONS:
        name = _name(node)
        axis = next(n for n, place in enumerate(places) if read.block.columns[place].name == name)
        column = read.block.columns[places[axis]]
        shape = [1] * len(places)
        shape[axis] = column.size
        return _CONDITIONS[node.data](column, [_text(word) for word in node.children[1:]]).reshape(
            shape
        )
    join = np.logical_and if node.data == "all" else np.logical_or
    first, *others = (_mask(child, read, places) for child in _trees(node))
    for other in others:
        first = join(first, other)
    return first


def _trees(node: Tree[Token]) -> list[Tree[Token]]:
    return [child for child in node.children if isinstance(child, Tree)]


def _name(node: Tree[Token]) -> str:
    return _text(node.children[0])


def _text(word: Tree[Token] | Token) -> str:
    text = str(word if isinstance(word, Token) else word.children[0])
    return text[1:-1] if text[:1] in "\"'" else text


def _compared(column: CountedColumn, words: list[str]) -> Mask:
    sign, value = words
    if column.edges:
        return _ranges(column, sign, value)
    if sign not in ("=", "!="):
        raise UsageError(
            f"{column.name} {sign} {value}: {column.name} has codes, which have no order",
            hint=f"ask {column.name} = CODE, or {column.name} in (CODE, CODE)",
        )
    found = _among(column, [value])
    return found if sign == "=" else ~found & _there(column, [])


def _ranges(column: CountedColumn, sign: str, text: str) -> Mask:
    """Return the ranges above or below an end of one. Raises UsageError unless it is exact."""
    asked, ends = f"{column.name} {sign} {text}", ", ".join(map(in_words, column.edges))
    try:
        value = float(text)
    except ValueError as error:
        raise UsageError(f"{asked}: {text!r} is no number") from error
    if sign in ("=", "!="):
        raise UsageError(
            f"{asked}: the catalogue knows {column.name} in ranges only, which meet at {ends}",
            hint=f"ask {column.name} >= {in_words(column.edges[0])} and {column.name} < "
            f"{in_words(column.edges[1])}, or another range",
        )
    if sign == "<=" and value == column.edges[-1]:
        return _there(column, [])
    exact = ">=" if sign in (">", ">=") else "<"
    if value not in column.edges[:-1] or sign != exact:
        near = min(column.edges[1:-1], key=lambda end: abs(end - value))
        raise UsageError(
            f"{asked}: the catalogue's ranges of {column.name} meet at {ends}, and each has its "
            "lower end",
            hint=f"ask {column.name} {exact} {in_words(near)}",
        )
    lower = np.array(column.edges[:-1])
    compare: Callable[[Any, Any], Any] = operator.ge if exact == ">=" else operator.lt
    return _with_missing(column, compare(lower, value))


def _among(column: CountedColumn, codes: list[str]) -> Mask:
    if column.edges:
        raise UsageError(
            f"{column.name} is a number: ask about a range",
            hint=f"{column.name} >= {in_words(column.edges[1])}",
        )
    known = column.cells[: column.size - column.missing]
    for code in codes:
        if code not in known:
            raise UsageError(
                f"{column.name} has no code {code!r}", hint=f"it has {', '.join(known[:30])}"
            )
    return _with_missing(column, np.array([cell in codes for cell in known]))


def _missing(column: CountedColumn, _words: list[str]) -> Mask:
    return _with_missing(column, np.zeros(column.size - column.missing, dtype=np.bool_), True)


def _there(column: CountedColumn, _words: list[str]) -> Mask:
    return _with_missing(column, np.ones(column.size - column.missing, dtype=np.bool_))


def _with_missing(column: CountedColumn, mask: Mask, without: bool = False) -> Mask:
    return np.append(mask, without) if column.missing else mask


_CONDITIONS: dict[str, Callable[[CountedColumn, list[str]], Mask]] = {
    "compared": _compared,
    "among": _among,
    "missing": _missing,
    "there": _there,
}
