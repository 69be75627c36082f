"""A sequence: the dated events before a record's day, put into a fixed number of steps.

Each step has the same columns. Steps are counted back from the record's day: 1 is the latest. A
step is a period of ``days`` days, whether anything happened in it or not; or a visit, a day on
which something happened. Each column of each step is a column of the schema, ``name_1`` for step 1,
and is checked, encoded and explained like any other. Only sources of events know steps, and
networks over steps (``flo.study.networks``).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, model_validator

from flo.documents.document import Document
from flo.study.columns import CategoryColumn, Column, NumberColumn

MOST_STEPS = 128
LONGEST_DAYS = 36_525  # a century
DAYS_AGO = "days ago"
_LONGEST_NAME, _LONGEST_ABOUT = 80, 80

StepColumn = Annotated[NumberColumn | CategoryColumn, Field(discriminator="kind")]


class Sequence(Document):
    """The steps of a record, and the columns that each has.

    ``step = "period"``: the last ``steps`` periods of ``days`` days, of which period 1 ends with
    the record's day. A value is the last one of its period. ``step = "visit"``: the last ``steps``
    days with an event, of the ``days`` days that end with the record's day; a step then also has
    the column ``days ago``, 0 for the record's own day. All public: neither depends on patients.
    """

    steps: Annotated[int, Field(ge=1, le=MOST_STEPS)]
    step: Literal["period", "visit"]
    days: Annotated[int, Field(ge=1, le=LONGEST_DAYS)]
    columns: Annotated[tuple[StepColumn, ...], Field(min_length=1, max_length=500)]

    @model_validator(mode="after")
    def _may_be_missing(self) -> Sequence:
        for column in self.columns:
            if column.missing != "indicator":
                raise ValueError(
                    f"column {column.name}: a step may be without it; write missing = "
                    '"indicator", and for a number missing_value'
                )
            if len(column.name) > _LONGEST_NAME or len(column.about or "") > _LONGEST_ABOUT:
                raise ValueError(
                    f"column {column.name}: a name of a sequence has at most {_LONGEST_NAME} "
                    f"characters and about at most {_LONGEST_ABOUT}, as each step adds to them"
                )
            if column.changeable_to is not None:
                raise ValueError(
                    f"column {column.name}: changeable_to is for values of today, not of a step"
                )
            if self.step == "visit" and column.name == DAYS_AGO:
                raise ValueError(f"column {column.name}: each visit has a column of this name")
        return self

    @property
    def each(self) -> tuple[NumberColumn | CategoryColumn, ...]:
        """The columns of one step, with ``days ago`` of a visit."""
        if self.step == "period":
            return self.columns
        ago = NumberColumn(
            kind="number",
            name=DAYS_AGO,
            unit="days",
            minimum=0,
            maximum=self.days,
            missing="indicator",
            missing_value=self.days,
        )
        return (*self.columns, ago)

    def spread(self) -> Iterator[NumberColumn | CategoryColumn]:
        """Yield each step's columns, from the oldest step to the latest."""
        for step in range(self.steps, 0, -1):
            for column in self.each:
                when = f", {self.words(step)}"
                title = (column.about or column.name) + when
                yield column.model_copy(update={"name": at(column.name, step), "about": title})

    def of_last(self, columns: tuple[Column, ...]) -> Sequence | None:
        """Return the sequence of so many steps as ``columns`` end with; None if with none."""
        for steps in range(self.steps, 0, -1):
            own = self.model_copy(update={"steps": steps})
            spread = tuple(own.spread())
            if columns[-len(spread) :] == spread:
                return own
        return None

    def words(self, step: int) -> str:
        """Return when a step is, for people."""
        if self.step == "visit":
            before = f"{step - 1} visit{'s' if step > 2 else ''} before the latest"
            return "latest visit" if step == 1 else before
        last = step * self.days - 1
        if self.days == 1:
            return f"{last} days ago" if last else "on the day"
        return f"{last - self.days + 1} to {last} days ago"

    def step_of(self, days_ago: int) -> int | None:
        """Return in which period a day lies, from 1; None if in none, as the day after."""
        step = days_ago // self.days + 1
        return step if 1 <= step <= self.steps else None


def at(name: str, step: int) -> str:
    """Return the name of a step's column."""
    return f"{name}_{step}"
