"""Detect a file without a header, whose column names are a patient's cells.

Such names are never shown.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from flo.clients.quality.findings import DataFinding, refuse
from flo.study import identifier_patterns

_SHARE = 1 / 3  # of the names
_NUMBER = re.compile(r"[+-]?\d+([.,]\d+)?")
_MEND = "give the file a header, with the id_column that site.toml names"


def refuse_cells(names: Sequence[str], id_column: str, wanted: Collection[str] = ()) -> None:
    """Refuse a table without ``id_column`` whose column names may be a patient's cells.

    Must be called before any name is shown. ``wanted``: other columns that are expected; a table
    that has none of them is refused, too.

    Raises:
        DataError: the names may be a patient's cells.
    """
    if id_column in names or not names:
        return
    cells = sum(_is_like_a_cell(name) for name in names)
    if cells >= _SHARE * len(names):
        rule = f"the first line looks like a patient's data and not like a header; {_MEND}"
        refuse([DataFinding("", rule)], {})
    if wanted and not set(wanted) & set(names):
        rule = (
            f"neither the id_column {id_column!r} nor a column of the study is in the file; if its "
            f"first line has a patient's data, {_MEND}; if its columns have other names, flo site "
            "map drafts a mapping"
        )
        refuse([DataFinding("", rule)], {})


def _is_like_a_cell(name: str) -> bool:
    if not name.strip() or _NUMBER.fullmatch(name.strip()):
        return True
    kinds = [kind for kind, _ in identifier_patterns.KINDS if kind != identifier_patterns.NAMES]
    return any(identifier_patterns.matches(kind, [name.strip()])[0] for kind in kinds)
