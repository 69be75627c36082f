"""Rules of a study's schema, and the records that break them.

They are public bounds, codebooks, the length of notes, missing values, and one record per patient.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from flo.arrays import Mask
from flo.clients.quality.findings import CODEBOOK, MISSING, DataFinding, rows
from flo.clients.quality.table import Table
from flo.study.cell_rules import MISSING_CELLS, bad_pixel, no_code, out_of_bounds
from flo.study.columns import CategoryColumn, ImageColumn, NoteColumn, NumberColumn
from flo.study.encoders import LONGEST_NOTE
from flo.study.schema import Schema

_NO_ID, _REPEATED = "every record needs a patient id", "the study says one record per patient"
_TOO_LONG = f"a note must have at most {LONGEST_NOTE:,} characters"
_NO_LABEL, _NOT_WHOLE = "the label must be 0 or 1", "a count must be a whole number"


def broken(
    table: Table, schema: Schema, id_column: str, *, labelled: bool = True
) -> list[DataFinding]:
    """Return findings for every rule of the study's schema that the table's records break.

    ``labelled``: whether the table has labels and ids, and these are checked.
    """
    found = table.source_findings
    for column in schema.columns:
        if isinstance(column, ImageColumn):
            found += _image(table, column)
    if labelled:
        found += _ids(table, schema, id_column) + _outcome(table, schema)
    for column in schema.columns:
        if not isinstance(column, ImageColumn):
            found += _column(table, column)
    return found


def _ids(table: Table, schema: Schema, id_column: str) -> list[DataFinding]:
    found, ids = list[DataFinding](), table.different_ids
    if "" in ids:
        found += rows(id_column, _NO_ID, np.array([not name for name in table.ids]))
    if schema.records_per_patient == "one" and len(ids) < len(table):
        series = pd.Series(table.ids, dtype=object)
        again = series.duplicated(keep=False) & (series != "")
        found += rows(id_column, _REPEATED, again.to_numpy())
    return found


def _outcome(table: Table, schema: Schema) -> list[DataFinding]:
    found, value = list[DataFinding](), schema.value_column
    if value is None or value.name != schema.label:
        known = _is_one_of(schema.label_values, table.columns[schema.label])
        found += rows(schema.label, _NO_LABEL, ~known)
    if value is not None:
        found += _column(table, value)
    if schema.quantity and schema.quantity.kind == "count":
        counts = table.columns[schema.label].to_numpy()
        found += rows(schema.label, _NOT_WHOLE, ~np.isnan(counts) & (counts % 1 != 0))
    return found


def _column(table: Table, column: NumberColumn | CategoryColumn | NoteColumn) -> list[DataFinding]:
    cells = table.columns[column.name]
    wrong: Mask
    missing: Mask = cells.isna().to_numpy(dtype=bool)
    if isinstance(column, NoteColumn):
        wrong, rule, kind = np.asarray(note_lengths(cells) > LONGEST_NOTE), _TOO_LONG, ""
    elif isinstance(column, NumberColumn):
        values = cells.to_numpy()
        wrong = (values < column.minimum) | (values > column.maximum)
        rule, kind = out_of_bounds(column), ""
    else:
        wrong, rule, kind = ~missing & ~_is_one_of(column.codes, cells), no_code(column), CODEBOOK
    found = list[DataFinding]()
    if column.missing != "indicator" and missing.any():
        found += rows(
            column.name, MISSING_CELLS, missing & ~table.unread_in(column.name), kind=MISSING
        )
    return found + rows(column.name, rule, wrong, kind=kind)


def note_lengths(cells: pd.Series) -> npt.NDArray[np.int64]:
    """Return the characters of each note, (n,); 0 of a missing one."""
    return np.asarray(cells.str.len().fillna(0), dtype=np.int64)


def _is_one_of(codes: tuple[str, ...], cells: pd.Series) -> Mask:
    """Return the mask (n,) of the cells that hold one of ``codes``; a missing one does not."""
    known = np.array([*(category in codes for category in cells.cat.categories), False])
    return np.asarray(known[cells.cat.codes.to_numpy()])


def _image(table: Table, column: ImageColumn) -> list[DataFinding]:
    if column.name not in table.images:
        return []
    values = table.images[column.name]
    outside = np.any(~((values >= column.minimum) & (values <= column.maximum)), axis=1)
    return rows(column.name, bad_pixel(column), outside)
