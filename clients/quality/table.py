"""Convert a source's cells to a table of numbers, codes and notes, by column and batch.

The mapping's units, codes and missing cells are applied here. Only numbers, codes and the
notes that a study uses are stored, so that a million records of thirty columns take some hundred
megabytes, whatever else the source holds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from flo.arrays import Floats, Mask
from flo.clients.quality.findings import DataFinding, rows
from flo.clients.sources.cells import as_ids, as_numbers, as_text, dictionary, is_text
from flo.clients.sources.mapping import MappedColumn, StudyMapping, each_step
from flo.clients.sources.source import DataSource
from flo.privacy.patients.split import normalise
from flo.study.cell_rules import (
    NOT_A_NUMBER,
    NOT_FINITE,
    NOT_TEXT,
    ONLY_A_BOUND,
    UNKNOWN,
    code_of,
    missing_cells,
)
from flo.study.columns import CategoryColumn, ImageColumn, NoteColumn, NumberColumn
from flo.study.schema import Schema

_BOUND = r"^(<|>|≤|≥|\? )"
CountSoFar = Callable[[int], None]
_NOTES = 1024  # cells that are converted together: Arrow's text has at most 2 GiB
_Coded = tuple[list[str], npt.NDArray[np.int32]]  # codes, and each cell's place among them or -1


@dataclass(frozen=True)
class Table:
    """n records. ``ids``: normalised patient ids, "" for a missing one.

    ``columns``: numbers as float64 with NaN for missing, codes as a categorical with NaN for
    missing, notes as Arrow's text with NA for missing. ``images``: (n, pixels), NaN for a pixel
    that is not a number. ``invalid``: (column, rule) -> mask (n,) of the cells that could not be
    read, which are NaN in a number's column, and of those that the source found wrong.
    ``to_accept`` and ``notes``: those of the source's batches.
    """

    ids: list[str]
    columns: pd.DataFrame
    images: dict[str, Floats] = field(default_factory=dict)
    invalid: dict[tuple[str, str], Mask] = field(default_factory=dict)
    to_accept: dict[tuple[str, str, str], int] = field(default_factory=dict)
    notes: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def different_ids(self) -> frozenset[str]:
        """Every id once."""
        return frozenset(self.ids)

    @property
    def source_findings(self) -> list[DataFinding]:
        """Findings on cells that could not be read, and the source's own doubts and notes."""
        wrong = [
            finding
            for (column, rule), mask in self.invalid.items()
            for finding in rows(column, rule, mask)
        ]
        doubts = [
            DataFinding(column, f"{rule}: {count}", level="to accept", kind=kind)
            for (kind, column, rule), count in self.to_accept.items()
        ]
        notes = [DataFinding("", f"{rule}: {n}", level="note") for rule, n in self.notes.items()]
        return wrong + doubts + notes

    def unread_in(self, column: str) -> Mask:
        """Return the mask, (n,), of a column's cells in ``invalid``."""
        masks = [mask for (name, _), mask in self.invalid.items() if name == column]
        return np.any(masks, axis=0) if masks else np.zeros(len(self), dtype=bool)


