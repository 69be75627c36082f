"""Find data that look wrong even where they fit the study's rules.

Examples: swapped columns, shifted codes, columns that reveal the label, placeholders, duplicated
patients, too few patients. Each check is a rule of thumb with a named threshold. The steward sees
each finding, and corrects the data or, where allowed, records why they are right.
"""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt
import pandas as pd

from flo.arrays import Floats, Mask
from flo.clients.quality.duplicates import find_duplicates
from flo.clients.quality.findings import DataFinding
from flo.clients.quality.id_spelling import other_characters, same_patient
from flo.clients.quality.identifiers import identifiers, weak_ids
from flo.clients.quality.placeholders import constant_codes, placeholders
from flo.clients.quality.rules import note_lengths
from flo.clients.quality.sizes import Expected, unexpected_size
from flo.clients.quality.table import Table
from flo.clients.quality.units import wrong_unit
from flo.scores.metrics import exact_auc
from flo.study.columns import CategoryColumn, ImageColumn, NoteColumn, NumberColumn
from flo.study.schema import Schema
from flo.study.sequence import at

SWAPPED, SHIFTED, LEAK = "swapped columns", "shifted codes", "label leak"
ONE_CLASS = "label of one class"
SHORT = "short follow-up"
MISSING = "missing"
_OUTSIDE, _FITS = 0.2, 0.95
_LEAK_AUC, _HONEST = 0.95, 0.8
_FEWEST_OF_A_CLASS, _MOST_OF_A_CLASS = 10, 50_000  # patients, records
_FEWEST_OF_ONE_CLASS = 20  # records
_MOSTLY = 0.95


def plausibility_findings(
    table: Table, schema: Schema, id_column: str, expected: Expected | None = None
) -> list[DataFinding]:
    """Return findings for all that looks wrong in a table with at least one record.

    ``expected``: patients that the study plans to use here; None skips the check.
    """
    numbers = [c for c in schema.columns if isinstance(c, NumberColumn)]
    categories = [c for c in schema.columns if isinstance(c, CategoryColumn)]
    found = identifiers(table.columns, table.ids, schema)
    swapped = _swapped_numbers(table, numbers) + _swapped_codes(table, categories)
    found += swapped
    explained = {name for finding in swapped for name in finding.column.split(" and ")}
    for column in schema.looked_at:
        if isinstance(column, NumberColumn) and column.name not in explained:
            values = table.columns[column.name].to_numpy()
            found += wrong_unit(column, values) or placeholders(column, values)
    for category in categories:
        found += _shifted(table, category) + constant_codes(category, table.columns[category.name])
    found += _leaks(table, schema)
    found += weak_ids(table.ids, id_column)
    found += find_duplicates(table, schema) + same_patient(table, id_column)
    found += other_characters(table, id_column)
    found += unexpected_size(table.ids, id_column, schema, expected)
    found += _one_class(table, schema) + _short_follow_up(table, schema)
    return found + _mostly_missing(table, schema)


def _swapped_numbers(table: Table, columns: list[NumberColumn]) -> list[DataFinding]:
    """Find pairs that fit each other's bounds, while one or both do not fit their own."""
    found = []
    known = {c.name: table.columns[c.name].dropna().to_numpy() for c in columns}
    strange = {c.name for c in columns if _share_inside(known[c.name], c) < 1 - _OUTSIDE}
    for place, one in enumerate(columns):
        for other in columns[place + 1 :]:
            if not strange & {one.name, other.name}:
                continue
            here = _share_inside(known[one.name], other), _share_inside(known[other.name], one)
            if min(here) >= _FITS:
                found.append(_are_swapped(one.name, other.name, "bounds"))
    return found


def _share_inside(values: Floats, column: NumberColumn) -> float:
    if not len(values):
        return 1.0
    return float(np.mean((values >= column.minimum) & (values <= column.maximum)))


def _swapped_codes(table: Table, columns: list[CategoryColumn]) -> list[DataFinding]:
    found = []
    cells = {c.name: set(table.columns[c.name].cat.categories) for c in columns}
    for place, one in enumerate(columns):
        for other in columns[place + 1 :]:
            here, there = cells[one.name], cells[other.name]
            fit = here <= set(one.codes) and there <= set(other.codes)
            if not fit and here <= set(other.codes) and there <= set(one.codes):
                found.append(_are_swapped(one.name, other.name, "codebooks"))
    return found


def _are_swapped(one: str, other: str, by: str) -> DataFinding:
    rule = f"look swapped: each fits the other's {by}, and not its own"
    return DataFinding(f"{one} and {other}", rule, kind=SWAPPED)


