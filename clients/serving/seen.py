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

from flo.clients.watching.cells import Cells, StudyCells
from flo.errors import MessageError

_HEAD = struct.Struct("!dHHH")
_UNFIT = 0xFFFF
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
        risk, patient, ward, count = _HEAD.unpack_from(data)
        start = _HEAD.size + patient
        end = start + ward
        who, where = data[_HEAD.size : start].decode(), data[start:end].decode()
        if count == _UNFIT:
            broken = tuple((int(one), cell) for one, cell in json.loads(data[end:]))
            for one, cell in broken:
                if not 0 <= one < len(columns) or not (cell is None or 0 <= cell < columns[one]):
                    raise MessageError(_NOT_ITS_FORM)
            return Seen(who, where, None, None, broken)
        cells = np.frombuffer(data, dtype=">u2", offset=end).astype(np.uint16)
    except (ValueError, TypeError, struct.error, RecursionError) as error:
        raise MessageError(_NOT_ITS_FORM) from error
    if len(cells) != count or count != len(columns) or (cells >= columns).any():
        raise MessageError(_NOT_ITS_FORM)
    if not (math.isnan(risk) or 0 <= risk <= 1):
        raise MessageError(_NOT_ITS_FORM)
    return Seen(who, where, None if math.isnan(risk) else risk, cells, ())
