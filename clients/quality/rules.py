"""Rules of a study's schema, as a pandera schema, and the records that break them.

The rules are types, public bounds, codebooks, missing values, and one record per patient. pandera
reports the cell of each failure; only its column, rule and row are used.
"""

from __future__ import annotations

import numpy as np
import pandera.pandas as pandera
from pandera.errors import SchemaErrors

from flo.clients.quality.findings import CODEBOOK, MISSING, DataFinding, rows
from flo.clients.quality.table import Table
from flo.study.cell_rules import MISSING_CELLS, NO_CODE, bad_pixel, no_code, out_of_bounds
from flo.study.columns import CategoryColumn, Column, ImageColumn, NumberColumn
from flo.study.schema import Schema

ID = "\0id"  # a name that no column has
_NO_ID, _REPEATED = "every record needs a patient id", "the study says one record per patient"
_NO_LABEL, _NOT_WHOLE = "the label must be 0 or 1", "a count must be a whole number"


def broken(
    table: Table, schema: Schema, id_column: str, *, labelled: bool = True
) -> list[DataFinding]:
    """Return findings for every rule of the study's schema that the table's records break.

    ``labelled``: whether the table has labels and ids, and these are checked.
    """
    frame = table.columns
    if labelled:
        frame = frame.assign(**{ID: table.ids})
    found = table.source_findings + [f for c in schema.columns for f in _image(c, table)]
    try:
        _as_pandera(schema, labelled=labelled).validate(frame, lazy=True)
    except SchemaErrors as error:
        cases = error.failure_cases[["column", "check", "index"]]
    else:
        return found
    order = [c.name for c in schema.columns]
    places = {name: n for n, name in enumerate([ID, *schema.outcome_columns, *order])}
    groups = sorted(cases.groupby(["column", "check"], sort=False), key=lambda g: places[g[0][0]])
    for (name, check), failed in groups:
        mask = np.zeros(len(table), dtype=bool)
        mask[failed["index"].to_numpy(dtype=np.int64)] = True
        if name == ID:
            found += rows(id_column, str(check), mask)
        elif check == "not_nullable":
            unread = table.unread_in(name)
            found += rows(name, MISSING_CELLS, np.where(unread, False, mask), kind=MISSING)
        else:
            kind = CODEBOOK if str(check).startswith(NO_CODE) else ""
            found += rows(name, str(check), mask, kind=kind)
    return found


def _as_pandera(schema: Schema, *, labelled: bool) -> pandera.DataFrameSchema:
    columns = {c.name: _column(c) for c in schema.columns if not isinstance(c, ImageColumn)}
    if labelled:
        known = pandera.Check(lambda ids: ids != "", error=_NO_ID)
        once = pandera.Check(lambda ids: ~ids.duplicated(keep=False) | (ids == ""), error=_REPEATED)
        one = schema.records_per_patient == "one"
        columns[ID] = pandera.Column(checks=[known, once] if one else [known])
        label = pandera.Check.isin(schema.label_values, error=_NO_LABEL, ignore_na=False)
        columns[schema.label] = pandera.Column(checks=label, nullable=True)
        if value := schema.value_column:
            columns[value.name] = _column(value)
        if schema.quantity and schema.quantity.kind == "count":
            whole = pandera.Check(lambda counts: counts % 1 == 0, error=_NOT_WHOLE)
            columns[schema.label].checks.append(whole)
    return pandera.DataFrameSchema(columns)


def _column(column: NumberColumn | CategoryColumn) -> pandera.Column:
    nullable = column.missing == "indicator"
    if isinstance(column, NumberColumn):
        bounds = out_of_bounds(column)
        check = pandera.Check.in_range(column.minimum, column.maximum, error=bounds)
        return pandera.Column(float, check, nullable=nullable)
    check = pandera.Check.isin(list(column.codes), error=no_code(column))
    return pandera.Column(checks=check, nullable=nullable)


def _image(column: Column, table: Table) -> list[DataFinding]:
    if not isinstance(column, ImageColumn) or column.name not in table.images:
        return []
    values = table.images[column.name]
    outside = np.any(~((values >= column.minimum) & (values <= column.maximum)), axis=1)
    return rows(column.name, bad_pixel(column), outside)
