"""Inspection for the steward before a study: each column's distribution, and every finding.

It holds exact numbers of patients, so it is only for this hospital's own screen and files. The page
is one HTML document that loads no other resource; only its owner can read the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from flo.arrays import Floats, Mask
from flo.clients.quality.check import InspectedTable
from flo.clients.quality.findings import DataFinding
from flo.clients.quality.plausibility import two_sides
from flo.clients.quality.rules import note_lengths
from flo.clients.sources.mapping import StudyMapping
from flo.pages.plots import Bars, bars
from flo.pages.templates import Pages
from flo.study.columns import CategoryColumn, ImageColumn, NoteColumn, NumberColumn
from flo.study.schema import Schema

TEMPLATES = Path(__file__).parent
_BINS, _MOST_BARS = 20, 12
_WHEN = {"after": "the first after the record's day", "any": "the last at any time"}


@dataclass(frozen=True)
class ColumnSeen:
    """One column of an inspection.

    ``rule``: the study's rule for it. ``numbers``: minimum, quartiles and maximum of the known
    values, for a number. ``plot``: frequency of values, some of them dark. ``field``: the mapped
    field with its unit and codes. ``when``: which of several events counts, if not the last until
    the record's day.
    """

    name: str
    rule: str
    missing: float
    numbers: tuple[float, ...]
    plot: Bars | None
    field: str = ""
    when: str = ""


@dataclass(frozen=True)
class Inspection:
    """Inspection of one source.

    ``positive``: share of records that are drawn dark, and ``dark``: which these are: those with
    label 1, those of the last class, or the upper half of a quantity: above its median, if any is.
    ``accepted``: finding -> reason, from the mapping. ``day``: cohort and day of the records, if
    the mapping states them.
    """

    records: int
    patients: int
    most_records: int
    positive: float
    dark: str
    columns: list[ColumnSeen]
    found: list[DataFinding]
    accepted: Mapping[str, str]
    label: str
    day: str

    @property
    def unused(self) -> list[str]:
        """Names of findings that the mapping accepts and that were not found."""
        return sorted(set(self.accepted) - {finding.name for finding in self.found})

    @property
    def in_the_way(self) -> list[DataFinding]:
        """Findings that must be corrected or accepted before approval."""
        return [
            f
            for f in self.found
            if f.level == "refused" or (f.level == "to accept" and f.name not in self.accepted)
        ]

    @property
    def in_nobodys_way(self) -> list[DataFinding]:
        """Findings that do not block approval: notes, and those that the mapping accepts."""
        return [finding for finding in self.found if finding not in self.in_the_way]


def inspection(looked: InspectedTable, schema: Schema, mapping: StudyMapping | None) -> Inspection:
    """Summarise a source that was inspected; it may hold no records."""
    table = looked.table
    label = table.columns.get(schema.label)
    ill = np.zeros(len(table), dtype=bool) if label is None else two_sides(table, schema)[-1][0]
    of_each = pd.Series(table.ids, dtype=object).value_counts()
    seen: list[ColumnSeen] = []
    if label is not None and schema.label_is_yes_or_no:
        seen.append(_of_label(schema.label, label))
    value = schema.value_column
    for column in (*([value] if value else []), *schema.columns):
        if isinstance(column, ImageColumn):
            values = table.images.get(column.name, np.zeros((0, 1))).mean(axis=1)
        elif column.name in table.columns:
            cells = table.columns[column.name]
            if isinstance(column, CategoryColumn):
                seen.append(_of_codes(column, cells, ill))
                continue
            if isinstance(column, NoteColumn):
                seen.append(_of_notes(column, cells, ill))
                continue
            values = cells.to_numpy()
        else:
            continue
        seen.append(_of_numbers(column, values, ill))
    return Inspection(
        len(table),
        len(of_each),
        int(of_each.max()) if len(of_each) else 0,
        float(ill.mean()) if len(ill) else 0.0,
        _dark(schema),
        [
            replace(one, field=_field(mapping, one.name), when=_when(mapping, one.name))
            for one in seen
        ],
        looked.found,
        mapping.accepted if mapping else {},
        schema.label,
        _day(mapping),
    )


def _dark(schema: Schema) -> str:
    if schema.quantity:
        return f"in the upper half of {schema.label}"
    return f"with {schema.label} {schema.label_values[-1]}" if schema.classes else "with label 1"


def _day(mapping: StudyMapping | None) -> str:
    if mapping is None:
        return ""
    day = f"on {mapping.as_of}" if mapping.as_of else ""
    cohort = f"entries of cohort {mapping.cohort}" if mapping.cohort is not None else ""
    return ", ".join(one for one in (cohort, day) if one)


def _when(mapping: StudyMapping | None, name: str) -> str:
    mapped = mapping.columns.get(name) if mapping else None
    return _WHEN.get(mapped.when, "") if mapped else ""


def _field(mapping: StudyMapping | None, name: str) -> str:
    mapped = mapping.columns.get(name) if mapping else None
    if mapped is None:
        return ""
    unit = f", {mapped.unit} × {mapped.multiply:g}" if mapped.multiply is not None else ""
    codes = "".join(f", {cell} = {code}" for cell, code in list(mapped.codes.items())[:_MOST_BARS])
    return f"{' or '.join(mapped.fields)}{unit}{codes}"


def _of_label(name: str, cells: pd.Series) -> ColumnSeen:
    counts = [int((cells == code).sum()) for code in ("0", "1")]
    plot = bars(counts, [0, counts[1]], ["0", "1"])
    return ColumnSeen(name, "the label, 0 or 1", float(cells.isna().mean()), (), plot)


def page(seen: Inspection, study: str, place: str, now: str) -> str:
    """Return one self-contained HTML page."""
    return Pages(TEMPLATES, base="").text(
        "inspect.html.j2", seen=seen, study=study, place=place, now=now
    )


def _of_numbers(column: NumberColumn | ImageColumn, values: Floats, ill: Mask) -> ColumnSeen:
    there = ~np.isnan(values)
    known = values[there]
    rule = f"{column.minimum:g} to {column.maximum:g}"
    if isinstance(column, NumberColumn):
        rule += f" {column.unit}"
    else:
        rule = f"{column.height} × {column.width} pixels, {rule}; shown: each image's mean"
    missing = 1.0 - float(there.mean()) if len(values) else 0.0
    if not len(known):
        return ColumnSeen(column.name, rule, missing, (), None)
    return _shown(column.name, rule, missing, known, ill[there], (column.minimum, column.maximum))


def _of_notes(column: NoteColumn, cells: pd.Series, ill: Mask) -> ColumnSeen:
    """Show the notes' lengths, and no word of them."""
    there = cells.notna().to_numpy()
    rule = f"free text, of which the first {column.encoder.tokens} tokens are read; shown: its "
    rule += "number of characters"
    missing = 1.0 - float(there.mean()) if len(cells) else 0.0
    known = note_lengths(cells)[there].astype(np.float64)
    if not len(known):
        return ColumnSeen(column.name, rule, missing, (), None)
    return _shown(column.name, rule, missing, known, ill[there], (0.0, float(known.max())))