def _shifted(table: Table, column: CategoryColumn) -> list[DataFinding]:
    """Find whole-number codes that would all be in the codebook if they were one more or less."""
    cells = [str(cell) for cell in table.columns[column.name].cat.categories]
    whole = [cell for cell in cells if re.fullmatch(r"-?\d{1,9}", cell)]
    if len(whole) < 2 or len(whole) < len(cells) or set(cells) <= set(column.codes):
        return []
    for step in (1, -1):
        if {str(int(cell) + step) for cell in whole} <= set(column.codes):
            more = "more" if step > 0 else "less"
            rule = f"codes look shifted: if each were one {more}, all would be in the codebook"
            return [DataFinding(column.name, rule, kind=SHIFTED)]
    return []


def _leaks(table: Table, schema: Schema) -> list[DataFinding]:
    """Find columns that nearly reveal the label alone, by the area under their own ROC curve; of
    several classes those that nearly reveal one."""
    found = [
        leak for sides in two_sides(table, schema) for leak in _leaks_of(table, schema, *sides)
    ]
    largest: dict[str, DataFinding] = {}
    for one in sorted(found, key=lambda one: one.rule):  # the largest area last
        largest[one.column] = one
    return [largest[one.name] for one in schema.columns if one.name in largest]


def _leaks_of(table: Table, schema: Schema, positive: Mask, negative: Mask) -> list[DataFinding]:
    classes = [_spread(positive), _spread(negative)]
    names = np.array(table.ids, dtype=object)
    least = _least_area(*(len(pd.unique(names[places])) for places in classes))
    if least > 1:
        return []
    chosen = np.sort(np.concatenate(classes))
    ill, found = positive[chosen], []
    half = _half(names[chosen], ill)
    for column in schema.columns:
        if isinstance(column, ImageColumn):
            continue
        cells = table.columns[column.name].iloc[chosen]
        if isinstance(column, NumberColumn):
            own = _area_of_numbers(cells.to_numpy(), ill)
        elif isinstance(column, NoteColumn):
            own = _area_of_numbers(note_lengths(cells).astype(np.float64), ill)
        else:
            own = _area_of_codes(cells.cat.codes.to_numpy().astype(np.int64) + 1, ill, half)
        area = max(_missing_area(cells, ill), own)
        if area >= least:
            rule = (
                f"predicts the label almost alone (AUC {area:.2f}): was it recorded after the "
                "outcome, or because of it?"
            )
            found.append(DataFinding(column.name, rule, level="to accept", kind=LEAK))
    return found


def two_sides(table: Table, schema: Schema) -> list[tuple[Mask, Mask]]:
    """Return the records with label 1 and those with 0; those with more of a quantity or less; for
    each class those of it and all others."""
    label = table.columns[schema.label]
    if schema.quantity:
        middle = label.median()
        if middle < label.max():
            return [((label > middle).to_numpy(), (label <= middle).to_numpy())]
        return [((label == middle).to_numpy(), (label < middle).to_numpy())]  # half at a ceiling
    if schema.classes:
        each = [(label == name).to_numpy() for name in schema.label_values]
        return [(own, ~own) for own in each]
    return [((label == "1").to_numpy(), (label == "0").to_numpy())]


def _least_area(ill: int, well: int) -> float:
    """Return the area from which a column is suspicious, by class size; above 1 if none is.

    A legitimate column may predict the label with an area of .8. The limit is two standard errors
    above that (Hanley and McNeil 1982, equation 1), and at least .95. It is .95 from 18 patients of
    each class on, or 13 of one and many of the other. With 11 of each only a perfect area exceeds
    it; with fewer than 10 the standard error is not reliable.
    """
    few, many = sorted((ill, well))
    if few < _FEWEST_OF_A_CLASS:
        return 2.0
    first, second = _HONEST / (2 - _HONEST), 2 * _HONEST**2 / (1 + _HONEST)
    variance = _HONEST * (1 - _HONEST)
    variance += (few - 1) * (first - _HONEST**2) + (many - 1) * (second - _HONEST**2)
    return max(_LEAK_AUC, _HONEST + 2 * float(np.sqrt(variance / (few * many))))


