"""The columns that a record may have: numbers within bounds, codes of a codebook, images, notes.

People declare them; nothing about them is learnt from patients.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from flo.documents.document import Document
from flo.study import identifier_patterns
from flo.study.encoders import LARGEST_ENCODED_IMAGE, Encoder, NoteEncoder
from flo.study.names import Bound, Code, ColumnName, Text, Words

LARGEST_IMAGE = 65_536
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
    many scales (``flo.study.scattering``). ``encoder``: if set, they are a frozen network's output
    (``flo.study.encoders``).
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
    encoder: Encoder | None = None

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
        if self.scattering and self.encoder:
            raise ValueError(f"column {self.name}: scattering and encoder; leave one of them out")
        limit = LARGEST_ENCODED_IMAGE if self.encoder else LARGEST_IMAGE
        if self.size > limit:
            raise ValueError(f"column {self.name}: {self.size} pixels, limit {limit}")
        return self

    @property
    def size(self) -> int:
        """How many pixels an image has, in all channels."""
        return self.channels * self.height * self.width

    @property
    def is_raw(self) -> bool:
        """Whether the model's inputs are the pixels themselves."""
        return self.scattering is None and self.encoder is None

    def has_pixel(self, name: str) -> bool:
        """Return whether one of the table's columns has this name."""
        stem, _, number = name.rpartition("_")
        if stem != self.name or not (number.isascii() and number.isdecimal() and len(number) < 8):
            return False
        return number == str(int(number)) and int(number) < self.size

    @property
    def pixels(self) -> tuple[str, ...]:
        """Names of the table's columns."""
        return tuple(f"{self.name}_{i}" for i in range(self.size))


class NoteColumn(Document):
    """Free text of a record, such as a discharge letter: one cell, which may have line breaks.

    The model's inputs are what a frozen encoder makes of it. Whoever reads the study sees no word
    of a note, and no note travels.
    """

    kind: Literal["note"]
    name: ColumnName
    missing: Literal["refuse", "indicator"] = "refuse"
    about: Words | None = None
    encoder: NoteEncoder


CellColumn = NumberColumn | CategoryColumn  # one number or code a record
EncodedColumn = ImageColumn | NoteColumn  # what an encoder may turn into numbers
Column = Annotated[CellColumn | EncodedColumn, Field(discriminator="kind")]


def tells_who(column: Column) -> str | None:
    """Return why no study may have this column: its header or codebook identifies patients.

    None if the column is allowed.
    """
    codes = column.codes if isinstance(column, CategoryColumn) else ()
    return identifier_patterns.of_column(column.name, codes)
