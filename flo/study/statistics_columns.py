"""Whether the columns that a statistics study asks about are in its schema, and fit."""

from __future__ import annotations

from flo.study.columns import CategoryColumn, Column, NumberColumn
from flo.study.schema import Schema
from flo.study.statistics import INTERCEPT, Catalogue, Regression, Statistics, Survival, TableOne


def check_columns(statistics: Statistics, data: Schema) -> None:
    """Raise ValueError, naming the part, unless its columns exist and are of the right kind."""
    columns = {column.name: column for column in data.columns}
    for part in statistics.parts:
        if isinstance(part, TableOne | Survival) and not _is_group(columns, data, part.by):
            raise ValueError(
                f"statistics {part.name}: by = {part.by!r} is neither the label nor a category "
                "column"
            )
        if isinstance(part, TableOne):
            _check_table(part, columns, data)
        elif isinstance(part, Survival):
            _check_survival(part, columns, data)
        elif isinstance(part, Catalogue):
            _check_catalogue(part, columns, data)
        else:
            _check_regression(part, columns, data)


def _is_group(columns: dict[str, Column], data: Schema, name: str | None) -> bool:
    return name in (None, data.label) or isinstance(columns.get(name or ""), CategoryColumn)


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
    elif part.family == "poisson":
        fits = isinstance(outcome, NumberColumn) and outcome.minimum >= 0
        needed = "a number column with a minimum of 0 or more"
    else:
        two = isinstance(outcome, CategoryColumn) and len(outcome.codes) == 2
        fits, needed = part.outcome == data.label or two, "the label, or a category of two codes"
    if not fits:
        raise ValueError(
            f"statistics {part.name}: outcome = {part.outcome!r} of a {part.family} regression "
            f"must be {needed}"
        )
    for name in part.predictors:
        if name == INTERCEPT:
            raise ValueError(f"statistics {part.name}: no predictor can be named {INTERCEPT!r}")
        known = isinstance(columns.get(name), NumberColumn | CategoryColumn)
        if not known or name == part.outcome:
            why = "is the outcome" if known else "is no number or category column"
            raise ValueError(f"statistics {part.name}: predictor {name!r} {why}")
    if data.records_per_patient == "many":
        raise ValueError(f'statistics {part.name}: a regression needs records_per_patient = "one"')


def _check_catalogue(part: Catalogue, columns: dict[str, Column], data: Schema) -> None:
    counted = part.of(data)
    for name in counted:
        if name != data.label and not isinstance(columns.get(name), NumberColumn | CategoryColumn):
            raise ValueError(
                f"statistics {part.name}: column {name!r} is no number or category column"
            )
    for name in {name for pair in part.pairs for name in pair} - set(counted):
        raise ValueError(f"statistics {part.name}: a pair names {name!r}, which is not counted")
    for ranges in part.ranges:
        column = columns.get(ranges.column)
        if not isinstance(column, NumberColumn) or ranges.column not in counted:
            raise ValueError(
                f"statistics {part.name}: ranges of {ranges.column!r}, which is no number column "
                "that is counted"
            )
        if not (column.minimum < ranges.at[0] and ranges.at[-1] < column.maximum):
            raise ValueError(
                f"statistics {part.name}: ranges of {ranges.column} must meet between "
                f"{column.minimum:g} and {column.maximum:g}, its bounds"
            )
