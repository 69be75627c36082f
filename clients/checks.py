"""Data checks before approval: does this table fit the study, yes or no, and where not.

Rules only. A finding names column, rule, row numbers (1 = first record) and count, never a value,
and is shown on the site's own screen. After a table has passed and is frozen, nothing in it can
stop, delay or change a round.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from flo.errors import DataError
from flo.features import encode_category, encode_number, scale
from flo.privacy.split import normalise
from flo.schema import CategoryColumn, ImageColumn, NumberColumn, Schema

_ROWS_SHOWN = 5
_CODES_SHOWN = 8


@dataclass(frozen=True)
class Finding:
    column: str
    rule: str
    rows: tuple[int, ...] = ()

    def __str__(self) -> str:
        if not self.rows:
            return f"column {self.column!r}: {self.rule}"
        shown = ", ".join(str(row) for row in self.rows[:_ROWS_SHOWN])
        more = "" if len(self.rows) <= _ROWS_SHOWN else ", ..."
        noun = "record" if len(self.rows) == 1 else "records"
        where = "row" if len(self.rows) == 1 else "rows"
        return (
            f"column {self.column!r}: {self.rule}, {len(self.rows)} {noun} ({where} {shown}{more})"
        )


@dataclass(frozen=True)
class Checked:
    """A table that fits: model inputs (n, d), labels (n,), and each record's patient id.

    Of each patient the study's first ``most_records`` records, in the order of the file.
    """

    inputs: npt.NDArray[np.float64]
    labels: npt.NDArray[np.float64]
    patient_ids: list[str]

    def without(self, names: Collection[str]) -> Checked:
        """The same without the records of these patients."""
        if not names:
            return self
        kept = np.array([name not in names for name in self.patient_ids], dtype=bool)
        ids = [name for name in self.patient_ids if name not in names]
        return Checked(self.inputs[kept], self.labels[kept], ids)


def check(
    table: pd.DataFrame, schema: Schema, id_column: str, ignore: frozenset[str] = frozenset()
) -> Checked:
    """Encode ``table`` for the study.

    Raises:
        DataError: with every finding, not only the first.
    """
    findings = _columns(table, schema, id_column, ignore)
    if findings:
        raise _refusal(findings)
    if len(table) == 0:
        raise _refusal([Finding(id_column, "the file holds no records")])
    ids = table[id_column]
    findings += _rows(id_column, "every record needs a patient id", ids.isna())
    names = [normalise(value) if isinstance(value, str) else "" for value in ids]
    if schema.records_per_patient == "one":
        repeated = pd.Series(names).duplicated(keep=False) & ids.notna().to_numpy()
        findings += _rows(id_column, "the study says one record per patient", repeated)
    label = table[schema.label].map({"0": 0.0, "1": 1.0})
    findings += _rows(schema.label, "the label must be 0 or 1", label.isna())
    found, inputs = _inputs(table, schema)
    findings += found
    if findings:
        raise _refusal(findings)
    most = 1 if schema.records_per_patient == "one" else schema.most_records
    kept = (pd.Series(names).groupby(names).cumcount() < most).to_numpy()
    return Checked(
        inputs[kept],
        np.asarray(label, dtype=np.float64)[kept],
        [name for name, keep in zip(names, kept, strict=True) if keep],
    )


def check_inputs(table: pd.DataFrame, schema: Schema) -> npt.NDArray[np.float64]:
    """Model inputs (n, d) of patients to predict for: no label and no id needed, the rest as above.

    Raises:
        DataError: with every finding, not only the first.
    """
    findings = [
        Finding(name, "is missing from the file")
        for name in sorted(_input_columns(schema) - set(table.columns))
    ]
    if not findings and len(table) == 0:
        findings = [Finding(schema.columns[0].name, "holds no records")]
    if not findings:
        findings, inputs = _inputs(table, schema)
    if findings:
        raise DataError(
            "the data do not fit the model; nothing was predicted:\n" + _listed(findings),
            hint="mend the file: columns, units and codes are the study's, as in training",
        )
    return inputs


def _inputs(table: pd.DataFrame, schema: Schema) -> tuple[list[Finding], npt.NDArray[np.float64]]:
    findings, parts = [], []
    for column in schema.columns:
        if isinstance(column, ImageColumn):
            found, part = _image(column, table)
        else:
            found, part = _encode(column, table[column.name])
        findings += found
        parts.append(part)
    return findings, np.concatenate(parts, axis=1)


def _input_columns(schema: Schema) -> set[str]:
    names = set()
    for column in schema.columns:
        names |= set(column.pixels) if isinstance(column, ImageColumn) else {column.name}
    return names


def _columns(
    table: pd.DataFrame, schema: Schema, id_column: str, ignore: frozenset[str]
) -> list[Finding]:
    wanted = {schema.label, id_column} | _input_columns(schema)
    present = set(table.columns)
    if id_column in _input_columns(schema) | {schema.label}:
        return [Finding(id_column, "is this population's patient id; no study may use it")]
    missing = [Finding(name, "is missing from the file") for name in sorted(wanted - present)]
    unknown = [
        Finding(name, "is not in the study; remove it, or list it under `ignore` in site.toml")
        for name in sorted(present - wanted - ignore)
    ]
    return missing + unknown


def _image(
    column: ImageColumn, table: pd.DataFrame
) -> tuple[list[Finding], npt.NDArray[np.float64]]:
    pixels = table[list(column.pixels)].apply(pd.to_numeric, errors="coerce")
    values = pixels.to_numpy(dtype=np.float64, na_value=np.nan)
    outside = ~((values >= column.minimum) & (values <= column.maximum)).all(axis=1)
    bounds = f"[{column.minimum:g}, {column.maximum:g}]"
    rule = f"every pixel must be a number within {bounds}"
    return _rows(column.name, rule, outside), scale(column, values)


def _encode(
    column: NumberColumn | CategoryColumn, cells: pd.Series
) -> tuple[list[Finding], npt.NDArray[np.float64]]:
    absent = cells.isna().to_numpy(dtype=bool)
    findings = []
    if column.missing == "refuse":
        rule = "has no missing-value rule but cells are missing"
        findings += _rows(column.name, rule, absent)
    if isinstance(column, NumberColumn):
        found, values = _numbers(column, cells, absent)
        return findings + found, encode_number(column, values)
    found, codes = _codes(column, cells, absent)
    return findings + found, encode_category(column, codes)


def _numbers(
    column: NumberColumn, cells: pd.Series, absent: npt.NDArray[np.bool_]
) -> tuple[list[Finding], npt.NDArray[np.float64]]:
    values = pd.to_numeric(cells, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    text = np.isnan(values) & ~absent
    infinite = np.isinf(values)
    outside = ~(np.isnan(values) | infinite) & (
        (values < column.minimum) | (values > column.maximum)
    )
    bounds = f"[{column.minimum:g}, {column.maximum:g}] {column.unit}"
    return (
        _rows(column.name, "must be a number", text)
        + _rows(column.name, "must be finite", infinite)
        + _rows(column.name, f"must lie within {bounds}", outside)
    ), values


def _codes(
    column: CategoryColumn, cells: pd.Series, absent: npt.NDArray[np.bool_]
) -> tuple[list[Finding], npt.NDArray[np.int64]]:
    index = {code: i for i, code in enumerate(column.codes)}
    codes = np.array([index.get(cell, -1) for cell in cells], dtype=np.int64)
    unknown = (codes < 0) & ~absent
    rule = f"must be a code of the study's codebook ({_some(column.codes)})"
    return _rows(column.name, rule, unknown), codes


def _some(codes: tuple[str, ...]) -> str:
    return ", ".join(codes[:_CODES_SHOWN]) + (", ..." if len(codes) > _CODES_SHOWN else "")


def _rows(column: str, rule: str, broken: pd.Series | npt.NDArray[np.bool_]) -> list[Finding]:
    rows = np.flatnonzero(np.asarray(broken, dtype=bool)) + 1
    return [Finding(column, rule, tuple(int(row) for row in rows))] if len(rows) else []


def _refusal(findings: list[Finding]) -> DataError:
    return DataError(
        "the data do not fit the study; nothing was approved, spent or sent:\n" + _listed(findings),
        hint="rows are counted from the first one below the header; mend the file (or the study), "
        "then approve again",
    )


def _listed(findings: list[Finding]) -> str:
    return "\n".join(f"  {finding}" for finding in findings)