def read(
    source: DataSource,
    schema: Schema,
    mapping: StudyMapping,
    progress: CountSoFar = lambda done: None,
) -> Table:
    """Read the records that ``mapping`` selects. The table has only the columns that it names.

    ``progress`` is called with the number of records read so far.

    Raises:
        DataError: the source cannot be read. UsageError: it cannot be reached.
    """
    images = {c.name: c for c in schema.columns if isinstance(c, ImageColumn)}
    pixels = {pixel: image.name for image in images.values() for pixel in image.pixels}
    texts: dict[str, list[pa.Array]] = {
        c.name: [] for c in schema.columns if isinstance(c, NoteColumn)
    }
    read_as = *schema.columns, schema.value_column
    numbers = {c.name for c in read_as if isinstance(c, NumberColumn)}
    known = {c.name: c.codes for c in schema.columns if isinstance(c, CategoryColumn)}
    known[schema.label] = schema.label_values
    of_each = each_step(mapping, schema).columns
    ids: list[str] = []
    doubts: dict[tuple[str, str, str], int] = {}
    notes: dict[str, int] = {}
    values: dict[str, _Growing] = {}
    codes: dict[str, list[_Coded]] = {}
    wrong: dict[tuple[str, str], list[tuple[int, Mask]]] = {}
    for batch in source.read(mapping, schema):
        begin = len(ids)
        for name, cells in batch.columns.items():
            mapped = of_each[name]
            if name in images:
                values.setdefault(name, _Growing()).append(_image(cells, images[name]))
            elif name in pixels or name in numbers:
                found, broken = _numbers(name, cells, mapped)
                values.setdefault(name, _Growing()).append(found)
                for key, mask in broken.items() if name in numbers else ():
                    wrong.setdefault(key, []).append((begin, mask))
            elif name in texts:
                text, broken = _note(name, cells, mapped)
                texts[name].append(text)
                for key, mask in broken.items():
                    wrong.setdefault(key, []).append((begin, mask))
            else:
                codes.setdefault(name, []).append(_coded(cells, mapped, known[name]))
        doubts |= batch.to_accept
        notes |= batch.notes
        for key, mask in batch.invalid.items():
            wrong.setdefault(key, []).append((begin, mask))
        ids += _ids(batch.ids)
        progress(len(ids))
    joined = {name: found.whole() for name, found in values.items()}
    for image in images.values():
        if image.pixels[0] in joined:
            joined[image.name] = np.stack([joined.pop(pixel) for pixel in image.pixels], axis=1)
    columns: dict[str, Any] = {
        name: values for name, values in joined.items() if name not in images
    }
    columns |= {name: _categorical(parts) for name, parts in codes.items()}
    columns |= {
        name: pd.arrays.ArrowExtensionArray(pa.chunked_array(parts, pa.large_string()))
        for name, parts in texts.items()
        if parts
    }
    return Table(
        ids,
        pd.DataFrame(columns, index=range(len(ids)), copy=False),
        {name: joined[name] for name in images if name in joined},
        {key: _whole(parts, len(ids)) for key, parts in wrong.items() if _any(parts)},
        doubts,
        notes,
    )


class _Growing:
    """An array that grows by its parts, in place: a list of parts takes twice the memory."""

    def __init__(self) -> None:
        self._kept, self._count = np.empty(0), 0

    def append(self, part: Floats) -> None:
        """Add a part, (m,) or (m, k), of the same type as all others."""
        if not self._count:
            self._kept = np.empty((0, *part.shape[1:]), part.dtype)
        end = self._count + len(part)
        if end > len(self._kept):
            self._kept.resize((max(end, 2 * len(self._kept)), *part.shape[1:]), refcheck=False)
        self._kept[self._count : end] = part
        self._count = end

    def whole(self) -> Floats:
        """Return the array, whose memory is no longer grown."""
        self._kept.resize((self._count, *self._kept.shape[1:]), refcheck=False)
        return self._kept


def _numbers(
    name: str, cells: pa.Array, mapped: MappedColumn
) -> tuple[Floats, dict[tuple[str, str], Mask]]:
    words, absent = missing_cells(mapped.missing)
    if words:
        cells = _without(_text(cells), words)
    try:
        values, text = as_numbers(cells)
    except TypeError as error:
        values, text = np.full(len(cells), np.nan), np.ones(len(cells), dtype=bool)
        return values, {(name, f"{NOT_A_NUMBER}, not {error}"): text}
    infinite = np.isinf(values)
    values[infinite | np.isin(values, absent) if absent else infinite] = np.nan
    if mapped.multiply is not None:
        values = values * mapped.multiply + mapped.add
    bounds = _bounds(cells, text)
    return values, {
        (name, NOT_A_NUMBER): text & ~bounds,
        (name, ONLY_A_BOUND): bounds,
        (name, NOT_FINITE): infinite,
    }


def _note(
    name: str, cells: pa.Array, mapped: MappedColumn
) -> tuple[pa.Array, dict[tuple[str, str], Mask]]:
    """Return text, null for missing, and the masks of the cells that are none."""
    found, broken = list[pa.Array](), dict[tuple[str, str], Mask]()
    for begin in range(0, len(cells), _NOTES):
        part = cells[begin : begin + _NOTES]
        try:
            found.append(_note_text(part, mapped))
            continue
        except TypeError:
            pass  # one or more are no text: each is looked at alone
        for place in range(begin, begin + len(part)):
            try:
                found.append(_note_text(cells[place : place + 1], mapped))
            except TypeError as error:
                found.append(pa.nulls(1, pa.large_string()))
                mask = broken.setdefault(
                    (name, f"{NOT_TEXT}, not {error}"), np.zeros(len(cells), dtype=bool)
                )
                mask[place] = cells[place].is_valid
    return pa.chunked_array(found, pa.large_string()).combine_chunks(), broken


