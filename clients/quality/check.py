"""Check whether a source's data fit the study, report where they do not, and encode them.

Once data have passed and are frozen, their content cannot stop, delay or change a round.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from flo.clients.quality import rules
from flo.clients.quality.findings import EXTRA, DataFinding, Unfit, listed, refuse
from flo.clients.quality.header import refuse_cells
from flo.clients.quality.identifiers import kind_of_identifier
from flo.clients.quality.inputs import Inputs
from flo.clients.quality.plausibility import plausibility_findings
from flo.clients.quality.sizes import Expected
from flo.clients.quality.table import CountSoFar, Table, read
from flo.clients.sources.mapping import (
    MappedColumn,
    StudyMapping,
    by_its_names,
    by_name,
    channels,
    problems,
    without,
)
from flo.clients.sources.source import DataSource
from flo.errors import DataError, UsageError
from flo.study import identifier_patterns
from flo.study.columns import ImageColumn, NoteColumn
from flo.study.encoders import Encoders
from flo.study.schema import Schema

_MOST_BY_NAME = 10
_DATED = ("no day", "unclear day")  # events that do not count stop no other patient's score


@dataclass(frozen=True)
class EncodedTable:
    """Table that fits: ``made_of``, from which inputs are made, labels (n,), and patient ids.

    Holds the first ``most_records`` records of each patient, in the order of the source.
    """

    made_of: Inputs
    labels: npt.NDArray[np.float64]
    patient_ids: list[str]

    @property
    def inputs(self) -> npt.NDArray[np.float64]:
        """Model inputs (n, d). Each call encodes them again, into a new array."""
        return self.made_of.encoded()

    def where(self, kept: npt.NDArray[np.bool_]) -> EncodedTable:
        """Return the records where ``kept``, (n,)."""
        if kept.all():
            return self
        ids = [name for name, keep in zip(self.patient_ids, kept, strict=True) if keep]
        return EncodedTable(self.made_of[kept], self.labels[kept], ids)

    def without(self, names: Collection[str]) -> EncodedTable:
        """Return this table without the records of the patients ``names``."""
        if not names:
            return self
        return self.where(np.array([name not in names for name in self.patient_ids], dtype=bool))


@dataclass(frozen=True)
class InspectedTable:
    """Result of the gate: the table and all findings."""

    table: Table
    found: list[DataFinding]


def inspect_table(
    source: DataSource,
    schema: Schema,
    id_column: str,
    mapping: StudyMapping | None = None,
    ignore: Collection[str] = (),
    progress: CountSoFar = lambda done: None,
    expected: Expected | None = None,
) -> InspectedTable:
    """Read all records; find those that break a rule and those that fit but look wrong.

    ``mapping``: None if the source's fields have the study's names. ``expected``: patients
    that the study plans to use at this site; None skips that check.

    Raises:
        DataError: the source cannot be read, or columns are missing. UsageError: the mapping does
        not fit this study, or the source needs one and there is none.
    """
    looked = _by_the_rules(source, schema, id_column, mapping, ignore, progress)
    if len(looked.table) == 0:
        return looked
    return InspectedTable(
        looked.table,
        looked.found + plausibility_findings(looked.table, schema, id_column, expected),
    )


def encode_checked(
    source: DataSource,
    schema: Schema,
    id_column: str,
    ignore: Collection[str] = (),
    encoders: Encoders | None = None,
) -> EncodedTable:
    """Encode data whose fields have the study's names, after checking the schema's rules only.

    ``encoders``: of the columns that have one. Raises DataError: lists every finding, not only
    the first; and what ``encoders`` raise.
    """
    try:
        looked = _by_the_rules(source, schema, id_column, None, ignore)
        refuse(looked.found, {})
    except Unfit as error:
        raise Unfit(error.found, at_a_site=False) from None
    return encode(looked.table, schema, encoders)


def require_clean(
    source: DataSource,
    schema: Schema,
    id_column: str,
    mapping: StudyMapping | None,
    ignore: Collection[str] = (),
    also: Sequence[DataFinding] = (),
    expected: Expected | None = None,
    encoders: Encoders | None = None,
) -> EncodedTable:
    """Return the data that an approval freezes, encoded.

    They fit the study, and the mapping accepts every finding that needs it. ``also``: findings of
    other checks. ``expected``: see ``inspect_table``. ``encoders``: see ``encode_checked``.

    Raises:
        DataError: lists every finding that blocks approval. UsageError: see ``inspect_table``.
    """
    try:
        looked = inspect_table(source, schema, id_column, mapping, ignore, expected=expected)
        refuse([*looked.found, *also], mapping.accepted if mapping else {})
    except Unfit as error:
        raise DataError(
            f"{error}\nthe study was not approved; no budget was spent and no data were sent",
            hint=f"{error.hint}; then approve again",
        ) from None
    return encode(looked.table, schema, encoders)


def check_inputs(
    source: DataSource, schema: Schema, encoders: Encoders | None = None
) -> npt.NDArray[np.float64]:
    """Return model inputs (n, d) of patients to predict for.

    Needs no label and no id; the schema's other rules apply. ``encoders``: see ``encode_checked``.

    Raises:
        DataError: lists every finding, not only the first.
    """
    used = without(by_its_names(schema, has_events=source.has_events), schema.outcome_columns)
    wanted = {name for name in used.columns if name not in channels(used, schema)}
    present = {offer.field for offer in source.fields()}
    found = [DataFinding(name, "is missing from the file") for name in sorted(wanted - present)]
    if not found:
        table = read(source, schema, used)
        if len(table) == 0:
            found = [DataFinding(schema.columns[0].name, "holds no records")]
        else:
            broken = rules.broken(table, schema, "", labelled=False)
            found = [one for one in broken if one.level != "note" and one.kind not in _DATED]
            found += _without_history(table, schema) if source.has_events else []
    if found:
        raise DataError(
            "the data do not fit the model; no predictions were made:\n" + listed(found),
            hint="correct the file: columns, units and codes must be the study's, as in training",
        )
    return Inputs.of(table, schema, encoders).encoded()


def _without_history(table: Table, schema: Schema) -> list[DataFinding]:
    """Report a file in which no event of the study's codes was found for anybody."""
    if not schema.sequence:
        return []
    if any(table.columns[column.name].notna().any() for column in schema.of_steps):
        return []
    names = ", ".join(column.name for column in schema.sequence.columns)
    return [DataFinding("", f"no patient has an event of the codes {names} in any step")]


