"""The data schema of a study: which columns a record has, in which public bounds or codebooks.

People declare the whole schema; it is never learnt from patients. ``flo.study.features`` encodes
columns as a model's inputs.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_serializer, field_validator, model_validator

from flo.documents.document import Document
from flo.study.classes import Classes
from flo.study.columns import CategoryColumn, Column, EncodedColumn, ImageColumn, NumberColumn
from flo.study.encoders import LARGEST_ENCODED_IMAGE, Encoder
from flo.study.names import ColumnName, Text
from flo.study.outcome import Outcome
from flo.study.quantity import Quantity
from flo.study.sequence import Sequence
from flo.study.time_to_event import LONGEST_TIME, TimeToEvent

LARGEST_RECORDS = 128
MOST_COLUMNS = 5000


class Schema(Document):
    """The meaning of a record, the columns in use, and the label: 0 or 1, a quantity or a class.

    For a patient with ``many`` records the first ``most_records`` are used, so that no patient's
    number of records can delay a round. ``outcome``: what is foreseen, if it is not yes or no. Of
    the time to an event, the label says whether the event was seen; a quantity or one of several
    classes is the label's.

    ``sequence``: what happened before the record's day. ``columns`` end with its columns of each
    step; a document states them once.
    """

    record: Text
    records_per_patient: Literal["one", "many"] = "one"
    most_records: Annotated[int, Field(ge=1, le=LARGEST_RECORDS)] = 64
    label: ColumnName
    outcome: Outcome | None = None
    sequence: Sequence | None = None
    columns: Annotated[tuple[Column, ...], Field(max_length=MOST_COLUMNS)]

    @field_validator("columns")
    @classmethod
    def _with_steps(cls, columns: tuple[Column, ...], info: ValidationInfo) -> tuple[Column, ...]:
        sequence: Sequence | None = info.data.get("sequence")
        found = columns if sequence is None else (*columns, *sequence.spread())
        if not 0 < len(found) <= MOST_COLUMNS:
            raise ValueError(f"{len(found)} columns, where 1 to {MOST_COLUMNS} are expected")
        return found

    @field_serializer("columns")
    def _without_steps(self, columns: tuple[Column, ...]) -> tuple[Column, ...]:
        return self.of_record

    @model_validator(mode="after")
    def _distinct(self) -> Schema:
        names = [column.name for column in self.columns]
        steps = [column.name for column in self.sequence.columns] if self.sequence else []
        if len({*names, *steps}) != len(names) + len(steps):
            raise ValueError("a column name appears twice")
        titles = [(column.about or column.name).casefold() for column in self.columns]
        twice = [one for one in titles if titles.count(one) > 1]
        if twice:
            raise ValueError(f"two columns are called {twice[0]!r}: by about, or by their name")
        images = [column for column in self.columns if isinstance(column, ImageColumn)]
        pixels = sum(image.size for image in images)
        if pixels > LARGEST_ENCODED_IMAGE:
            raise ValueError(
                f"{pixels} pixels in all images together, limit {LARGEST_ENCODED_IMAGE}"
            )
        if self.label in {*names, *steps} or any(one.has_pixel(self.label) for one in images):
            raise ValueError(f"the label {self.label!r} is also an input column")
        if isinstance(self.outcome, TimeToEvent):
            time = self.outcome.time
            if time in {self.label, *names, *steps} or any(one.has_pixel(time) for one in images):
                raise ValueError(
                    f"the outcome's time {time!r} is also the label or an input column"
                )
            if self.records_per_patient == "many":
                raise ValueError(
                    'the outcome time-to-event needs records_per_patient = "one": each patient has '
                    "one time"
                )
        return self

    @property
    def steps_columns(self) -> int:
        """How many of the last columns are of the sequence's steps."""
        return self.sequence.steps * len(self.sequence.each) if self.sequence else 0

    @property
    def of_record(self) -> tuple[Column, ...]:
        """The columns that a record has once, without those of steps."""
        return self.columns[: len(self.columns) - self.steps_columns]

    @property
    def of_steps(self) -> tuple[Column, ...]:
        """The columns of all steps of the sequence."""
        return self.columns[len(self.of_record) :]

    @property
    def of_events(self) -> tuple[Column, ...]:
        """The columns as a source of events has them: those of a sequence once for all steps."""
        return (*self.of_record, *(self.sequence.columns if self.sequence else ()))

    @property
    def encoders(self) -> dict[str, Encoder]:
        """The frozen encoders of images and notes, by the column's name."""
        own = (column for column in self.columns if isinstance(column, EncodedColumn))
        return {column.name: column.encoder for column in own if column.encoder}

    @property
    def value_column(self) -> NumberColumn | CategoryColumn | None:
        """The outcome's time, quantity or class as a column that is read and checked like others;
        None if it is yes or no."""
        match self.outcome:
            case None:
                return None
            case Classes():
                codes = self.outcome.classes
                return CategoryColumn(kind="category", name=self.label, codes=codes)
            case TimeToEvent():
                name, least, most = self.outcome.time, 0.0, LONGEST_TIME
            case Quantity():
                name, least, most = self.label, self.outcome.levels[0], self.outcome.levels[-1]
        unit = self.outcome.unit
        return NumberColumn(kind="number", name=name, unit=unit, minimum=least, maximum=most)

    @property
    def label_is_yes_or_no(self) -> bool:
        """Whether the label is 1 or 0, also of the time to an event."""
        return self.outcome is None or self.times is not None

    @property
    def label_values(self) -> tuple[str, ...]:
        """What the label's column may hold, unless it is a quantity: 0 or 1, or the classes."""
        return self.classes.classes if self.classes else ("0", "1")

    @property
    def looked_at(self) -> tuple[Column, ...]:
        """All columns that may hold what identifies patients or means "not known": those of the
        study, and before them a quantity or classes that it foresees."""
        value = None if self.label_is_yes_or_no else self.value_column
        return self.columns if value is None else (value, *self.columns)

    @property
    def outcome_columns(self) -> tuple[str, ...]:
        """Names of the columns that say what became of a patient: label, and time if it counts."""
        return (self.label, self.times.time) if self.times else (self.label,)

    @property
    def times(self) -> TimeToEvent | None:
        """The outcome if it is the time to an event."""
        return self.outcome if isinstance(self.outcome, TimeToEvent) else None

    @property
    def quantity(self) -> Quantity | None:
        """The outcome if it is a number or a count, which is then the label."""
        return self.outcome if isinstance(self.outcome, Quantity) else None

    @property
    def classes(self) -> Classes | None:
        """The outcome if it is one of several classes, which is then the label."""
        return self.outcome if isinstance(self.outcome, Classes) else None

    @property
    def outputs(self) -> int:
        """How many scores a model gives a record: one for each of several classes, otherwise 1."""
        return self.classes.codes if self.classes else 1

    @property
    def label_codes(self) -> int:
        """How many codes labels have: a record's label is, or lies between, 0 .. this - 1."""
        return 2 if self.outcome is None else self.outcome.codes

    def category(self, name: str) -> CategoryColumn:
        """Return the category column of that name. Raises ValueError."""
        for column in self.columns:
            if column.name == name and isinstance(column, CategoryColumn):
                return column
        raise ValueError(f"{name!r} is not a category column of the study")
