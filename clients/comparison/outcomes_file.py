"""Reads a file of outcomes by the ids of answers."""

from __future__ import annotations

import csv
from pathlib import Path

from flo.errors import DataError, UsageError

_MOST_BYTES = 256 << 20
_VALUES = {"0": False, "1": True}


def read_outcomes(path: Path) -> dict[str, bool]:
    """Return outcomes by id, in lower case.

    Raises UsageError: there is no such file, it is too large, or has no columns ``id`` and
    ``outcome``. DataError: it is no CSV file, an outcome is not 0 or 1, or an id is there twice.
    """
    if not path.is_file():
        raise UsageError(f"there is no file {path}")
    if path.stat().st_size > _MOST_BYTES:
        raise UsageError(f"{path} has more than {_MOST_BYTES >> 20} MiB", hint="split it")
    try:
        return _read(path)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{path} is no CSV file in UTF-8 ({type(error).__name__})", hint="save it as UTF-8"
        ) from error


def _read(path: Path) -> dict[str, bool]:
    found = dict[str, bool]()
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        if not {"id", "outcome"} <= set(rows.fieldnames or ()):
            raise UsageError(
                f"{path} needs the columns id and outcome",
                hint="id: of the answer, as on its card; outcome: 1 if the patient came to have it",
            )
        for number, row in enumerate(rows, start=1):
            id_, outcome = (row["id"] or "").strip().lower(), (row["outcome"] or "").strip()
            if outcome not in _VALUES:
                raise DataError(
                    f"{path}: outcome: not 0 or 1 in row {number}",
                    hint="leave out answers whose outcome is not known yet",
                )
            if id_ in found:
                raise DataError(f"{path}: id: the same answer twice, in row {number}")
            found[id_] = _VALUES[outcome]
    return found