def encode(table: Table, schema: Schema, encoders: Encoders | None = None) -> EncodedTable:
    """Encode a table that breaks no rule, for training. ``encoders``: see ``encode_checked``."""
    inputs = Inputs.of(table, schema, encoders)
    encoded = EncodedTable(inputs, _labels(table, schema), table.ids)
    if len(table.different_ids) == len(table):
        return encoded
    most = 1 if schema.records_per_patient == "one" else schema.most_records
    ids = pd.Series(table.ids)
    return encoded.where((ids.groupby(ids).cumcount() < most).to_numpy())


def _by_the_rules(
    source: DataSource,
    schema: Schema,
    id_column: str,
    mapping: StudyMapping | None,
    ignore: Collection[str],
    progress: CountSoFar = lambda done: None,
) -> InspectedTable:
    used, extra = _mapping(source, schema, id_column, mapping, ignore)
    table = read(source, schema, used, progress)
    if len(table) == 0:
        return InspectedTable(table, [*extra, DataFinding(id_column, "the file holds no records")])
    return InspectedTable(table, [*extra, *rules.broken(table, schema, id_column)])


def _labels(table: Table, schema: Schema) -> npt.NDArray[np.float64]:
    """Return the labels, 0 or 1, or the codes of the study's outcome, (n,)."""
    cells = table.columns[schema.label]
    if quantity := schema.quantity:
        return quantity.coded(cells.to_numpy())
    if classes := schema.classes:
        place = {name: float(number) for number, name in enumerate(classes.classes)}
        return np.array([place[name] for name in cells.cat.categories])[cells.cat.codes]
    labels = np.asarray(cells == "1", dtype=np.float64)
    if times := schema.times:
        return times.coded(table.columns[times.time].to_numpy(), labels)
    return labels


def _input_fields(schema: Schema) -> set[str]:
    names = set[str]()
    for column in schema.columns:
        names |= set(column.pixels) if isinstance(column, ImageColumn) else {column.name}
    return names