def _note_text(cells: pa.Array, mapped: MappedColumn) -> pa.Array:
    """Return text, null for missing. Raises TypeError: cells are none."""
    if not is_text(cells):
        raise TypeError("numbers, dates or truth values")
    return _without(as_text(cells), mapped.missing).cast(pa.large_string())


def _bounds(cells: pa.Array, text: Mask) -> Mask:
    """Return the mask of the non-numeric cells that begin with a comparator."""
    if not text.any():
        return text
    found = pc.fill_null(pc.match_substring_regex(_text(cells), _BOUND), False)
    begins: Mask = np.asarray(found.to_numpy(zero_copy_only=False), dtype=bool)
    return text & begins


def _ids(cells: pa.Array) -> list[str]:
    """Return normalised ids, "" for a missing one."""
    found = pc.fill_null(as_ids(cells), "")
    if pc.all(pc.or_(pc.ascii_is_printable(found), pc.equal(found, ""))).as_py():
        found = pc.ascii_lower(pc.ascii_trim(found, " "))  # what ``normalise`` does to such ids
        return [str(name) for name in found.to_pylist()]
    return [normalise(name) if name else "" for name in found.to_pylist()]


def _coded(cells: pa.Array, mapped: MappedColumn, known: tuple[str, ...]) -> _Coded:
    """Return codes in the order in which they first occur, and each cell's place among them."""
    try:
        found = dictionary(cells)
        text = as_text(found.dictionary, as_spelt=bool(mapped.codes))
    except TypeError:  # cells that are not text are in no codebook
        found = pa.array([UNKNOWN] * len(cells), pa.string()).dictionary_encode()
        text = found.dictionary
    named = [
        None if cell is None or cell in mapped.missing else code_of(cell, mapped.codes, known)
        for cell in text.to_pylist()
    ]
    codes = list(dict.fromkeys(code for code in named if code is not None))
    place = {code: number for number, code in enumerate(codes)}
    places = np.array([*(-1 if code is None else place[code] for code in named), -1])
    indices = pc.fill_null(found.indices, -1).to_numpy(zero_copy_only=False)
    return codes, places.astype(np.int32)[indices]


def _text(cells: pa.Array, *, as_spelt: bool = False) -> pa.StringArray:
    try:
        return as_text(cells, as_spelt=as_spelt)
    except TypeError:  # cells that are not text are in no codebook
        return pa.array([UNKNOWN] * len(cells), pa.string())


def _without(text: pa.StringArray, missing: tuple[str, ...]) -> pa.StringArray:
    if not missing:
        return text
    return pc.if_else(
        pc.is_in(text, value_set=pa.array(missing)), pa.scalar(None, pa.string()), text
    )


def _image(cells: pa.Array, column: ImageColumn) -> Floats:
    """Return pixels, shape (records, pixels); those of an encoder, of which there may be many, in
    the precision that it takes."""
    kind = np.float32 if column.encoder else np.float64
    flat: Floats = np.asarray(cells.flatten().to_numpy(zero_copy_only=False), dtype=kind)
    return flat.reshape(len(cells), -1)


def _categorical(parts: list[_Coded]) -> pd.Categorical:
    names = list(dict.fromkeys(code for codes, _ in parts for code in codes))
    place = {code: number for number, code in enumerate(names)}
    whole = [
        np.array([*(place[code] for code in codes), -1], dtype=np.int32)[places]
        for codes, places in parts
    ]
    return pd.Categorical.from_codes(
        np.concatenate(whole), categories=pd.Index(np.array(names, dtype=object), dtype=object)
    )


def _any(parts: list[tuple[int, Mask]]) -> bool:
    return any(mask.any() for _, mask in parts)


def _whole(parts: list[tuple[int, Mask]], count: int) -> npt.NDArray[np.bool_]:
    mask = np.zeros(count, dtype=bool)
    for begin, part in parts:
        mask[begin : begin + len(part)] = part
    return mask
