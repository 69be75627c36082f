"""Mapping of a hospital's fields to a study's columns. Rules only; see ``mapping_file``.

The hospital writes a mapping, its steward reads it, and an approval is bound to it. It names
fields, units and codes, never a patient's values. It also lists the findings of the quality gate
that the steward has checked and accepts, with the reason.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections import abc
from collections.abc import Iterable
from datetime import date
from decimal import Decimal
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from flo.documents.document import Document
from flo.errors import UsageError
from flo.scoring.record import Field as RecordField
from flo.study.columns import Column, EncodedColumn, NumberColumn
from flo.study.names import Code, ColumnName, Text
from flo.study.schema import Schema
from flo.study.sequence import DAYS_AGO, at
from flo.study.terms import Identifier

FindingName = Annotated[str, StringConstraints(pattern=r"^[a-z ]{3,40}(: .{1,100})?$")]
Cell = Annotated[str, StringConstraints(max_length=200)]
Factor = Annotated[float, Field(ge=-1e12, le=1e12)]
_NUMBER = re.compile(r"-?\d+(\.\d+)?")
_LONGEST_FIELD, _MOST_FIELDS = 500, 100


def _fields(field: str | tuple[str, ...]) -> str | tuple[str, ...]:
    names = (field,) if isinstance(field, str) else field
    if not 0 < len(names) <= _MOST_FIELDS or not all(0 < len(n) <= _LONGEST_FIELD for n in names):
        raise ValueError(
            f"a field has 1 to {_LONGEST_FIELD} characters, and a list 1 to {_MOST_FIELDS} fields; "
            "for FHIR and OMOP, split a longer field into a list of several"
        )
    return field


class MappedColumn(Document):
    """Mapping of one column of the study, or of its label.

    ``field``: its field here; for FHIR and OMOP also several, whose events all belong to the
    column. ``unit``: the field's unit if it is not the study's; then value · ``multiply`` + ``add``
    is in the study's. ``codes``: cell -> the study's code; a cell that is not named is refused.
    ``missing``: cells that mean "not known". ``when``: which of a patient's several events counts:
    the last ``until`` the record's day, the first ``after`` it, or the last at ``any`` time.
    """

    field: Annotated[str | tuple[str, ...], AfterValidator(_fields)]
    unit: Text | None = None
    multiply: Factor | None = None
    add: Factor = 0.0
    codes: Annotated[dict[Cell, Code], Field(max_length=500)] = Field(default_factory=dict)
    missing: Annotated[tuple[Cell, ...], Field(max_length=50)] = ()
    when: Literal["until", "after", "any"] = "until"

    @property
    def fields(self) -> tuple[str, ...]:
        """The field, or each of several once."""
        return (self.field,) if isinstance(self.field, str) else tuple(dict.fromkeys(self.field))

    def one_field(self, name: str) -> str:
        """Return the only field of the column ``name``. Raises UsageError for a list of fields."""
        if isinstance(self.field, str):
            return self.field
        raise UsageError(
            f"{name}: `field` is a list, which only FHIR and OMOP sources allow",
            hint="name one field in mapping.toml; a database view can combine several",
        )

    def means_missing(self, value: object) -> bool:
        """Return whether ``missing`` names this value: as it is spelt, or as the same number."""
        if not self.missing or isinstance(value, bool):
            return False
        if not isinstance(value, int | float | Decimal):
            return value in self.missing
        return any(_NUMBER.fullmatch(cell) and float(cell) == value for cell in self.missing)

    @model_validator(mode="after")
    def _consistent(self) -> MappedColumn:
        if self.multiply == 0:
            raise ValueError("multiply = 0 would make every value the same")
        if (self.unit is None) != (self.multiply is None) or (self.add and self.unit is None):
            raise ValueError("`unit` needs `multiply`, and `multiply` or `add` need `unit`")
        return self


def record_fields(columns: abc.Mapping[str, MappedColumn]) -> dict[str, RecordField]:
    """Return the fields of a single record, by column. Raises UsageError as ``one_field``."""
    return {
        name: RecordField(one.one_field(name), one.multiply, one.add, one.codes, one.missing)
        for name, one in columns.items()
    }


class StudyMapping(Document):
    """Mapping of one study's columns.

    ``as_of``: the day of every record, if the source has events and no cohort. ``cohort``: the OMOP
    cohort whose entries are the records. A table whose fields have the study's names needs no
    ``columns``. ``accepted``: finding -> why it is no fault.
    """

    columns: Annotated[dict[ColumnName, MappedColumn], Field(max_length=5001)] = Field(
        default_factory=dict
    )
    as_of: date | None = None
    cohort: Annotated[int, Field(ge=0)] | None = None
    accepted: Annotated[dict[FindingName, Text], Field(max_length=500)] = Field(
        default_factory=dict
    )

    def commitment(self, key: bytes) -> str:
        """Return the HMAC-SHA256 of the mapping that an approval names.

        Without the site's ``key`` it cannot be used to test which findings on its patients were
        accepted.
        """
        statement = self.to_bytes()
        return hmac.new(key, b"flo mapping\0" + statement, hashlib.sha256).hexdigest()


class Mapping(Document):
    """Content of ``mapping.toml``, by the study's name, so that its next version finds it."""

    schema_version: Literal[1] = 1
    studies: Annotated[dict[Identifier, StudyMapping], Field(max_length=1000)] = Field(
        default_factory=dict
    )


def by_name(names: Iterable[str]) -> StudyMapping:
    """Return a mapping of columns to fields of the same names."""
    return StudyMapping.model_construct(
        columns={name: MappedColumn.model_construct(field=name) for name in names},
        as_of=None,
        cohort=None,
        accepted={},
    )


