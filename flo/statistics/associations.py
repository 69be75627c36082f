"""A catalogue's columns and associations in words, and the associations as a map of squares."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from flo.privacy.releases.catalogue import in_words
from flo.statistics import words
from flo.statistics.catalogue import CatalogueRead
from flo.statistics.questions import quoted

_LEFT, _TOP, _RIGHT, _SIDE = 130.0, 110.0, 60.0, 34.0
_LETTERS = 18


@dataclass(frozen=True)
class Label:
    """A column's name and where it ends (left) or begins (top)."""

    x: float
    y: float
    text: str


@dataclass(frozen=True)
class Square:
    """A pair: its corner, how dark it is, in [0, 1], and its number; empty if it may be noise."""

    x: float
    y: float
    strength: float
    text: str


@dataclass(frozen=True)
class AssociationMap:
    """Squares below the diagonal. ``example``: a question that this catalogue answers; ``command``:
    how to ask it in a shell.
    """

    width: float
    height: float
    side: float
    rows: list[Label]
    columns: list[Label]
    cells: list[Square]
    example: str

    @property
    def command(self) -> str:
        """What a person pastes into a shell."""
        return f"flo study ask FILE {shlex.quote(self.example)}"


def association_map(part: CatalogueRead) -> AssociationMap:
    """Lay out the association of each pair that the catalogue has."""
    names = [_short(column.name) for column in part.block.columns]
    count = len(names)
    rows = [
        Label(_LEFT - 8, _TOP + (n - 1) * _SIDE + _SIDE / 2 + 4, names[n]) for n in range(1, count)
    ]
    columns = [
        Label(_LEFT + n * _SIDE + _SIDE / 2, _TOP - 8, names[n]) for n in range(max(1, count - 1))
    ]
    cells = []
    for pair in part.block.pairs:
        low, high = sorted(pair)
        found = part.associations[pair]
        text = "" if found is None else f"{100 * found:.0f}"
        at = (_LEFT + low * _SIDE, _TOP + (high - 1) * _SIDE)
        cells.append(Square(*at, round(found or 0.0, 3), text))
    side = (max(1, count - 1)) * _SIDE
    return AssociationMap(
        _LEFT + side + _RIGHT, _TOP + side + 8, _SIDE, rows, columns, cells, _example(part)
    )


def column_lines(part: CatalogueRead) -> list[tuple[str, str]]:
    """Return (label, words) for every cell of every column."""
    lines = []
    for place, column in enumerate(part.block.columns):
        for cell, name in enumerate(column.cells):
            found = part.counted((place,), words.one_cell(part, (place,), (cell,)))
            text = f"{words.count(found.patients)}; {words.share(found.share)}"
            lines.append((f"{column.name}: {name}", text))
    return lines


def association_lines(part: CatalogueRead) -> list[tuple[str, str]]:
    """Return (pair, Cramér's V) of the pairs that are associated, the strongest first."""
    columns = part.block.columns
    known = [(v, pair) for pair, v in part.associations.items() if v is not None]
    sure = sorted(known, reverse=True)
    return [
        (f"{columns[one].name} and {columns[other].name}", f"Cramér's V {v:.2f}")
        for v, (one, other) in sure
    ]


def _example(part: CatalogueRead) -> str:
    """Return a question about the first pair, or about a column if there is no pair."""
    places = next(iter(part.block.pairs), (0,))
    conditions = []
    for column in (part.block.columns[place] for place in places):
        name = quoted(column.name)
        if column.edges:
            conditions.append(f"{name} >= {in_words(column.edges[1])}")
        else:
            conditions.append(f"{name} = {quoted(column.cells[-1 - column.missing])}")
    return " and ".join(conditions)


def _short(name: str) -> str:
    return name if len(name) <= _LETTERS else name[: _LETTERS - 1] + "…"