def _spread(of: Mask) -> npt.NDArray[np.int64]:
    """Return places of a class, thinned out if it is large: the area ignores class sizes."""
    places = np.flatnonzero(of)
    return places[:: 1 + len(places) // _MOST_OF_A_CLASS]


def _half(names: npt.NDArray[np.object_], ill: Mask) -> Mask:
    """Choose half of each class's patients, always the same, independently of the file's order."""
    chosen = np.zeros(len(ill), dtype=bool)
    for of in (ill, ~ill):
        patients, different = pd.factorize(names[of])
        hashes = pd.util.hash_array(np.asarray(different, dtype=object))
        chosen[of] = (hashes.argsort().argsort() % 2 == 0)[patients]
    return chosen


def _area_of_numbers(values: Floats, ill: Mask) -> float:
    there = ~np.isnan(values)
    area = _area(values[there], ill[there])
    known = int(ill[there].sum())
    area = max(area, 1 - area)
    return area if area >= _least_area(known, int(there.sum()) - known) else 0.5


def _area_of_codes(codes: npt.NDArray[np.int64], ill: Mask, half: Mask) -> float:
    """Return the area of codes that are ranked by their rate of the label.

    Rates are learnt on one half and tested on the other, both ways. On the same half, a code that
    occurs once would reveal its label.
    """
    size, areas = int(codes.max()) + 1, []
    for learnt in (half, ~half):
        sums = np.bincount(codes[learnt], weights=ill[learnt], minlength=size)
        counts = np.bincount(codes[learnt], minlength=size)
        rates = (sums + ill[learnt].mean()) / (counts + 1)
        areas.append(_area(rates[codes[~learnt]], ill[~learnt]))
    return float(np.mean(areas))


def _missing_area(cells: pd.Series, ill: Mask) -> float:
    missing = cells.isna().to_numpy()
    if not missing.any():
        return 0.5
    area = 0.5 + (missing[ill].mean() - missing[~ill].mean()) / 2
    return float(max(area, 1 - area))


def _area(score: Floats, ill: Mask) -> float:
    """Return the area under the ROC curve, by ranks; 0.5 if one class is absent."""
    return exact_auc(score, ill.astype(float)) if ill.any() and not ill.all() else 0.5


def _one_class(table: Table, schema: Schema) -> list[DataFinding]:
    """Report a label that never changes: one class is absent, or the mapping names a wrong field.

    Of several classes, which are absent is noted.

    With fewer than 20 records this is no surprise, and is not reported.
    """
    if len(table) < _FEWEST_OF_ONE_CLASS or schema.quantity:  # a constant quantity: placeholders
        return []
    present = [code for code in schema.label_values if (table.columns[schema.label] == code).any()]
    if len(present) != 1:
        absent = [name for name in schema.label_values if name not in present]
        rule = "is in no record here: " + ", ".join(absent)
        return [DataFinding(schema.label, rule, level="note", kind=ONE_CLASS)] if absent else []
    rule = f"is {present[0]} in every record: is it the right field, with the right codes?"
    return [DataFinding(schema.label, rule, level="to accept", kind=ONE_CLASS)]


def _short_follow_up(table: Table, schema: Schema) -> list[DataFinding]:
    """Note the first horizon to which nearly nobody was followed.

    Such patients count as free of the event in a part of the period, so that its risk is too low.
    """
    if schema.times is None or len(table) < _FEWEST_OF_ONE_CLASS:
        return []
    time = table.columns[schema.times.time].to_numpy()
    had = (table.columns[schema.label] == schema.label_values[-1]).to_numpy()
    known = np.isfinite(time)
    periods = schema.times.known_periods(schema.times.coded(time[known], had[known].astype(float)))
    if periods == schema.times.periods:
        return []
    horizon = f"{schema.times.horizons[periods]:g} {schema.times.unit}"
    rule = (
        f"hardly ever reaches {horizon}: patients here were not followed so long, and make risks "
        "from there on too low"
    )
    return [DataFinding(schema.times.time, rule, level="note", kind=SHORT)]


def _mostly_missing(table: Table, schema: Schema) -> list[DataFinding]:
    """Note columns that are hardly ever there; of a sequence, over all its steps."""
    parts = {one.name: [one.name] for one in schema.of_record if one.missing == "indicator"}
    if schema.sequence:
        steps = range(1, schema.sequence.steps + 1)
        parts |= {c.name: [at(c.name, step) for step in steps] for c in schema.sequence.columns}
    found = []
    for name, columns in parts.items():
        share = float(np.mean([table.columns[column].isna().mean() for column in columns]))
        if share >= _MOSTLY:
            of = "record" if columns == [name] else "step of every record"
            part = f"{share:.0%}" if columns == [name] else f"{share:.0%} of all steps"
            rule = f"is missing in every {of}" if share == 1 else f"is missing in {part}"
            found.append(DataFinding(name, rule, level="note", kind=MISSING))
    return found
