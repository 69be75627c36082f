"""Model inputs of a checked table, made when they are asked for.

Inputs take several times the memory of the numbers and codes that they are made from. So a table of
a million records keeps these, and encodes only the records that are asked for.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pandas as pd

from flo.arrays import Floats
from flo.clients.quality.table import Table
from flo.errors import UsageError
from flo.study.columns import Column, EncodedColumn, ImageColumn, NoteColumn, NumberColumn
from flo.study.encoders import Encoders
from flo.study.features import (
    encode_category,
    encode_image,
    encode_note,
    encode_number,
    input_names,
    scale,
)
from flo.study.schema import Schema

Places = npt.NDArray[np.int64]  # of records in the table
Encode = Callable[[Places], Floats]  # the inputs (records, k) of some columns
_BLOCK = 2048  # records per block: all columns of a block are written while it is in the cache


class Inputs:
    """Inputs (n, d) of the records at ``places`` of a table, (n,)."""

    def __init__(self, width: int, columns: list[Encode], places: Places) -> None:
        self._width, self._columns, self._places = width, columns, places

    @classmethod
    def of(cls, table: Table, schema: Schema, encoders: Encoders | None = None) -> Inputs:
        """Return the inputs of a whole table that breaks no rule.

        ``encoders``: of the columns that have one; they run now, and once.
        """
        columns = [_encoder(table, column, encoders) for column in schema.columns]
        return cls(len(input_names(schema)), columns, np.arange(len(table)))

    def __getitem__(self, chosen: npt.NDArray[np.bool_] | Places) -> Inputs:
        return Inputs(self._width, self._columns, self._places[chosen])

    def encoded(self) -> Floats:
        """Return them as a new array."""
        inputs = np.empty((len(self._places), self._width))
        for begin in range(0, len(inputs), _BLOCK):
            places, column = self._places[begin : begin + _BLOCK], 0
            for encode in self._columns:
                part = encode(places)
                inputs[begin : begin + _BLOCK, column : column + part.shape[1]] = part
                column += part.shape[1]
        return inputs


def _required(column: EncodedColumn, encoders: Encoders | None) -> Encoders:
    if encoders is None:
        assert column.encoder is not None
        raise UsageError(
            f"column {column.name} becomes numbers by the encoder {column.encoder.name!r}, which "
            "this command does not run",
            hint="flo simulate --encoders FOLDER does, and flo model predict",
        )
    return encoders


def _of_images(column: ImageColumn, pixels: Floats, encoders: Encoders | None) -> Floats:
    """Return what an encoder or wavelets make of all images, once, because that takes long."""
    if column.encoder is None:
        blocks = range(0, len(pixels), _BLOCK)
        parts = [encode_image(column, scale(column, pixels[b : b + _BLOCK])) for b in blocks]
        return np.concatenate(parts)
    return encode_image(column, _required(column, encoders).features(column, pixels))


def _of_notes(column: NoteColumn, cells: pd.Series, encoders: Encoders | None) -> Floats:
    """Return what an encoder makes of all notes, once."""
    notes = [None if pd.isna(text) else str(text) for text in cells]
    return encode_note(column, _required(column, encoders).features(column, notes))


def _encoder(table: Table, column: Column, encoders: Encoders | None) -> Encode:
    if isinstance(column, ImageColumn):
        pixels = table.images[column.name]
        if column.encoder is None and column.scattering is None:
            return lambda places: scale(column, pixels[places])
        features = _of_images(column, pixels, encoders)
        return lambda places: features[places]
    cells = table.columns[column.name]
    if isinstance(column, NoteColumn):
        numbers = _of_notes(column, cells, encoders)
        return lambda places: numbers[places]
    if isinstance(column, NumberColumn):
        values = cells.to_numpy()
        return lambda places: encode_number(column, values[places])
    number = {code: number for number, code in enumerate(column.codes)}
    codes = np.array([*(number.get(c, -1) for c in cells.cat.categories), -1], dtype=np.int64)
    own = cells.cat.codes.to_numpy()
    return lambda places: encode_category(column, codes[own[places]])
