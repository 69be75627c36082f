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
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from flo.clients.serving.service import LONGEST_WARD
from flo.clients.watching.cells import Cells, StudyCells

_HEAD = struct.Struct("!dHHH")
_UNFIT = 0xFFFF
LONGEST_ID = 64  # characters


class Seen(NamedTuple):
    """``cells``: None of a record that does not fit. ``broken``: column's number and cell."""

    patient: str
    ward: str
    risk: float | None
    cells: Cells | None
    broken: tuple[tuple[int, int | None], ...]


def as_bytes(cells: Cells) -> list[bytes]:
    """Return the cells of several records (records, columns), each as it is told."""
    told, size = cells.astype(">u2").tobytes(), 2 * cells.shape[1]
    return [told[start : start + size] for start in range(0, len(told), size)]


def scored(patient: str, ward: str, risk: float | None, cells: bytes) -> bytes:
    """Return what is told of a scored record with these cells (``as_bytes``)."""
    who, where = patient.encode(), ward.encode()
    head = _HEAD.pack(math.nan if risk is None else risk, len(who), len(where), len(cells) // 2)
    return head + who + where + cells


def unfit(study: StudyCells, patient: str, ward: str, broken: Iterable[tuple[str, str]]) -> bytes:
    """Return what is told of a record that breaks these rules, by column."""
    who, where = patient.encode(), ward.encode()
    said = json.dumps(study.of_rules(broken)).encode()
    return _HEAD.pack(math.nan, len(who), len(where), _UNFIT) + who + where + said


def read(several: Sequence[bytes], columns: Sequence[int]) -> list[Seen | None]:
    """Read what workers told of records, in the front; None of what no worker can have said.

    ``columns``: number of cells of each.
    """
    found, places, cells = list[Seen | None](), list[int](), list[bytes]()
    for place, data in enumerate(several):
        try:
            one, rest = _read(data, columns)
        except Exception:  # noqa: BLE001 - whatever a worker that was taken over sends
            one, rest = None, b""
        found.append(one)
        if one is not None and rest:
            places.append(place)
            cells.append(rest)
    # All at once: a numpy call for each record takes longer than all the rest.
    shape = len(cells), len(columns)
    whole = np.frombuffer(b"".join(cells), dtype=">u2").astype(np.uint16).reshape(shape)
    wrong = np.any(whole >= np.array(columns, dtype=np.int64), axis=1).tolist()
    for place, row, is_wrong in zip(places, whole, wrong, strict=True):
        one = found[place]
        found[place] = None if one is None or is_wrong else one._replace(cells=row)
    return found


def _read(data: bytes, columns: Sequence[int]) -> tuple[Seen | None, bytes]:
    """Return what was seen, without its cells, and the bytes of those; b"" of a record that does
    not fit. None: it is not in its form."""
    risk, patient, ward, count = _HEAD.unpack_from(data)
    start = _HEAD.size + patient
    end = start + ward
    who, where, rest = data[_HEAD.size : start].decode(), data[start:end].decode(), data[end:]
    if len(who) > LONGEST_ID or len(where) > LONGEST_WARD or not where.isprintable():
        return None, b""
    if not (math.isnan(risk) or 0 <= risk <= 1):
        return None, b""
    if count == _UNFIT:
        broken = tuple((one, cell) for one, cell in json.loads(rest))
        right = all(
            type(one) is int
            and 0 <= one < len(columns)
            and (cell is None or (type(cell) is int and 0 <= cell < columns[one]))
            for one, cell in broken
        )
        is_once = len({one for one, _ in broken}) == len(broken)
        return (Seen(who, where, None, None, broken) if right and is_once else None), b""
    if count != len(columns) or len(rest) != 2 * count:
        return None, b""
    return Seen(who, where, None if math.isnan(risk) else risk, None, ()), rest
