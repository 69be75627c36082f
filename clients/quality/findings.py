"""Findings: faults of some data, worded without a single patient's value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from flo.errors import DataError

Level = Literal["refused", "to accept", "note"]
CODEBOOK, MISSING, EXTRA = "codebook", "missing cells", "extra columns"
_SHOWN = 5


@dataclass(frozen=True)
class DataFinding:
    """One fault of the data.

    ``rule``: the rule that does not hold. ``rows``: the first of ``count`` records, counted from 1.
    ``level``: *refused* must be corrected before approval; *to accept* must be corrected, or
    accepted in the mapping under ``name`` with a reason; a *note* does not block approval.
    """

    column: str
    rule: str
    rows: tuple[int, ...] = ()
    count: int = 0
    level: Level = "refused"
    kind: str = ""

    @property
    def name(self) -> str:
        """Name under which a mapping accepts this finding."""
        return f"{self.kind}: {self.column}" if self.column else self.kind

    def __str__(self) -> str:
        place = f"column {self.column!r}: " if self.column else ""
        if not self.rows:
            return f"{place}{self.rule}"
        shown = ", ".join(str(row) for row in self.rows)
        more = ", ..." if self.count > len(self.rows) else ""
        noun, where = ("record", "row") if self.count == 1 else ("records", "rows")
        return f"{place}{self.rule}, {self.count} {noun} ({where} {shown}{more})"


def rows(
    column: str,
    rule: str,
    broken: npt.NDArray[np.bool_],
    *,
    level: Level = "refused",
    kind: str = "",
) -> list[DataFinding]:
    """Return one finding on the records where ``broken``, shape (n,), is true; empty if none is."""
    places = np.flatnonzero(broken)
    if not len(places):
        return []
    first = tuple(int(place) + 1 for place in places[:_SHOWN])
    return [DataFinding(column, rule, first, len(places), level, kind)]


class Unfit(DataError):
    """Error for data that do not fit a study; lists every finding that blocks approval.

    ``at_a_site``: whether its reader is a steward, who has a mapping and a ``site.toml``.
    """

    def __init__(self, found: Sequence[DataFinding], *, at_a_site: bool = True) -> None:
        text = f"the data do not fit the study:\n{listed(found)}"
        super().__init__(text, hint="; ".join(_ways_out(found, at_a_site=at_a_site)))
        self.found = found


def refuse(found: Sequence[DataFinding], accepted: Mapping[str, str]) -> None:
    """Raise Unfit with every finding that blocks approval, not only the first."""
    hard = [finding for finding in found if finding.level == "refused"]
    open_ = [f for f in found if f.level == "to accept" and f.name not in accepted]
    if hard or open_:
        raise Unfit([*hard, *open_])


def _ways_out(found: Sequence[DataFinding], *, at_a_site: bool) -> Iterator[str]:
    kinds = {finding.kind for finding in found}
    if any(finding.rows for finding in found):
        yield "rows are counted from the first one below the header"
    yield "correct the data or the study"
    if MISSING in kinds:
        yield 'to allow missing cells, the study\'s column needs missing = "indicator"'
    if not at_a_site:
        if EXTRA in kinds:
            yield "remove columns that the study does not use from each hospital's file"
        return
    if CODEBOOK in kinds:
        yield (
            "to translate codes of your own, use `codes` in mapping.toml, which flo site map drafts"
        )
    if EXTRA in kinds:
        yield (
            "remove columns that no study should read from the file, or list them under `ignore` "
            "in site.toml; with a mapping (flo site map) FLO reads only the fields that it names"
        )
    if names := ", ".join(f'"{f.name}"' for f in found if f.level == "to accept"):
        yield f"if the data are right, accept the finding with a reason in mapping.toml: {names}"


def listed(found: Sequence[DataFinding]) -> str:
    """Return the findings as text, one per line."""
    return "\n".join(f"  {finding}" for finding in found)
