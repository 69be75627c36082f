"""What a worker tells the front of a record, for the monitors: in which cells its values are.

    risk (8)   as a double, NaN if none is stated
    lengths    of patient and ward, in bytes (2 each), and number of columns (2): 0xFFFF of a record
               that does not fit
    patient, ward
    cells      (2 each); or of a record that does not fit, as JSON: number of each column whose rule
               is broken, and the cell of a number beyond its bounds

Numbers are big-endian. No value leaves the worker but by its cell.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from flo.clients.serving.service import LONGEST_WARD
from flo.clients.watching.cells import Cells, StudyCells
from flo.errors import MessageError

_HEAD = struct.Struct("!dHHH")
_UNFIT = 0xFFFF
LONGEST_ID = 64  # characters
_NOT_ITS_FORM = "what a worker saw of a record is not in its form"


@dataclass(frozen=True)
class Seen:
    """``cells``: None of a record that does not fit. ``broken``: column's number and cell."""

    patient: str
    ward: str
    risk: float | None
    cells: Cells | None
    broken: tuple[tuple[int, int | None], ...]


def scored(patient: str, ward: str, risk: float | None, cells: Cells) -> bytes:
    """Return what is told of a scored record with these cells (columns,)."""
    who, where = patient.encode(), ward.encode()
    head = _HEAD.pack(math.nan if risk is None else risk, len(who), len(where), len(cells))
    return head + who + where + cells.astype(">u2").tobytes()


def unfit(study: StudyCells, patient: str, ward: str, broken: Iterable[tuple[str, str]]) -> bytes:
    """Return what is told of a record that breaks these rules, by column."""
    who, where = patient.encode(), ward.encode()
    said = json.dumps(study.of_rules(broken)).encode()
    return _HEAD.pack(math.nan, len(who), len(where), _UNFIT) + who + where + said


def read(data: bytes, columns: list[int]) -> Seen:
    """Read it in the front. ``columns``: number of cells of each.

    Raises MessageError: a worker cannot have said that.
    """
    try:
        found = _read(data, columns)
    except Exception as error:  # whatever a worker that was taken over sends
        raise MessageError(_NOT_ITS_FORM) from error
    if found is None:
        raise MessageError(_NOT_ITS_FORM)
    return found


def _read(data: bytes, columns: list[int]) -> Seen | None:
    risk, patient, ward, count = _HEAD.unpack_from(data)
    start = _HEAD.size + patient
    end = start + ward
    who, where = data[_HEAD.size : start].decode(), data[start:end].decode()
    if len(who) > LONGEST_ID or len(where) > LONGEST_WARD or not where.isprintable():
        return None
    if not (math.isnan(risk) or 0 <= risk <= 1):
        return None
    if count == _UNFIT:
        broken = tuple((one, cell) for one, cell in json.loads(data[end:]))
        right = all(
            type(one) is int
            and 0 <= one < len(columns)
            and (cell is None or (type(cell) is int and 0 <= cell < columns[one]))
            for one, cell in broken
        )
        is_once = len({one for one, _ in broken}) == len(broken)
        return Seen(who, where, None, None, broken) if right and is_once else None
    cells = np.frombuffer(data, dtype=">u2", offset=end).astype(np.uint16)
    if len(cells) != count or count != len(columns) or (cells >= columns).any():
        return None
    return Seen(who, where, None if math.isnan(risk) else risk, cells, ())
