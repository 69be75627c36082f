"""The data schema of a study: which columns a record has, in which public bounds or codebooks.

People declare the whole schema; it is never learnt from patients. ``flo.study.features`` encodes
columns as a model's inputs.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from flo.documents.document import Document
from flo.study import identifier_patterns
from flo.study.classes import Classes
from flo.study.names import Bound, Code, ColumnName, Text, Words
from flo.study.outcome import Outcome
from flo.study.quantity import Quantity
from flo.study.time_to_event import LONGEST_TIME, TimeToEvent

LARGEST_IMAGE = 65_536
LARGEST_RECORDS = 128
LARGEST_HINGES = 8  # of a column


class NumberColumn(Document):
    """A measured quantity, scaled with public bounds to [-1, 1].

    ``hinges``: rising values strictly within the bounds, in the column's unit. Beyond each of them
    the model may bend: it gets one more input, 0 up to there and 1 at the maximum.

    ``about``: the column in words that a clinician knows. ``changeable_to``: a value to which care
    can bring a patient who is ``changeable_from`` above or below it; what the risk would be there
    is said beside the risk of such a patient.
    """

    kind: Literal["number"]
    name: ColumnName
    unit: Text
    minimum: Bound
    maximum: Bound
    missing: Literal["refuse", "indicator"] = "refuse"
    missing_value: float | None = None
    hinges: Annotated[tuple[Bound, ...], Field(max_length=LARGEST_HINGES)] = ()
    about: Words | None = None
    changeable_to: Bound | None = None
    changeable_from: Literal["above", "below"] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> NumberColumn:
        if not self.minimum < self.maximum:
            raise ValueError(f"column {self.name}: minimum must be below maximum")
        ends = (self.minimum, *self.hinges, self.maximum)
        if any(one >= other for one, other in pairwise(ends)):
            raise ValueError(
                f"column {self.name}: hinges must rise, strictly between minimum and maximum"
            )
        if (self.missing == "indicator") != (self.missing_value is not None):
            raise ValueError(
                f"column {self.name}: missing_value is for missing = 'indicator', and needed there"
            )
        if self.missing_value is not None and not (
            self.minimum <= self.missing_value <= self.maximum
        ):
            raise ValueError(f"column {self.name}: missing_value lies outside the bounds")
        if (self.changeable_to is None) != (self.changeable_from is None):
            raise ValueError(
                f'column {self.name}: changeable_to needs changeable_from, "above" or "below"'
            )
        if self.changeable_to is not None and not (
            self.minimum <= self.changeable_to <= self.maximum
        ):
            raise ValueError(
                f"column {self.name}: changeable_to = {self.changeable_to:g}, bounds "
                f"{self.minimum:g} to {self.maximum:g}"
            )
        return self


class CategoryColumn(Document):
    """A coded quantity, one input for each code of a public codebook.

    ``about``: as of a number. ``changeable_to``: a code to which care can bring anybody who has
    another. ``meanings``: of each code, in words, in the
    order of ``codes``; empty if codes need none.
    """

    kind: Literal["category"]
    name: ColumnName
    codes: Annotated[tuple[Code, ...], Field(min_length=2, max_length=500)]
    missing: Literal["refuse", "indicator"] = "refuse"
    about: Words | None = None
    meanings: Annotated[tuple[Words, ...], Field(max_length=500)] = ()
    changeable_to: Code | None = None

    @field_validator("codes")
    @classmethod
    def _distinct(cls, codes: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(codes)) != len(codes):
            raise ValueError("a code appears twice in the codebook")
        return codes

    @model_validator(mode="after")
    def _of_its_codes(self) -> CategoryColumn:
        if len(set(self.meanings)) != len(self.meanings):
            raise ValueError(f"column {self.name}: two codes have the same meaning")
        if self.meanings and len(self.meanings) != len(self.codes):
            raise ValueError(
                f"column {self.name}: {len(self.meanings)} meanings of {len(self.codes)} codes; "
                "give one for each code, in the same order"
            )
        if self.changeable_to is not None and self.changeable_to not in self.codes:
            raise ValueError(
                f"column {self.name}: changeable_to = {self.changeable_to!r} is not in its codebook"
            )
        return self


class ImageColumn(Document):
    """One image per record: table columns ``name_0`` .. ``name_{pixels-1}``, in rows, by channel.

    ``scattering``: if set, the model's inputs are not pixels but fixed wavelet features of that
    many scales (``flo.study.scattering``).
    """

    kind: Literal["image"]
    name: ColumnName
    channels: Annotated[int, Field(ge=1, le=16)] = 1
    height: Annotated[int, Field(ge=8, le=1024)]
    width: Annotated[int, Field(ge=8, le=1024)]
    minimum: Bound
    maximum: Bound
    missing: Literal["refuse"] = "refuse"
    about: Words | None = None
    scattering: Annotated[int, Field(ge=1, le=6)] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> ImageColumn:
        step = 1 << (self.scattering or 0)
        if self.height % step or self.width % step:
            raise ValueError(
                f"column {self.name}: scattering = {self.scattering} needs sides that are "
                f"multiples of {step}"
            )
        if not self.minimum < self.maximum:
            raise ValueError(f"column {self.name}: minimum must be below maximum")
        size = self.channels * self.height * self.width
        if size > LARGEST_IMAGE:
            raise ValueError(f"column {self.name}: {size} pixels, limit {LARGEST_IMAGE}")
        return self

    @property
    def pixels(self) -> tuple[str, ...]:
        """Names of the table's columns."""
        return tuple(f"{self.name}_{i}" for i in range(self.channels * self.height * self.width))


Column = Annotated[NumberColumn | CategoryColumn | ImageColumn, Field(discriminator="kind")]


def tells_who(column: Column) -> str | None:
    """Return why no study may have this column: its header or codebook identifies patients.

    None if the column is allowed.
    """
    codes = column.codes if isinstance(column, CategoryColumn) else ()
    return identifier_patterns.of_column(column.name, codes)


class Schema(Document):
    """The meaning of a record, the columns in use, and the label: 0 or 1, a quantity or a class.

    For a patient with ``many`` records the first ``most_records`` are used, so that no patient's
    number of records can delay a round. ``outcome``: what is foreseen, if it is not yes or no. Of
    the time to an event, the label says whether the event was seen; a quantity or one of several
    classes is the label's.
    """

    record: Text
    records_per_patient: Literal["one", "many"] = "one"
    most_records: Annotated[int, Field(ge=1, le=LARGEST_RECORDS)] = 64
    label: ColumnName
    outcome: Outcome | None = None
    columns: Annotated[tuple[Column, ...], Field(min_length=1, max_length=5000)]

    @model_validator(mode="after")
    def _distinct(self) -> Schema:
        names = [column.name for column in self.columns]
        if len(set(names)) != len(names):
            raise ValueError("a column name appears twice")
        titles = [(column.about or column.name).casefold() for column in self.columns]
        twice = [one for one in titles if titles.count(one) > 1]
        if twice:
            raise ValueError(f"two columns are called {twice[0]!r}: by about, or by their name")
        pixels = {n for c in self.columns if isinstance(c, ImageColumn) for n in c.pixels}
        if self.label in names or self.label in pixels:
            raise ValueError(f"the label {self.label!r} is also an input column")
        if isinstance(self.outcome, TimeToEvent):
            time = self.outcome.time
            if time == self.label or time in names or time in pixels:
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