def _shown(
    name: str, rule: str, missing: float, known: Floats, ill: Mask, ends: tuple[float, float]
) -> ColumnSeen:
    """Return the distribution of known values (n,). ``ill``: which of them are drawn dark."""
    numbers = tuple(float(q) for q in np.quantile(known, [0, 0.25, 0.5, 0.75, 1]))
    # Bins cover the study's bounds, so that a crowd at one end shows; values outside are clipped.
    edges = np.linspace(*ends, _BINS + 1)
    counts = np.histogram(np.clip(known, *ends), edges)[0]
    dark = np.histogram(np.clip(known[ill], *ends), edges)[0]
    names = [f"{edge:g}" for edge in (edges[0], (edges[0] + edges[-1]) / 2, edges[-1])]
    return ColumnSeen(name, rule, missing, numbers, bars(counts.tolist(), dark.tolist(), names))


def _of_codes(column: CategoryColumn, cells: pd.Series, ill: Mask) -> ColumnSeen:
    counts = cells.value_counts()
    dark = cells[ill].value_counts()
    codes = [
        code for code in column.codes if counts.get(code, 0) or len(column.codes) <= _MOST_BARS
    ]
    codes = sorted(codes, key=lambda code: -counts.get(code, 0))[:_MOST_BARS]
    more = len(column.codes) - len(codes)
    rule = f"{len(column.codes)} codes" + (f", {more} rarer ones not drawn" if more else "")
    plot = bars(
        [int(counts.get(code, 0)) for code in codes],
        [int(dark.get(code, 0)) for code in codes],
        codes,
    )
    return ColumnSeen(
        column.name, rule, float(cells.isna().mean()) if len(cells) else 0.0, (), plot
    )
