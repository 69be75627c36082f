"""Terms of a statistics study: tables and survival curves, answered by one noisy sum.

A statistics study trains no model. Its release counts all patients of each hospital, so both
sub-ledgers are charged. Bins and time intervals are public choices, never learnt from patients.
"""

from __future__ import annotations

from itertools import combinations, pairwise
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from flo.documents.document import Document
from flo.study.columns import CategoryColumn, NumberColumn
from flo.study.names import Bound, ColumnName
from flo.study.schema import Schema
from flo.study.terms import Identifier

INTERCEPT = "intercept"
MOST_PREDICTORS, MOST_PAIRS = 50, 5000
ROUNDS = 6  # in which regressions are summed, each at better coefficients
MOST_PARTS, MOST_COLUMNS, MOST_INTERVALS, MOST_CELLS = 20, 100, 100, 20_000
_KINDS = ("table", "survival", "regression", "catalogue")
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
    "poisson": 'regression, with family = "poisson"',
    "negative-binomial": 'regression, with family = "poisson", whose intervals count dispersion',
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
    """A logistic, linear or Poisson regression of ``outcome`` on ``predictors``, with an intercept.

    ``outcome``: of a logistic one the label, or a category of two codes whose second one counts; of
    a linear one a number; of a Poisson one a number of at least 0, which should be well below the
    column's maximum: values are clipped there, and so are expected ones. A category is compared
    with its first code. Patients with a missing value in any of these columns do not take part.
    """

    kind: Literal["regression"] = "regression"
    name: Identifier
    family: Literal["logistic", "linear", "poisson"]
    outcome: ColumnName
    predictors: Annotated[tuple[ColumnName, ...], Field(min_length=1, max_length=MOST_PREDICTORS)]
    share: _Share = 1.0

    @field_validator("predictors")
    @classmethod
    def _distinct(cls, predictors: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(predictors)) != len(predictors):
            raise ValueError("a predictor appears twice")
        return predictors


class Ranges(Document):
    """Where the ranges of a number column meet: each range has its lower end, not its upper one."""

    column: ColumnName
    at: Annotated[tuple[Bound, ...], Field(min_length=1, max_length=MOST_INTERVALS)]

    @field_validator("at")
    @classmethod
    def _rising(cls, at: tuple[float, ...]) -> tuple[float, ...]:
        if any(one >= other for one, other in pairwise(at)):
            raise ValueError("at must rise")
        return at


class Catalogue(Document):
    """Counts of patients by every column and by every pair of columns, for questions later.

    ``columns``: all number and category columns and the label, if left out. ``pairs``: all pairs of
    them, if left out. ``ranges``: of numbers; others have ``bins`` equal ranges of their bounds.
    """

    kind: Literal["catalogue"] = "catalogue"
    name: Identifier
    columns: Annotated[tuple[ColumnName, ...], Field(max_length=MOST_COLUMNS)] = ()
    pairs: Annotated[tuple[tuple[ColumnName, ColumnName], ...], Field(max_length=MOST_PAIRS)] = ()
    ranges: Annotated[tuple[Ranges, ...], Field(max_length=MOST_COLUMNS)] = ()
    bins: Annotated[int, Field(ge=2, le=50)] = 4
    share: _Share = 1.0

    @model_validator(mode="after")
    def _each_once(self) -> Catalogue:
        pairs = [frozenset(pair) for pair in self.pairs]
        ranged = [one.column for one in self.ranges]
        for what, named in (("column", self.columns), ("pair", pairs), ("column's range", ranged)):
            if len(set(named)) != len(named):
                raise ValueError(f"a {what} appears twice")
        if any(len(pair) == 1 for pair in pairs):
            raise ValueError("a pair names one column twice")
        return self

    def of(self, data: Schema) -> tuple[str, ...]:
        """Return the names of the columns that are counted."""
        if self.columns:
            return self.columns
        known = [c.name for c in data.columns if isinstance(c, NumberColumn | CategoryColumn)]
        return (*known, data.label)

    def pairs_of(self, data: Schema) -> tuple[tuple[str, str], ...]:
        """Return the pairs that are counted."""
        return self.pairs or tuple(combinations(self.of(data), 2))


Part = Annotated[TableOne | Survival | Regression | Catalogue, Field(discriminator="kind")]


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
            if kind not in _KINDS:
                nearest = _NEAREST.get(str(kind).lower(), ", ".join(_KINDS))
                raise ValueError(f"FLO has no {kind!r}; the nearest that it has: {nearest}")
        return parts

    @model_validator(mode="after")
    def _named_once(self) -> Statistics:
        names = [part.name for part in self.parts]
        if len(set(names)) != len(names):
            raise ValueError("two parts have the same name")
        return self


def coefficient_names(part: Regression, data: Schema) -> tuple[str, ...]:
    """Return the names of a regression's coefficients, the intercept first."""
    names = [INTERCEPT]
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
