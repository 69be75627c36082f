"""Estimates in words, and statistics as rows of a file; the same for screen, page and CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator
from itertools import product

import numpy as np

from flo.arrays import Floats
from flo.privacy.releases.catalogue import Places
from flo.statistics.catalogue import CatalogueRead
from flo.statistics.estimates import Estimate
from flo.statistics.reading import PartRead
from flo.statistics.regression import RegressionRead
from flo.statistics.survival import SurvivalRead
from flo.statistics.table_one import ColumnRead, GroupRead, TableRead

TOO_FEW = "too few to say"
_HEADER = ("part", "group", "column", "statistic", "item", "value", "low", "high", "readable")
_FORMULA = ("=", "+", "-", "@", "\t")  # a spreadsheet would compute what begins so
Row = tuple[str, str, str, str, str, Estimate]


def count(found: Estimate) -> str:
    """Return a number of patients with its interval."""
    if math.isnan(found.value):
        return TOO_FEW
    if found.low <= 0:
        return f"fewer than {found.high:,.0f}"
    return f"{found.value:,.0f} ({found.low:,.0f} to {found.high:,.0f})"


def share(found: Estimate) -> str:
    """Return a proportion in per cent with its interval."""
    if not found.readable:
        return TOO_FEW
    return f"{100 * found.value:.1f} % ({100 * found.low:.1f} to {100 * found.high:.1f})"


def number(found: Estimate) -> str:
    """Return a value in its unit with its interval."""
    if not found.readable:
        return TOO_FEW
    return f"{found.value:.4g} ({found.low:.4g} to {found.high:.4g})"


def lines_of(column: ColumnRead) -> list[tuple[str, str]]:
    """Return (label, words) of one column in one group."""
    lines = list[tuple[str, str]]()
    if column.mean and column.deviation:
        lines += [("mean", number(column.mean)), ("standard deviation", number(column.deviation))]
        names = ("lower quartile", "median", "upper quartile")
        quartiles = zip(names, column.quartiles, strict=True)
        lines += [(name, number(one)) for name, one in quartiles]
    for code, found in column.counts.items():
        lines.append((code, f"{count(found)}; {share(column.shares[code])}"))
    if column.missing:
        lines.append(("missing", count(column.missing)))
    return lines


def p_value(p: float | None) -> str:
    """Return a p-value in words."""
    if p is None:
        return TOO_FEW
    return f"p = {p:.3f}" if p >= 0.001 else "p < 0.001"


RATIOS = {"logistic": "odds ratio", "poisson": "rate ratio"}


def why_unknown(part: RegressionRead) -> str:
    """Return why a regression has no coefficients, and what would help."""
    if part.unknown == "cut-short":
        return f"{TOO_FEW}: the run ended before the rounds that a {part.family} regression needs"
    if part.unknown == "left":
        return (
            f"{TOO_FEW}: hospitals left during the rounds, so no two rounds had the same patients"
        )
    if part.unknown == "not-arrived":
        return (
            f"{TOO_FEW}: the rounds did not arrive at one answer. Effects may be very strong, or "
            "there is no answer, because a code tells the outcome of all its patients"
        )
    least = f", least of all {' and '.join(part.weakest)}" if part.weakest else ""
    return (
        f"{TOO_FEW}: the noise hides what the predictors say{least}. Rare codes, numbers that "
        "fill a small part of their bounds, and predictors that say the same need more patients: "
        "leave them out, merge codes, or ask with more ε"
    )


def rows(parts: list[PartRead]) -> Iterator[Row]:
    """Yield every estimate: part, group, column, statistic, item, and the estimate."""
    for part in parts:
        if isinstance(part, TableRead):
            yield from _of_table(part)
        elif isinstance(part, SurvivalRead):
            yield from _of_survival(part)
        elif isinstance(part, RegressionRead):
            yield from _of_regression(part)
        else:
            yield from _of_catalogue(part)


def _of_table(part: TableRead) -> Iterator[Row]:
    for group in part.groups:
        yield (part.name, group.name, "", "patients", "", group.patients)
        for column in group.columns:
            yield from _of_column(part, group, column)


def _of_column(part: TableRead, group: GroupRead, column: ColumnRead) -> Iterator[Row]:
    def row(statistic: str, item: str, found: Estimate) -> Row:
        return part.name, group.name, column.name, statistic, item, found

    for code, found in column.counts.items():
        yield row("count", code, found)
        yield row("share", code, column.shares[code])
    if column.missing:
        yield row("missing", "", column.missing)
    if column.mean and column.deviation:
        yield row("mean", "", column.mean)
        yield row("standard deviation", "", column.deviation)
        for item, found in zip(("25 %", "50 %", "75 %"), column.quartiles, strict=True):
            yield row("quantile", item, found)


def _of_survival(part: SurvivalRead) -> Iterator[Row]:
    for curve in part.curves:
        for edge, found in zip(part.edges, curve.survival, strict=True):
            yield part.name, curve.group, part.time, "survival", f"{edge:g}", found
            starts = ["start", *(f"{edge:g}" for edge in part.edges)]
        for start, found in zip(starts, curve.at_risk, strict=True):
            yield part.name, curve.group, part.time, "at risk", start, found
        yield part.name, curve.group, part.time, "events", "", curve.events
        yield part.name, curve.group, part.time, "median", "", curve.median
    if part.log_rank:
        test = part.log_rank
        for name, value in (("log-rank chi2", test.statistic), ("log-rank p", test.p)):
            exact = Estimate(value, value, value)
            yield part.name, "", part.time, name, f"{test.freedom} df", exact


def _of_regression(part: RegressionRead) -> Iterator[Row]:
    yield part.name, "", part.outcome, "patients", "", part.patients
    for one in part.coefficients:
        yield part.name, "", part.outcome, "coefficient", one.name, one.value
        if one.ratio:
            yield part.name, "", part.outcome, RATIOS[part.family], one.name, one.ratio
        if one.p is not None:
            exact = Estimate(one.p, one.p, one.p)
            yield part.name, "", part.outcome, "p", one.name, exact
    if part.wald:
        statistic, freedom, p = part.wald
        for name, value in (("Wald chi2", statistic), ("Wald p", p)):
            exact = Estimate(value, value, value)
            yield part.name, "", part.outcome, name, f"{freedom} df", exact


def _of_catalogue(part: CatalogueRead) -> Iterator[Row]:
    """Yield the counts of every column's cells and of every pair's."""
    yield part.name, "", "", "patients", "", part.patients
    columns = part.block.columns
    for places in [*((n,) for n in range(len(columns))), *part.block.pairs]:
        named = " x ".join(columns[n].name for n in places)
        for cell in product(*(range(columns[n].size) for n in places)):
            item = ", ".join(columns[n].cells[k] for n, k in zip(places, cell, strict=True))
            found = part.counted(places, one_cell(part, places, cell))
            yield part.name, "", named, "count", item, found.patients
            yield part.name, "", named, "share", item, found.share
    for pair in part.block.pairs:
        if (strength := part.associations[pair]) is not None:
            named = " x ".join(columns[n].name for n in pair)
            exact = Estimate(strength, strength, strength)
            yield part.name, "", named, "Cramer's V", "", exact


def one_cell(part: CatalogueRead, places: Places, cell: tuple[int, ...]) -> Floats:
    """Return the mask of one cell of a column or pair."""
    mask = np.zeros([part.block.columns[n].size for n in places])
    mask[cell] = 1.0
    return mask


def as_csv(parts: list[PartRead]) -> str:
    """Return all estimates as the text of a CSV file; what is not readable has no numbers."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_HEADER)
    for *names, found in rows(parts):
        shown = found.readable and not math.isnan(found.value)
        ends = (found.value, found.low, found.high)
        values = [f"{value:.6g}" if shown and math.isfinite(value) else "" for value in ends]
        plain = [f"'{name}" if name.startswith(_FORMULA) else name for name in names]
        writer.writerow([*plain, *values, "yes" if shown else "no"])
    return text.getvalue()