def by_its_names(schema: Schema, *, has_events: bool) -> StudyMapping:
    """Return a mapping of the study's columns to fields of the same names.

    ``has_events``: columns of a sequence to the last value of the code of that name in each step.
    """
    steps = schema.sequence.columns if schema.sequence and has_events else ()
    own = schema.of_record if steps else schema.columns
    names = {name for one in own for name in (one.pixels if one.kind == "image" else (one.name,))}
    found = by_name(sorted(names | set(schema.outcome_columns)))
    events = {one.name: MappedColumn.model_construct(field=f"value:{one.name}") for one in steps}
    return found.model_copy(update={"columns": {**found.columns, **events}})


def each_step(mapping: StudyMapping, schema: Schema) -> StudyMapping:
    """Return the mapping with a column of a sequence, which it names once, as those of all steps.

    Also with ``days ago`` of visits, which is computed and not mapped.
    """
    if schema.sequence is None:
        return mapping
    columns = dict(mapping.columns)
    for step in range(1, schema.sequence.steps + 1):
        for column in schema.sequence.columns:
            if column.name in mapping.columns:
                columns.setdefault(at(column.name, step), mapping.columns[column.name])
        if schema.sequence.step == "visit":
            name = at(DAYS_AGO, step)
            columns.setdefault(name, MappedColumn.model_construct(field=name))
    for column in schema.sequence.columns:
        columns.pop(column.name, None)
    return mapping.model_copy(update={"columns": columns})


def channels(mapping: StudyMapping, schema: Schema) -> dict[str, MappedColumn]:
    """Return how the columns of the sequence are mapped that are mapped for all steps at once."""
    names = [column.name for column in schema.sequence.columns] if schema.sequence else []
    return {name: mapping.columns[name] for name in names if name in mapping.columns}


def of_each_step(mapping: StudyMapping, schema: Schema) -> StudyMapping:
    """Return the mapping with each step's columns under their own names, in place of events."""
    steps = by_name(column.name for column in schema.of_steps)
    kept = without(mapping, channels(mapping, schema)).columns
    return mapping.model_copy(update={"columns": {**kept, **steps.columns}})


def without(mapping: StudyMapping, names: abc.Collection[str]) -> StudyMapping:
    """Return the mapping without these columns."""
    kept = {name: one for name, one in mapping.columns.items() if name not in names}
    return mapping.model_copy(update={"columns": kept})


def problems(mapping: StudyMapping, schema: Schema) -> list[str]:
    """Return why this mapping does not fit a study of that schema; empty if it fits."""
    value = schema.value_column
    read = (*([value] if value else []), *schema.columns)
    found, columns = [], {column.name: column for column in read}
    wanted, given = dict.fromkeys([schema.label, *columns]), each_step(mapping, schema).columns
    found += [f"{name}: is not mapped" for name in wanted if name not in given]
    if schema.sequence:
        columns |= {one.name: one for one in schema.sequence.columns}
        if channels(mapping, schema):
            twice = [one.name for one in schema.of_steps if one.name in mapping.columns]
            found += [f"{name}: a sequence is mapped for all its steps at once" for name in twice]
    for name, mapped in mapping.columns.items():
        column = columns.get(name)
        if column is None and name != schema.label:
            found.append(f"{name}: is not a column of the study")
        if mapped.unit is not None:
            found += _unit(name, mapped, column)
        found += _codes(name, mapped, column)
    return found


def same_unit(one: str, other: str) -> bool:
    """Return whether two spellings are one unit: mg/dL and mg/dl, mm Hg and UCUM's mm[Hg].

    A thousand in a microlitre is a thousand million in a litre, so K/uL and 10*9/L are one too.
    """
    return _plain(one) == _plain(other)


_ALIASES = {"beatsperminute": "/min", "bpm": "/min", "1/min": "/min", "beats/min": "/min"} | {
    "countsperminute": "/min",
    **{"a": "years", "yr": "years", "year": "years", "d": "days", "day": "days"},
    **{"degc": "°c", "cel": "°c", "degreescelsius": "°c", "degf": "°f", "percent": "%"},
    **dict.fromkeys(("10*9/l", "10*3/ul", "10^3/ul", "k/ul", "thousand/ul"), "10^9/l"),
}


def _plain(unit: str) -> str:
    plain = unit.replace("μ", "u").replace("µ", "u")
    plain = re.sub(r"[\s\[\]{}_]", "", plain)
    if plain == "G/L":  # giga; only the case differs from g, gram
        return "10^9/l"
    plain = plain.casefold()
    return _ALIASES.get(plain, plain)


def _unit(name: str, mapped: MappedColumn, column: Column | None) -> list[str]:
    if not isinstance(column, NumberColumn):
        return [f"{name}: only a number has a unit"]
    if same_unit(mapped.unit or "", column.unit) and (mapped.multiply, mapped.add) != (1, 0):
        return [f"{name}: {mapped.unit} is already the study's unit; leave out the conversion"]
    return []


def _codes(name: str, mapped: MappedColumn, column: Column | None) -> list[str]:
    if not mapped.codes:
        return []
    if isinstance(column, NumberColumn | EncodedColumn):
        return [f"{name}: only a category has codes"]
    known = ("0", "1") if column is None else column.codes
    wrong = sorted({code for code in mapped.codes.values() if code not in known})
    if not wrong:
        return []
    return [f"{name}: the study has no code {', '.join(wrong)}, only {', '.join(known[:8])}"]
