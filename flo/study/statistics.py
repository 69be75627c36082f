"""Terms of a statistics study: tables and survival curves, answered by one noisy sum.

A statistics study trains no model. Its release counts all patients of each hospital, so both
sub-ledgers are charged. Bins and time intervals are public choices, never learnt from patients.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from flo.documents.document import Document
from flo.study.schema import Bound, CategoryColumn, Column, ColumnName, NumberColumn, Schema
from flo.study.terms import Identifier

MOST_PREDICTORS = 50
ROUNDS = 6  # in which regressions are summed, each at better coefficients
MOST_PARTS, MOST_COLUMNS, MOST_INTERVALS, MOST_CELLS = 20, 100, 100, 20_000
_NEAREST = {  # what people ask for, and the nearest thing that there is
    "crosstab": "table, of one category column and by",
    "histogram": "table, whose numbers have quartiles",
    "quantiles": "table, whose numbers have quartiles",
    "t-test": "table by a group: means with 95 % intervals",
    "anova": "table by a group: means with 95 % intervals",
    "chi-square": "table by a group: proportions with 95 % intervals",
    "cox": "survival by a group, with the log-rank test",
    "competing-risks": "survival, in which those who left for another reason are censored",
    "logistic": 'regression, with family = "logistic"',
    "linear": 'regression, with family = "linear"',
    "poisson": 'regression, with family = "linear"',
    "mixed-effects": "regression, with the group as a category among the predictors",
}
_Share = Annotated[float, Field(ge=0.01, le=100)]


class TableOne(Document):
    """A table of patients by each of ``columns``, within each group of ``by``.

    A category gives counts and proportions, a number its mean, standard deviation and quartiles:
    it is counted in ``bins`` equal ranges of its bounds. One category column and ``by`` are a
    cross-tabulation. ``share``: of the budget, relative to the study's other parts.
    """

    kind: Literal["table"] = "table"
    name: Identifier
    columns: Annotated[tuple[ColumnName, ...], Field(min_length=1, max_length=MOST_COLUMNS)]
    by: ColumnName | None = None
    bins: Annotated[int, Field(ge=2, le=200)] = 40
    share: _Share = 1.0

    @field_validator("columns")
    @classmethod
    def _distinct(cls, columns: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(columns)) != len(columns):
            raise ValueError("a column appears twice")
        return columns


class Survival(Document):
    """A Kaplan-Meier curve for each group of ``by``, and the log-rank test between them.

    ``time``: a number column, until the event or until the patient was last seen. ``event``: the
    label, or a category of two codes whose second one is the event. ``edges``: rising ends of the
    time intervals, in the column's unit. An event at an end belongs to the interval before it; a
    patient who was last seen at an end was there until then.
    """

    kind: Literal["survival"] = "survival"
    name: Identifier
    time: ColumnName
    event: ColumnName
    by: ColumnName | None = None
    edges: Annotated[tuple[Bound, ...], Field(min_length=1, max_length=MOST_INTERVALS)]
    share: _Share = 1.0

    @field_validator("edges")
    @classmethod
    def _rising(cls, edges: tuple[float, ...]) -> tuple[float, ...]:
        if any(one >= other for one, other in pairwise(edges)):
            raise ValueError("edges must rise")
        return edges


class Regression(Document):
    """A logistic or linear regression of ``outcome`` on ``predictors``, with an intercept.

    ``outcome``: of a logistic one the label, or a category of two codes whose second one counts; of
    a linear one a number. A category is compared with its first code. Patients with a missing value
    in any of these columns do not take part.
    """

    kind: Literal["regression"] = "regression"
    name: Identifier
    family: Literal["logistic", "linear"]
    outcome: ColumnName
    predictors: Annotated[tuple[ColumnName, ...], Field(min_length=1, max_length=MOST_PREDICTORS)]
    share: _Share = 1.0

    @field_validator("predictors")
    @classmethod
    def _distinct(cls, predictors: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(predictors)) != len(predictors):
            raise ValueError("a predictor appears twice")
        return predictors


Part = Annotated[TableOne | Survival | Regression, Field(discriminator="kind")]


class Statistics(Document):
    """Parts of a statistics study. ``epsilon``: of all of them together, for one patient."""

    epsilon: Annotated[float, Field(ge=0.01, le=10)]
    parts: Annotated[tuple[Part, ...], Field(min_length=1, max_length=MOST_PARTS)]
    retry_allowance: Annotated[int, Field(ge=0, le=100)] = 0

    @property
    def purposes(self) -> tuple[Literal["statistics", "regression"], ...]:
        """Purposes of the releases: one for tables and curves, then rounds of regressions."""
        kinds = {isinstance(part, Regression) for part in self.parts}
        if kinds == {True}:
            return ("regression",)
        return ("statistics", "regression") if True in kinds else ("statistics",)

    @field_validator("parts", mode="before")
    @classmethod
    def _known(cls, parts: Any) -> Any:
        for part in parts if isinstance(parts, list | tuple) else ():
            kind = part.get("kind") if isinstance(part, dict) else "table"
            if kind not in ("table", "survival", "regression"):
                nearest = _NEAREST.get(str(kind).lower(), "table, survival or regression")
                raise ValueError(f"FLO has no {kind!r}; the nearest that it has: {nearest}")
        return parts

    @model_validator(mode="after")
    def _named_once(self) -> Statistics:
        names = [part.name for part in self.parts]
        if len(set(names)) != len(names):
            raise ValueError("two parts have the same name")
        return self


def check_columns(statistics: Statistics, data: Schema) -> None:
    """Raise ValueError, naming the part, unless its columns exist and are of the right kind."""
    columns = {column.name: column for column in data.columns}
    for part in statistics.parts:
        wanted = () if isinstance(part, Regression) or part.by is None else (part.by,)
        groups = [name for name in wanted if not _is_group(columns, data, name)]
        if groups:
            raise ValueError(
                f"statistics {part.name}: by = {groups[0]!r} is neither the label nor a category "
                "column"
            )
        if isinstance(part, TableOne):
            _check_table(part, columns, data)
        elif isinstance(part, Survival):
            _check_survival(part, columns, data)
        else:
            _check_regression(part, columns, data)


def _is_group(columns: dict[str, Column], data: Schema, name: str) -> bool:
    return name == data.label or isinstance(columns.get(name), CategoryColumn)


def _check_table(part: TableOne, columns: dict[str, Column], data: Schema) -> None:
    for name in part.columns:
        known = name == data.label or isinstance(columns.get(name), NumberColumn | CategoryColumn)
        if not known or name == part.by:
            why = "is what the table is grouped by" if known else "is no number or category column"
            raise ValueError(f"statistics {part.name}: column {name!r} {why}")


def _check_survival(part: Survival, columns: dict[str, Column], data: Schema) -> None:
    time, event = columns.get(part.time), columns.get(part.event)
    if not isinstance(time, NumberColumn) or time.missing != "refuse":
        raise ValueError(
            f"statistics {part.name}: time = {part.time!r} must be a number column that is never "
            "missing"
        )
    if not time.minimum < part.edges[0] or part.edges[-1] > time.maximum:
        raise ValueError(
            f"statistics {part.name}: edges must lie above {time.minimum:g} and up to "
            f"{time.maximum:g}, the bounds of {part.time}"
        )
    two = isinstance(event, CategoryColumn) and len(event.codes) == 2
    if part.event != data.label and not (
        two and isinstance(event, CategoryColumn) and event.missing == "refuse"
    ):
        raise ValueError(
            f"statistics {part.name}: event = {part.event!r} must be the label, or a category of "
            "two codes that is never missing"
        )
    if data.records_per_patient == "many":
        raise ValueError(
            f'statistics {part.name}: a survival curve needs records_per_patient = "one"'
        )


def _check_regression(part: Regression, columns: dict[str, Column], data: Schema) -> None:
    outcome = columns.get(part.outcome)
    if part.family == "linear":
        fits, needed = isinstance(outcome, NumberColumn), "a number column"
    else:
        two = isinstance(outcome, CategoryColumn) and len(outcome.codes) == 2
        fits, needed = part.outcome == data.label or two, "the label, or a category of two codes"
    if not fits:
        raise ValueError(
            f"statistics {part.name}: outcome = {part.outcome!r} of a {part.family} regression "
            f"must be {needed}"
        )
    for name in part.predictors:
        known = isinstance(columns.get(name), NumberColumn | CategoryColumn)
        if not known or name == part.outcome:
            why = "is the outcome" if known else "is no number or category column"
            raise ValueError(f"statistics {part.name}: predictor {name!r} {why}")
    if data.records_per_patient == "many":
        raise ValueError(f'statistics {part.name}: a regression needs records_per_patient = "one"')


def coefficient_names(part: Regression, data: Schema) -> tuple[str, ...]:
    """Return the names of a regression's coefficients, the intercept first."""
    names = ["intercept"]
    for name in part.predictors:
        column = next(one for one in data.columns if one.name == name)
        if isinstance(column, CategoryColumn):
            names += [f"{name} = {code}" for code in column.codes[1:]]
        else:
            names.append(name)
    return tuple(names)


def coefficient_count(statistics: Statistics, data: Schema) -> int:
    """Return how many coefficients all regressions have."""
    parts = [part for part in statistics.parts if isinstance(part, Regression)]
    return sum(len(coefficient_names(part, data)) for part in parts)