def _mapping(
    source: DataSource,
    schema: Schema,
    id_column: str,
    mapping: StudyMapping | None,
    ignore: Collection[str],
) -> tuple[StudyMapping, list[DataFinding]]:
    """Return the mapping to read by, and findings on columns that the study does not use.

    If the source is a table, images are mapped pixel by pixel.

    Raises:
        DataError: columns are missing or identify patients, or names look like a patient's cells.
        UsageError: there is no mapping that fits.
    """
    wanted = _input_fields(schema) | set(schema.outcome_columns)
    if id_column in wanted:
        refuse([DataFinding(id_column, "is this population's patient id; no study may use it")], {})
    notes = [column.name for column in schema.columns if isinstance(column, NoteColumn)]
    if notes and not source.is_table:
        raise UsageError(
            f"column {notes[0]} holds notes, and {source.name} has none: only tables have",
            hint="export this population as Parquet, with a column of notes",
        )
    if mapping is not None and not (source.is_table and not mapping.columns):
        if wrong := problems(mapping, schema):
            lines = "\n".join(f"  {line}" for line in wrong)
            raise UsageError(
                f"mapping.toml does not fit this study:\n{lines}",
                hint="correct it; `flo site map` shows the study's columns and the source's fields",
            )
        used = _pixel_by_pixel(mapping, schema) if source.is_table else mapping
    elif source.is_table:
        day = mapping.as_of if mapping else None
        used = by_its_names(schema, has_events=source.has_events)
        used = used.model_copy(update={"as_of": day})
    else:
        raise UsageError(
            f"{source.name} does not have columns with the study's names, so it needs a mapping",
            hint="flo site map STUDY drafts one for review",
        )
    refuse(
        [f for name, column in used.columns.items() for f in _telling(name, column, id_column)], {}
    )
    extra: list[DataFinding] = []
    if source.is_table:
        of = {
            column.one_field(name): name
            for name, column in used.columns.items()
            if not (source.has_events and name in channels(used, schema))
        }
        offers = source.fields()
        present = {one.field for one in offers if not one.of_events or one.field in of}
        refuse_cells(sorted(present), id_column, set(of))
        fields = {id_column, *of}
        lacking = sorted(fields - present)
        found = []
        for name in lacking:
            rule = "is missing from the file"
            if name == id_column:
                rule += "; id_column names it as the patient id"
            elif of[name] != name:
                rule += f"; the mapping names it for {of[name]!r}"
            found.append(DataFinding(name, rule))
        if mapping is None or not mapping.columns:
            extra = _strange(source, sorted(present - fields - set(ignore)), schema)
        if found:
            refuse([*found, *extra], {})
    return used, extra


def _telling(name: str, column: MappedColumn, id_column: str) -> list[DataFinding]:
    """Report mapped fields that are the patient id, or whose names identify a patient."""
    of = {
        f: "the patient id" if f == id_column else identifier_patterns.of_header(f)
        for f in column.fields
    }
    return [
        DataFinding(name, f"is mapped to {what}; no study may use it")
        for field, what in of.items()
        if what and field != name
    ]


def _strange(source: DataSource, names: list[str], schema: Schema) -> list[DataFinding]:
    """Report columns that neither the study nor ``ignore`` names, by what their cells look like.

    More than 10 columns of the same kind become one finding. Only the first batch is inspected.
    """
    if not names:
        return []
    first = next(iter(source.read(by_name(names), schema)), None)
    by_kind: dict[str | None, list[str]] = {}
    for name in names:
        kind = None if first is None else kind_of_identifier(first.columns[name])
        by_kind.setdefault(kind, []).append(name)
    found = []
    for kind, alike in by_kind.items():
        if len(alike) <= _MOST_BY_NAME:
            rule = f"looks like {kind}: no study may have them" if kind else "is not in the study"
            found += [DataFinding(name, rule, kind=EXTRA) for name in alike]
            continue
        some = ", ".join(map(repr, alike[:_MOST_BY_NAME]))
        rule = f"look like {kind}: no study may have them" if kind else "are not in the study"
        found.append(DataFinding("", f"{len(alike)} columns ({some}, ...) {rule}", kind=EXTRA))
    return found


def _pixel_by_pixel(mapping: StudyMapping, schema: Schema) -> StudyMapping:
    """Map each pixel: if image ``px`` is the field ``scan``, ``px_0`` is ``scan_0``, ..."""
    columns = dict(mapping.columns)
    for image in schema.columns:
        if isinstance(image, ImageColumn):
            field = columns.pop(image.name).one_field(image.name)
            columns |= {
                pixel: MappedColumn.model_construct(field=f"{field}_{number}")
                for number, pixel in enumerate(image.pixels)
            }
    return mapping.model_copy(update={"columns": columns})
